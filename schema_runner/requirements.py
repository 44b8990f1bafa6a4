"""What this package cannot run without, and what is said where it is missing."""

# There is neither fork nor flock.
WINDOWS = (
    "django-schema-runner does not run on Windows. Use WSL, or set "
    'TEST_RUNNER = "django.test.runner.DiscoverRunner" there.'
)
NO_LIBPQ = (
    "psycopg 3 finds no libpq, PostgreSQL's C library. Run pip install 'psycopg[binary]', or "
    "install libpq (on Debian libpq5)."
)


def lacks_libpq(error: BaseException) -> bool:
    """Whether psycopg, which something could not do without, was the first to miss its library.

    Django then tries psycopg2, and where that is missing too, says that it found neither.
    """
    found: BaseException | None = error
    while found and "no pq wrapper" not in str(found):
        found = found.__cause__ or found.__context__
    return found is not None
