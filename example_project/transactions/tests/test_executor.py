"""The background executor."""

import threading

from django.db import connection

from tests.cases import BackgroundCase
from tests.waiting import TIMEOUT, wait_until
from transactions.executor import THREAD_NAME, BackgroundExecutor, InlineExecutor


def backend_pid() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


def is_connected(pid: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid])
        return cursor.fetchone() is not None


class BackgroundExecutorTests(BackgroundCase):
    """Jobs run in other threads, and leave none of their connections open."""

    def test_job_runs_in_another_thread(self) -> None:
        names: list[str] = []
        self.executor.submit(lambda: names.append(threading.current_thread().name))
        self.executor.drain(TIMEOUT)
        self.assertTrue(names[0].startswith(THREAD_NAME))

    def test_job_gives_its_connection_back(self) -> None:
        pids: list[int] = []
        for _ in range(8):
            self.executor.submit(lambda: pids.append(backend_pid()))
        self.executor.drain(TIMEOUT)
        for pid in pids:
            # The server's process ends shortly after the connection.
            wait_until(lambda pid=pid: not is_connected(pid), f"backend {pid} has gone")

    def test_drain_raises_what_a_job_raised(self) -> None:
        def job() -> None:
            raise ValueError("broken")

        with self.assertLogs("transactions.executor", "ERROR"):
            self.executor.submit(job)
            with self.assertRaisesMessage(ValueError, "broken"):
                self.executor.drain(TIMEOUT)
        self.executor.drain(TIMEOUT)

    def test_drain_gives_up_in_time(self) -> None:
        released = threading.Event()
        self.addCleanup(released.set)
        self.executor.submit(released.wait)
        with self.assertRaises(TimeoutError):
            self.executor.drain(0)
        released.set()
        self.executor.drain(TIMEOUT)

    def test_stop_finishes_every_job(self) -> None:
        executor = BackgroundExecutor(threads=1)
        done: list[int] = []
        for n in range(100):
            executor.submit(lambda n=n: done.append(n))
        executor.stop()
        self.assertEqual(done, list(range(100)))

    def test_starts_again_after_a_stop(self) -> None:
        done: list[int] = []
        for n in range(3):
            self.executor.submit(lambda n=n: done.append(n))
            self.executor.stop()
        self.assertEqual(done, [0, 1, 2])

    def test_stop_without_jobs_is_fine(self) -> None:
        executor = BackgroundExecutor()
        executor.stop()
        executor.stop()

    def test_inline_runs_at_once(self) -> None:
        done: list[int] = []
        executor = InlineExecutor()
        executor.submit(lambda: done.append(1))
        self.assertEqual(done, [1])
        executor.drain(0)
        executor.stop()
