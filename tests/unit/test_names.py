from schema_runner import names


def test_worker_schema_has_the_documented_form() -> None:
    """test_w{worker}_{milliseconds}, as users see it in psql."""
    assert names.worker_schema(3, 1765198600442) == "test_w3_1765198600442"


def test_own_names_are_recognised_and_others_are_not() -> None:
    """Only the exact form counts, so that no schema of a user is taken for ours."""
    assert names.is_worker_schema(names.worker_schema(12, 1))
    for other in (
        "public",
        "test_w0_1",
        "test_w1_",
        "test_w1_1_more",
        "a_test_w1_1",
        "test_w1_1\n",
    ):
        assert not names.is_worker_schema(other)


def test_application_name_fits_the_limit_of_postgresql() -> None:
    """PostgreSQL cuts names at 63 bytes; a cut one would not be found again."""
    assert len(names.application(2**62)) <= 63


def test_a_run_is_known_by_its_application_name() -> None:
    """And no other application is taken for one."""
    assert names.run_of_application(names.application(4711)) == 4711
    for other in ("", "psql", "django-schema-runner", "django-schema-runner x", "my 4711"):
        assert names.run_of_application(other) is None
