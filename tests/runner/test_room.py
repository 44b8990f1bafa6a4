"""How many workers a server has connections for, asked before a run begins."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ..project import Project
from .test_roles import roles

CODE = """
import sys
import django

django.setup()
from schema_runner.backend.room import workers_by_connections

print(workers_by_connections(sys.argv[1:]))
"""
# One is for whoever asks and four are kept for the run, which leaves eleven.
LIMIT = 16
# `second` has the same database as `default`, as has what only mirrors it.
ALIASES = """
    DATABASES |= {
        "second": dict(DATABASES["default"]),
        "mirror": {**DATABASES["default"], "NAME": "x", "TEST": {"MIRROR": "default"}},
        "other": {**DATABASES["default"], "NAME": "y"},
        "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        "none": {},
        "down": {**DATABASES["default"], "HOST": "127.0.0.1", "PORT": "1"},
        "nobody": {**DATABASES["default"], "USER": "nobody_at_all"},
    }
"""


@pytest.fixture
def limited(project: Project) -> Iterator[Project]:
    """A project with several aliases, whose role may have sixteen connections."""
    owner = f"{project.name}_owner"
    with roles(project, **{owner: f"CREATEDB CONNECTION LIMIT {LIMIT}"}):
        project.configure(f'DATABASES["default"]["USER"] = {owner!r}')
        project.configure(ALIASES)
        yield project


def ask(project: Project, *aliases: str) -> str:
    """Return what a process says that has only set Django up."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE, *aliases],
        check=False,
        cwd=project.folder,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "settings"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("aliases", "workers"),
    [
        ("default", 5),
        ("default second mirror", 5),
        ("mirror", 5),
        ("default other", 2),
        ("default lite down", 5),
    ],
)
def test_a_worker_needs_two_for_each_database(
    limited: Project, aliases: str, workers: int
) -> None:
    """However many aliases a database has."""
    assert ask(limited, *aliases.split()) == str(workers)


@pytest.mark.parametrize("aliases", ["", "lite none", "down", "nobody", "down nobody"])
def test_nobody_knows(limited: Project, aliases: str) -> None:
    """Without PostgreSQL, and where the server or the role is not there."""
    assert ask(limited, *aliases.split()) == "None"


def test_the_least_of_several_servers_counts(limited: Project) -> None:
    """Each role has its own connections."""
    with roles(limited, **{f"{limited.name}_few": "CONNECTION LIMIT 9"}):
        limited.configure(f'DATABASES["other"]["USER"] = "{limited.name}_few"')
        assert ask(limited, "default", "other") == "2"
        assert ask(limited, "default") == "5"


def test_what_others_use_is_not_left(limited: Project) -> None:
    """And never less than none."""
    owner = f"{limited.name}_owner"
    with limited.maintenance() as connection:
        connection.execute(f"ALTER ROLE {owner} CONNECTION LIMIT 2")
    assert ask(limited, "default") == "0"
