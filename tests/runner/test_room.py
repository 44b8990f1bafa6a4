"""How many workers a server has connections for, asked before a run begins."""

import json
import os
import subprocess
import sys

from ..project import Project
from .test_roles import roles

CODE = """
import json
import sys
import django

django.setup()
from schema_runner.scheduling import worker_count
from schema_runner.scheduling.worker_count import workers_by_connections

found = {aliases: workers_by_connections(aliases.split()) for aliases in sys.argv[1:]}
looks, look = [], worker_count.connections_left
worker_count.connections_left = lambda *where: looks.append(where) or look(*where)
workers_by_connections(["default"], wanted=99)
print(json.dumps([found, len(looks)]))
"""
# Of sixteen, one is for what asks and four are kept for the run, which leaves eleven. `second`
# has the same database as `default`, as has what only mirrors it.
ALIASES = """
    default = {{**DATABASES["default"], "USER": "{name}_sixteen"}}
    DATABASES = {{
        "default": default,
        "second": dict(default),
        "mirror": {{**default, "NAME": "x", "TEST": {{"MIRROR": "default"}}}},
        "other": {{**default, "NAME": "y"}},
        "few": {{**default, "NAME": "y", "USER": "{name}_nine"}},
        "used": {{**default, "USER": "{name}_two"}},
        "lite": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        "none": {{}},
        "down": {{**default, "HOST": "127.0.0.1", "PORT": "1"}},
        "missing": {{**default, "USER": "missing_role"}},
    }}
"""
EXPECTED = {
    # A worker needs two for each database, not for each alias.
    **dict.fromkeys(["default", "default second mirror", "mirror", "default lite down"], 5),
    "default other": 2,
    # Each role has its own connections, and the least counts.
    "default few": 2,
    # What others use is not left, and never less than none.
    "used": 0,
    # Nothing is known without PostgreSQL, and where the server or the role is not there.
    **dict.fromkeys(["", "lite none", "down", "missing", "down missing"]),
}


def test_workers_by_connections(project: Project) -> None:
    """As a process is told that has only set Django up; what none closes is not waited for."""
    limits = {"sixteen": 16, "nine": 9, "two": 2}
    options = {name: f"CREATEDB CONNECTION LIMIT {n}" for name, n in limits.items()}
    project.configure(ALIASES.format(name=project.name))
    command = [sys.executable, "-W", "error", "-c", CODE, *EXPECTED]
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "settings"}
    with roles(project, **{f"{project.name}_{name}": option for name, option in options.items()}):
        found = subprocess.check_output(command, cwd=project.folder, env=env)
    rooms, looks = json.loads(found)
    assert rooms == EXPECTED
    # Connections of before may be on their way out.
    assert looks < 10
