"""Seeders and worker set-ups, some of which fail, and tests of their effects."""

from django.conf import settings

import schema_runner

from . import query


def seed(using: str) -> None:
    row = "(20, 'from a seeder') ON CONFLICT DO NOTHING"
    query(f"INSERT INTO library_author (id, name) VALUES {row}", using=using)


def fail_to_seed(using: str) -> None:
    raise ValueError("no seeds")


def set_up(worker: schema_runner.Worker) -> None:
    # Called once, before the first test.
    assert not settings.MEDIA_ROOT
    settings.MEDIA_ROOT = f"/media/{worker.number}/{worker.schema}"


class UnpicklableError(Exception):
    def __init__(self, worker: int, reason: str) -> None:
        super().__init__(f"worker {worker} {reason}")


def fail_to_set_up(worker: schema_runner.Worker) -> None:
    raise UnpicklableError(worker.number, "cannot start")


class Given:
    def test_rows_are_there_and_sequences_continue(self) -> None:
        rows = query("SELECT id, name FROM library_author ORDER BY id")
        assert rows == [(7, "from a fixture"), (20, "from a seeder")]
        next_row = "INSERT INTO library_author (name) VALUES ('next') RETURNING id > 20"
        assert query(next_row) == [(True,)]

    def test_worker_set_up(self) -> None:
        worker, media = schema_runner.current_worker(), settings.MEDIA_ROOT
        assert worker
        assert media == f"/media/{worker.number}/{worker.schema}"
