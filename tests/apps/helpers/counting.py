"""A migration and a seeder that count their runs and create an author each."""

from typing import Any

from django.apps import apps as installed

from . import FOLDER, times, wait_for


def migrate(apps: Any, editor: Any) -> None:
    """Read the author's name from `data.txt`; if `waits` exists, wait for `go`."""
    times("migrated")
    if (FOLDER / "waits").exists():
        (FOLDER / "building").touch()
        wait_for("go")
    data = FOLDER / "data.txt"
    name = data.read_text() if data.exists() else "of a migration"
    apps.get_model("library", "Author").objects.using(editor.connection.alias).create(name=name)


def seed(using: str, name: str = "of a seeder") -> None:
    times("seeded")
    _authors(using).create(name=name)


def seed_again(using: str) -> None:
    """Like `seed`, if its row may exist already."""
    times("seeded")
    _authors(using).get_or_create(name="of a seeder")


def _authors(using: str) -> Any:
    model: Any = installed.get_app_config("library").get_model("Author")
    return model.objects.using(using)
