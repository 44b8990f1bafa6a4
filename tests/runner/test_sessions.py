"""Sessions of several processes, none of which descends from another, without a test runner."""

import signal
from collections.abc import Iterator

import pytest

from ..project import Process, Project, wait_for
from .test_keepdb import TEST_ONLY, drop_databases, finish
from .test_template import fail_copies

NUMBERS = range(1, 5)
# What a front end does, such as a plugin for pytest in each process of pytest-xdist.
SCRIPT = """
    import os
    import sys

    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    import django
    django.setup()

    from django.test.utils import setup_databases, teardown_databases
    from helpers import meet, query, record, wait_for
    from library.models import Author
    from schema_runner.database.context import RunContext
    from schema_runner.errors import Advice
    from schema_runner.postgres.host_request import Sharing
    from schema_runner.session import Session
    from schema_runner.settings import Settings

    number, stays = int(sys.argv[1]), sys.argv[2] == "stays"
    sharing = Sharing(stays, int(os.environ.get("NOT_BEFORE", "0")))
    salt = os.environ.get("SALT", "")
    advice = Advice(host_current=os.environ.get("HOST_CURRENT", ""))
    context = RunContext(
        Settings.read(), print, number, sharing=sharing, salt=salt, advice=advice
    )
    session = Session(context)
    session.begin()
    old = setup_databases(verbosity=1, interactive=False)
    session.ready()
    names = sorted(Author.objects.values_list("name", flat=True))
    ((database, schema),) = query("SELECT current_database(), current_schema()")
    record("is ready", names=names, database=database, used=schema)
    meet("ready")
    Author.objects.all().delete()
    if number == int(os.environ.get("LAST", "0")):
        wait_for("go")
        record("is left", count=Author.objects.count())
    teardown_databases(old, verbosity=1, keepdb=stays)
    session.end()
"""


@pytest.fixture
def shared(counted: Project) -> Iterator[Project]:
    """A project that counts its migrations, with a script that sets up its databases."""
    counted.write("session.py", SCRIPT)
    yield counted
    counted.end()
    drop_databases(counted)


def start(project: Project, number: int, sharing: str = "goes", **env: str) -> Process:
    env = {"MEET": str(len(NUMBERS)), **env}
    return project.shell(f"exec python session.py {number} {sharing}", **env)


def count(project: Project, name: str) -> int:
    path = project.folder / name
    return len(path.read_text()) if path.exists() else 0


def check(project: Project, numbers: set[int]) -> None:
    """Check that each process had its own schema of one database, with the reference data."""
    found = project.records("is ready")
    assert {line["worker"] for line in found} == numbers
    assert len({line["database"] for line in found}) == 1
    assert len({line["used"] for line in found}) == len(found)
    assert all(line["used"] == line["schema"] for line in found)
    assert all(line["used"].startswith(f"test_w{line['worker']}_") for line in found)
    assert all(line["names"] == ["of a migration", "of a seeder"] for line in found)


def test_processes_share_one_build(shared: Project) -> None:
    """The first one builds, the others copy, and the last one to leave drops the database."""
    processes = [start(shared, number, LAST="3") for number in NUMBERS]
    wait_for(lambda: len(shared.records("is ready")) == len(NUMBERS), "all sessions")
    check(shared, {*NUMBERS})
    for number, process in zip(NUMBERS, processes, strict=True):
        if number != 3:
            finish(process)
    # The tables of the one that stays are still there.
    (shared.folder / "go").touch()
    finish(processes[2])
    assert [line["count"] for line in shared.records("is left")] == [0]
    assert count(shared, "migrated") == count(shared, "seeded") == 1


@TEST_ONLY
@pytest.mark.parametrize("during", ["build", "tests"])
def test_a_process_is_killed(shared: Project, during: str) -> None:
    """If the builder is killed, another one builds. Others do not notice a killed process."""
    if during == "build":
        (shared.folder / "waits").touch()
        builder = start(shared, 1)
        wait_for((shared.folder / "building").exists, "the build")
        others = [start(shared, number, MEET="3") for number in NUMBERS[1:]]
        builder.send_signal(signal.SIGKILL)
        builder.communicate()
        (shared.folder / "go").touch()
    else:
        killed = start(shared, 1, LAST="1")
        others = [start(shared, number, LAST="4") for number in NUMBERS[1:]]
        wait_for(lambda: len(shared.records("is ready")) == len(NUMBERS), "all sessions")
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        (shared.folder / "go").touch()
    for process in others:
        finish(process)
    check(shared, {2, 3, 4} if during == "build" else {*NUMBERS})
    assert count(shared, "migrated") == (2 if during == "build" else 1)


def test_what_stays_is_used_again(shared: Project) -> None:
    """As with --keepdb: later processes lease the schemas, unless those are too old for them."""
    for _ in range(2):
        shared.forget()
        for path in shared.folder.glob("met-*"):
            path.unlink()
        for process in [start(shared, number, "stays") for number in NUMBERS]:
            finish(process)
        check(shared, {*NUMBERS})
    assert count(shared, "migrated") == 1
    alone = {"MEET": "1", "NOT_BEFORE": str(2**53)}
    finish(start(shared, 1, "stays", **alone))
    assert count(shared, "migrated") == 2


@TEST_ONLY
def test_sessions_with_different_salts(shared: Project) -> None:
    """They share nothing."""
    processes = [start(shared, number, SALT=str(number), MEET="2") for number in (1, 2)]
    for process in processes:
        finish(process)
    assert len({line["database"] for line in shared.records("is ready")}) == 2
    assert count(shared, "migrated") == 2


@TEST_ONLY
def test_messages_give_the_advice_of_the_front_end(shared: Project) -> None:
    """They name its options, not those of `manage.py test`."""
    shared.configure('DATABASES["default"]["TEST"] = {"NAME": DATABASES["default"]["NAME"]}')
    process = start(shared, 1, HOST_CURRENT="--schemas-in current")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "use --schemas-in current." in stderr


@TEST_ONLY
def test_a_shared_build_that_cannot_be_copied(shared: Project) -> None:
    """Each process builds its own, also if the SQL of the copy fails."""
    fail_copies(shared)
    for process in [start(shared, number, MEET="2") for number in (1, 2)]:
        finish(process)
    assert count(shared, "migrated") == 2
