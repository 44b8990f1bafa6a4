"""What models put into a database: rows about themselves and, without migrations, tables."""

from collections.abc import Collection, Iterator
from typing import Any, NoReturn

from django.apps import AppConfig, apps
from django.db import connections

from .hashing import render


def model_texts(
    alias: str, *, unmigrated: Collection[str], server_version: int
) -> Iterator[tuple[str, str]]:
    """Yield the label of each app that has models, and their text.

    Keep the order of models, because it determines the primary keys of content types.

    `unmigrated`: labels of the apps whose tables are created from the models.
    """
    for app in apps.get_app_configs():
        if rows := [_row_options(model._meta) for model in app.get_models()]:
            tables = _ddl(alias, app, server_version) if app.label in unmigrated else []
            yield app.label, "\n".join([render(rows), *tables])


def _row_options(meta: Any) -> list[Any]:
    """Return the options from which Django creates content types and permissions."""
    permissions = [meta.default_permissions, meta.permissions]
    return [meta.model_name, meta.proxy, meta.verbose_name, *permissions]


class _RecordingEditor:
    """A mixin for schema editors that collects the SQL, for which it needs no connection."""

    collected_sql: list[str]

    def execute(self, sql: object, params: object = ()) -> None:
        self.collected_sql.append(f"{sql} {render(params)}")

    def quote_value(self, value: object) -> str:
        return render(value)


def _ddl(alias: str, app: AppConfig, server_version: int) -> list[str]:
    """Return the statements that create the tables of an app's models."""
    connection: Any = connections[alias].copy()
    # Some SQL depends on the version. The test database need not exist yet.
    connection.pg_version = server_version
    connection.connect = _refuse
    editor_class = type("RecordingEditor", (_RecordingEditor, connection.SchemaEditorClass), {})
    editor = editor_class(connection, collect_sql=True, atomic=False)
    editor.deferred_sql = []
    try:
        for model in app.get_models():
            if model._meta.can_migrate(connection):
                editor.create_model(model)
    except Exception as error:
        # A field of the project may need a connection. The build records its source.
        editor.collected_sql.append(type(error).__name__)
    return [*editor.collected_sql, *map(str, editor.deferred_sql)]


def _refuse() -> NoReturn:
    raise NotImplementedError("the fingerprint does not connect")
