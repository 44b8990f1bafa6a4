"""Whatever Django's own migration operations create is copied, and the proof accepts the copy."""

from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any, TypeAlias

import django
import pytest
from django.contrib.postgres import fields as pg
from django.contrib.postgres import indexes as pgi
from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.operations import CreateCollation
from django.core.exceptions import FieldError, ValidationError
from django.db import (
    DataError,
    IntegrityError,
    InternalError,
    NotSupportedError,
    ProgrammingError,
    connections,
    models,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import operations as ops
from django.db.migrations.state import ProjectState
from django.db.models import F, Q, Value
from django.db.models.functions import Length, Lower
from hypothesis import given, note, settings
from hypothesis import strategies as st

from schema_runner.postgres import move, schemas
from schema_runner.postgres.names import Marker, MarkerState
from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.server import Connection, Server
from schema_runner.postgres.template import Template, TemplateContents

from ..project import connect
from .test_properties import RUN, exploring

APP = "library"
EXTENSIONS = ["hstore", "btree_gist", "pg_trgm", "citext"]
# Each takes a model of the state that it may refer to.
FIELDS = [
    lambda _: models.CharField(max_length=9, null=True, db_index=True),
    lambda _: models.CharField(max_length=9, default="x", db_default=Value("x")),
    lambda _: models.CharField(max_length=9, null=True, unique=True, db_comment="A 'comment'"),
    lambda _: models.TextField(null=True, db_index=True, db_collation="C"),
    lambda _: models.SlugField(null=True),
    lambda _: models.PositiveIntegerField(null=True),
    lambda _: models.IntegerField(default=7, db_default=7, db_index=True),
    lambda _: models.DecimalField(max_digits=7, decimal_places=2, null=True),
    lambda _: models.DateTimeField(null=True, db_index=True),
    lambda _: models.DurationField(null=True),
    lambda _: models.JSONField(null=True, db_default=Value({}, models.JSONField())),
    lambda _: models.GenericIPAddressField(null=True),
    lambda _: models.UUIDField(null=True, unique=True),
    lambda _: models.BinaryField(null=True),
    lambda _: pg.ArrayField(models.CharField(max_length=5), null=True),
    lambda _: pg.ArrayField(pg.ArrayField(models.IntegerField()), null=True, db_index=True),
    lambda _: pg.ArrayField(models.IntegerField(), size=3, db_default=Value([1, 2])),
    lambda _: pg.HStoreField(null=True),
    lambda _: pg.IntegerRangeField(null=True),
    lambda _: models.GeneratedField(
        expression=F("id") + 1, output_field=models.BigIntegerField(), db_persist=True
    ),
    lambda model: models.ForeignKey(model, models.CASCADE, null=True, related_name="+"),
    lambda model: models.OneToOneField(model, models.SET_NULL, null=True, related_name="+"),
    lambda model: models.ManyToManyField(model, related_name="+"),
]
# Conditions on a field, some of which match its type.
CONDITIONS = [
    lambda name: Q(**{f"{name}__in": ["a", "it's, b)"]}),
    lambda name: Q(**{f"{name}__in": ["a", None]}) | Q(**{f"{name}__isnull": True}),
    lambda name: ~Q(**{f"{name}__in": ["x]", "(", ""]}),
    lambda name: Q(**{f"{name}__in": [1, 2]}) & Q(**{f"{name}__gt": -3}),
    lambda name: Q(**{f"{name}__startswith": "a%"}) | Q(**{f"{name}__regex": "^a"}),
    lambda name: Q(**{f"{name}__overlap": ["a", "b"]}),
    lambda name: Q(**{f"{name}__contained_by": [1, 2]}),
    lambda name: Q(**{f"{name}__year": 2020}),
    lambda name: Q(**{f"{name}__has_key": "k"}) | Q(**{f"{name}__k": "v"}),
    lambda name: Q(**{f"{name}__range": (1, 5)}) & ~Q(**{name: 3}),
    lambda name: Q(**{f"{name}__lte": F("id")}),
]
INDEXES = [
    lambda name, _, label: models.Index(fields=[name, "-id"], name=label),
    lambda name, _, label: models.Index(Lower(name), Length(name).desc(), name=label),
    lambda name, q, label: models.Index(fields=["id"], condition=q(name), include=[name],
                                        name=label),
    lambda name, _, label: models.Index(fields=[name], opclasses=["varchar_pattern_ops"],
                                        name=label),
    lambda name, _, label: pgi.GinIndex(fields=[name], fastupdate=False, name=label),
    lambda name, _, label: pgi.BrinIndex(fields=[name], autosummarize=True, name=label),
    lambda name, q, label: pgi.HashIndex(fields=[name], condition=q(name), name=label),
]  # fmt: skip
CONSTRAINTS = [
    lambda name, q, label: models.CheckConstraint(condition=q(name), name=label),
    lambda name, q, label: models.UniqueConstraint("id", condition=q(name), name=label),
    lambda name, _, label: models.UniqueConstraint(fields=["id", name], name=label,
                                                   deferrable=models.Deferrable.DEFERRED),
    lambda name, _, label: models.UniqueConstraint(Lower(name), name=label),
    lambda name, q, label: ExclusionConstraint(
        expressions=[("id", "="), (name, "&&")], condition=q("id"), name=label),
]  # fmt: skip
STATEMENTS = [
    "ALTER TABLE {table} RENAME {column} TO {new}; ALTER TABLE {table} RENAME {new} TO {column}",
    "ALTER TABLE {table} RENAME {column} TO {new}",
    "ALTER TABLE {table} ADD CHECK ({column} IN ('a', NULL) OR {column} NOT IN ('b', lower('C')))",
    "CREATE VIEW {new} AS SELECT id, {column} AS c FROM {table} WHERE {column} IN ('a', 'b')",
    "CREATE DOMAIN {new} AS int[][]; ALTER TABLE {table} ADD {new} {new}",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT INSERT ON TABLES TO PUBLIC",
    "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    "CREATE FUNCTION {new}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
    " CREATE TRIGGER {new} BEFORE UPDATE ON {table} FOR EACH ROW"
    " WHEN (NEW.{column} IN ('a', 'b')) EXECUTE FUNCTION {new}()",
    "CREATE POLICY {new} ON {table} USING ({column} IN ('a', NULL))",
    "INSERT INTO {table} DEFAULT VALUES",
]


def of(choices: Any, seed: int) -> Any:
    if not choices:
        raise LookupError("nothing to choose from")
    return list(choices)[seed % len(choices)]


class Picked:
    """The arguments of an operation: a model of the state, one of its fields, and a new name."""

    def __init__(self, state: ProjectState, seeds: tuple[int, ...], new: str) -> None:
        models_ = [model for (app, _), model in state.models.items() if app == APP]
        self.seeds, self.new = seeds, new
        self.model = of(models_, seeds[0])
        self.name = self.model.name
        self.field = of([name for name in self.model.fields if name != "id"], seeds[1])
        self.target = f"{APP}.{of(models_, seeds[3]).name}"
        self.condition = of(CONDITIONS, seeds[2])
        self.state = state

    def made(self) -> Any:
        return of(FIELDS, self.seeds[2])(self.target)

    def index(self) -> models.Index:
        return of(INDEXES, self.seeds[3])(self.field, self.condition, f"{self.new}_index")

    def constraint(self) -> models.BaseConstraint:
        return of(CONSTRAINTS, self.seeds[3])(self.field, self.condition, f"{self.new}_constraint")

    def old(self, what: str) -> str:
        return of(self.model.options[what], self.seeds[2]).name

    def statement(self) -> str:
        meta = self.state.apps.get_model(APP, self.name)._meta
        column = meta.get_field(self.field).column or "id"
        names = {"table": meta.db_table, "column": column, "new": self.new}
        quoted = {key: f'"{name}"' for key, name in names.items()}
        return of(STATEMENTS, self.seeds[2]).format(**quoted)


OPERATIONS = {
    "delete": lambda p: ops.DeleteModel(p.name),
    "rename model": lambda p: ops.RenameModel(p.name, p.new.capitalize()),
    "table": lambda p: ops.AlterModelTable(p.name, f"Table {p.new}"),
    "add": lambda p: ops.AddField(p.name, p.new, p.made()),
    "remove": lambda p: ops.RemoveField(p.name, p.field),
    "alter": lambda p: ops.AlterField(p.name, p.field, p.made()),
    "rename field": lambda p: ops.RenameField(p.name, p.field, f"{p.new}_renamed"),
    "index": lambda p: ops.AddIndex(p.name, p.index()),
    "rename index": lambda p: ops.RenameIndex(p.name, f"{p.new}_i", old_name=p.old("indexes")),
    "remove index": lambda p: ops.RemoveIndex(p.name, p.old("indexes")),
    "constraint": lambda p: ops.AddConstraint(p.name, p.constraint()),
    "remove constraint": lambda p: ops.RemoveConstraint(p.name, p.old("constraints")),
    "collation": lambda p: CreateCollation(f"{p.new}_collation", "C"),
    "run": lambda p: ops.RunSQL(p.statement()),
}
OFTEN = ["create", "add", "alter", "rename field", "index", "constraint", "run", "run"]
# Operations that do not fit a field or a model fail, in the test, in Django or on the server.
UNFIT = (
    *(AttributeError, FieldError, LookupError, TypeError, ValidationError, ValueError),
    *(DataError, IntegrityError, InternalError, NotSupportedError, ProgrammingError),
)
Example: TypeAlias = list[tuple[str, tuple[int, ...]]]
EXAMPLE = st.lists(
    st.tuples(
        st.sampled_from([*OPERATIONS, *OFTEN]),
        st.lists(st.integers(0, 99), min_size=4, max_size=4),
    ),
    min_size=4,
    max_size=25,
)


def create(seeds: tuple[int, ...], new: str) -> ops.CreateModel:
    own = [(f"{new}_{n}", of(FIELDS, seed)(f"{APP}.{new}")) for n, seed in enumerate(seeds)]
    options = {"db_table_comment": "A table"} if seeds[1] % 2 else {}
    return ops.CreateModel(new, [("id", models.BigAutoField(primary_key=True)), *own], options)


def migrate(connection: BaseDatabaseWrapper, example: Example) -> int:
    """Apply all operations that succeed; return their number."""
    state, done = ProjectState(), 0
    for number, (kind, seeds) in enumerate([("create", (0, 1, 2, 3)), *example]):
        before, new = state.clone(), f"n{number}"
        with suppress(*UNFIT):
            made = (
                create(seeds, new)
                if kind == "create"
                else OPERATIONS[kind](Picked(before, seeds, new))
            )
            after = before.clone()
            made.state_forwards(APP, after)
            with connection.schema_editor(atomic=True) as editor:
                made.database_forwards(APP, editor, before, after)
            note(f"{made!r:.300}")
            state, done = after, done + 1
    return done


@pytest.fixture(scope="module")
def django_connection(server: Server, module_database: str) -> Iterator[BaseDatabaseWrapper]:
    """Django's own connection to a database with some extensions."""
    django.setup()
    with connect(server, module_database) as connection:
        connection.execute("".join(f"CREATE EXTENSION {name};" for name in EXTENSIONS))
    where = server.params
    settings_dict = connections["default"].settings_dict | {
        "NAME": module_database, "USER": where["user"], "HOST": where["host"],
        "PORT": where.get("port", ""), "PASSWORD": where.get("password", ""),
    }  # fmt: skip
    before = connections["default"]
    # An atomic block looks its connection up.
    connections["default"] = connection = type(before)(settings_dict, alias="default")
    yield connection
    connection.close()
    connections["default"] = before


@settings(exploring, max_examples=25)
@given(example=EXAMPLE)
def test_migrated_schemas_are_copied(
    server: Server,
    django_connection: BaseDatabaseWrapper,
    example: Example,
) -> None:
    """After the build, the move and the dump, the copy passes the proof."""
    host = django_connection.settings_dict["NAME"]
    with connect(server, host) as connection:
        try:
            assert migrate(django_connection, example)
            model, copy = (schemas.create(connection, worker, RUN) for worker in (1, 2))
            assert move.move(connection, "public", model, batch=20) == []
            move.copy_grants(connection, "public", model)
            program = PgDump.find(connection.info.server_version)
            with closing(program.start(server, host, model)) as dump:
                contents = TemplateContents.read(connection, model, dump, ["public"])
            template = Template.create(
                connection, contents, Marker(RUN, MarkerState.READY), ["public"]
            )
            template.copy(connection, copy, batch=20)
            template.verify(connection, copy, lambda: program.start(server, host, copy))
        finally:
            clean(connection)


def clean(connection: Connection) -> None:
    connection.execute("RESET search_path")
    schemas.drop_remaining(connection, RUN, batch=100)
    connection.execute(
        "ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM pg_monitor;"
        "ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;"
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM PUBLIC"
    )
    left = move.list_objects(connection, "public")
    for found in left:
        connection.execute(f"DROP {found.kind} IF EXISTS {found.identity} CASCADE")
