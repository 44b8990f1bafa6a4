"""Executors of the steps of a transaction: background threads, or the caller itself."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

from django.db import connections

logger = logging.getLogger(__name__)

Job = Callable[[], object]

THREAD_NAME = "saga"


class Executor(Protocol):
    """Runs jobs, now or later."""

    def submit(self, job: Job) -> None:
        """Run a job."""

    def drain(self, timeout: float) -> None:
        """Wait until every submitted job has ended; raise the exception of one, if any."""

    def stop(self) -> None:
        """Complete every submitted job, and release threads and database connections."""


class InlineExecutor:
    """Runs each job immediately, in its caller's thread and database transaction."""

    def submit(self, job: Job) -> None:
        job()

    def drain(self, timeout: float) -> None:
        pass

    def stop(self) -> None:
        pass


class BackgroundExecutor:
    """Runs jobs in threads, which start with the first job.

    Threads do not survive the fork of a web server or of a test worker, so they start late. A
    stopped executor starts again with its next job.
    """

    def __init__(self, *, threads: int = 2) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._unfinished: set[Future[None]] = set()
        self._failures: deque[BaseException] = deque(maxlen=20)

    def submit(self, job: Job) -> None:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix=THREAD_NAME)
            future = self._pool.submit(self._run, job)
            self._unfinished.add(future)
        # Outside the lock, which the callback acquires; it runs here if the job has ended already.
        future.add_done_callback(self._forget)

    def drain(self, timeout: float) -> None:
        with self._lock:
            unfinished = set(self._unfinished)
        if wait(unfinished, timeout).not_done:
            raise TimeoutError(f"Jobs are still running after {timeout} seconds.")
        if self._failures:
            raise self._failures.popleft()

    def stop(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)

    def _run(self, job: Job) -> None:
        try:
            job()
        except Exception as error:
            logger.exception("A job failed.")
            self._failures.append(error)
        finally:
            # Only this thread's connections, which would block a flush or the server's shutdown.
            connections.close_all()

    def _forget(self, future: Future[None]) -> None:
        with self._lock:
            self._unfinished.discard(future)
