"""Run Django's migrations, and load the reference data, in the database that a build fills."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import django

from ..alias_connection import AliasConnection
from ..errors import advice, listing
from ..postgres.server import Connection
from ..settings import Settings
from .extensions import Execute, extension_drop, text_of

if TYPE_CHECKING:
    from ..postgres.host_request import Log
    from .write_guard import WriteGuard

_APPLIED = 'INSERT INTO "django_migrations"'
# An object as pg_identify_object describes it: its type, and its name as group 1.
_OBJECT = (
    r"(?:[a-z]+[ -])*(?:schema|table|view|index|sequence|function|procedure|trigger|type|domain"
    r"|publication|server|wrapper|language|rule|policy|constraint|collation|aggregate)"
    r' (?:(?:"[^"]+"|[\w$]+)\.)*("[^"]+"|[\w$]+)'
)


class DatabaseTarget(Protocol):
    """The database that a build fills: that of the run, of a worker, or of a class."""

    @property
    def name(self) -> str: ...

    def create_database(self, verbosity: int, autoclobber: bool) -> str:
        """Create the database for Django's `create_test_db`, which migrates afterwards."""
        ...

    def connect(self) -> Connection:
        """Open a psycopg connection to the database, outside of Django's connections."""
        ...


class Migrator:
    """Migrates the database of a target, with the hooks of one creation object.

    `stock`: Django's own hooks of that object, as `super()` returns them.
    `target`: the database that these hooks create; None for stock Django's.
    """

    def __init__(self, stock: Any, connection: AliasConnection, settings: Settings) -> None:
        self.stock = stock
        self.target: DatabaseTarget | None = None
        self._connection = connection
        self._settings = settings
        # Recorded during the first build.
        self._origins: MigrationOrigins | None = None

    def migrate(self) -> None:
        """Run a build silently, because the first one has printed the migrations' output."""
        # Django 5.2 serializes by default; later versions deprecate the argument.
        serialize = {"serialize": False} if django.VERSION < (6, 0) else {}
        self.stock.create_test_db(verbosity=0, autoclobber=True, **serialize)

    @contextmanager
    def watching(self, guard: "WriteGuard | None", dropped: list[str]) -> Iterator[None]:
        """Observe the statements of the first build, and add drops of extensions to `dropped`.

        `guard`: refuses statements in the project's own database; None in a test database.
        """

        def watch(execute: Any, statement: Any, params: Any, many: bool, context: Any) -> Any:
            if text := extension_drop(statement):
                dropped.append(text)
            return execute(statement, params, many, context)

        self._origins = MigrationOrigins()
        wrapper = self._connection.wrapper
        with (
            wrapper.execute_wrapper(self._origins),
            wrapper.execute_wrapper(watch),
            self.guarded(guard),
        ):
            yield

    @contextmanager
    def guarded(self, guard: "WriteGuard | None") -> Iterator[None]:
        with ExitStack() as stack:
            if guard is not None:
                assert self.target is not None
                observer = stack.enter_context(self.target.connect())
                stack.enter_context(guard.applied_to(self._connection.wrapper, observer))
            yield

    def migrations_guard(self, log: "Log") -> "WriteGuard":
        """Return the guard of migrations in the project's own database."""
        from .write_guard import WriteGuard

        if not self.has_migrations:
            return WriteGuard()
        return WriteGuard.for_migrations(self._settings.trusted_migrations, log)

    @property
    def has_migrations(self) -> bool:
        return self._connection.wrapper.settings_dict["TEST"]["MIGRATE"] is not False

    def load_reference(self) -> int | None:
        """Load FIXTURES and SEEDERS; return the transaction before them, or None without any."""
        if not (self._settings.fixtures or self._settings.seeders):
            return None
        from .. import fixtures
        from .write_guard import WriteGuard

        schema = self._connection.current_schema() or "public"
        guard = WriteGuard.for_reference_data() if self._settings.is_current else None
        with self.guarded(guard):
            return fixtures.load_reference_data(
                self._connection.wrapper, self._settings, schema=schema
            )

    def needs_copies(self, since: int | None) -> bool:
        """Whether resets restore reference data, so that copies of it are needed.

        `since`: what `load_reference` returned.
        """
        if self._connection.backend_sets_path:
            return False
        keeps_some = self._settings.reset == "selective" and since is not None
        return keeps_some or self._settings.reset == "reference"

    def list_with_migrations(self, objects: Sequence[str]) -> str:
        """List objects, with the migrations of the first build that created them, if known."""
        return self._origins.listing(objects) if self._origins else listing(objects)

    def databases_message(self, reason: str) -> str:
        """Return the line for the log if workers use clone databases because of `reason`."""
        return (
            f"All workers but the first use clone databases for alias '{self._connection.alias}', "
            f"because {reason}. Fix that, or use {advice().isolation_database}."
        )


class MigrationOrigins:
    """Execute wrapper that records which migration executed which statements.

    A migration ends when Django inserts its row into `django_migrations`.
    """

    def __init__(self) -> None:
        self._migrations: list[tuple[str, list[str]]] = []
        self._pending: list[str] = []

    def __call__(
        self, execute: Execute, statement: Any, params: Any, many: bool, context: Any
    ) -> Any:
        if isinstance(statement, str) and statement.startswith(_APPLIED):
            self._migrations.append((".".join(params[:2]), self._pending))
            self._pending = []
        elif text := text_of(statement):
            self._pending.append(text)
        return execute(statement, params, many, context)

    def listing(self, objects: Sequence[str]) -> str:
        """List objects, the first three with the migration that created them, if known."""
        shown = [self._with_migration(name) for name in objects[:3]]
        return listing([*shown, *objects[3:]])

    def _with_migration(self, description: str) -> str:
        match = re.match(_OBJECT, description)
        name = re.escape(match[1].strip('"') if match else description)
        mention = re.compile(rf"(?<![\w$]){name}(?![\w$])")
        for migration, texts in self._migrations:
            if any(mention.search(" ".join(text.split())) for text in texts):
                return f"{description} (migration {migration})"
        return description
