"""A process with Django and the package imported, which forks for each `manage.py` of a test.

Imports take two thirds of the time of a run of a generated project. The fork server imports
nothing of a project and reads no settings, so a fork starts in the state of a new interpreter.
Tests of the start of an interpreter must not use it.
"""

import contextlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

# A file or socket that a run leaves open is an error.
FLAGS = ("-W", "error::ResourceWarning")
# Modules that most runs import, and that need no settings.
_MODULES = (
    "django.contrib.auth.checks", "django.contrib.auth.hashers",
    "django.contrib.auth.password_validation", "django.contrib.auth.tokens",
    "django.contrib.contenttypes.checks", "django.contrib.contenttypes.management",
    "django.contrib.sites.shortcuts", "django.core.cache.backends.locmem",
    "django.core.management.commands.createcachetable", "django.core.management.commands.flush",
    "django.core.management.commands.loaddata", "django.core.management.commands.makemigrations",
    "django.core.management.commands.test", "django.core.serializers.json",
    "django.core.serializers.jsonl", "django.core.serializers.xml_serializer",
    "django.db.backends.postgresql.base", "django.middleware.cache", "django.shortcuts",
    "django.test.runner", "django.utils.translation.reloader", "django.views.csrf",
    "multiprocessing.popen_fork", "psycopg.types.json", "schema_runner.runner", "unittest.mock",
    "xml.sax.expatreader",
)  # fmt: skip
_MAX_MESSAGE = 1 << 17


class ForkServer:
    """The client: starts the fork server, and runs scripts in it. `close` ends no run."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *FLAGS, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Never a terminal, so that runs do not see one if the tests have one.
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ,
                start_new_session=True,
            )

    def start(self, args: Sequence[str], cwd: Path, env: Mapping[str, str]) -> "ForkedRun":
        """Run a script in a folder, with arguments, as the leader of a new session."""
        pipes = [os.pipe() for _ in range(4)]
        ours = [pipes[0][1], *(read for read, _ in pipes[1:])]
        theirs = [pipes[0][0], *(write for _, write in pipes[1:])]
        message = json.dumps({"args": args, "cwd": str(cwd), "env": dict(env)}).encode()
        assert len(message) <= _MAX_MESSAGE, "too much for the fork server"
        try:
            socket.send_fds(self._socket, [message], theirs)
        finally:
            for end in theirs:
                os.close(end)
        stdin, *outputs = ours
        return ForkedRun(args, os.fdopen(stdin, "w"), *(os.fdopen(output) for output in outputs))

    def close(self) -> None:
        self._socket.close()
        _, errors = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, errors.decode()


class ForkedRun:
    """A run, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, args: Sequence[str], stdin: IO[str], *outputs: IO[str]) -> None:
        self.args, self.stdin = args, stdin
        self.stdout, self.stderr, status = outputs
        self.returncode: int | None = None
        self._status = status
        self._readers: dict[IO[str], threading.Thread] = {}
        self._read: dict[IO[str], str] = {}
        line = status.readline()
        assert line, "the fork server has ended"
        self.pid = int(line)

    def poll(self) -> int | None:
        try:
            return self.wait(timeout=0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._status, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
            with self._status:
                self.returncode = int(self._status.readline())
        return self.returncode

    def communicate(
        self, text: str | None = None, timeout: float | None = None
    ) -> tuple[str, str]:
        deadline = time.monotonic() + (timeout or 1e6)
        if not self._readers:
            for output in (self.stdout, self.stderr):
                self._readers[output] = threading.Thread(target=self._drain, args=[output])
                self._readers[output].start()
            with contextlib.suppress(BrokenPipeError), self.stdin:
                self.stdin.write(text or "")
        for reader in self._readers.values():
            reader.join(max(deadline - time.monotonic(), 0))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(max(deadline - time.monotonic(), 0))
        return self._read[self.stdout], self._read[self.stderr]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _drain(self, output: IO[str]) -> None:
        with output:
            self._read[output] = output.read()


class _Server:
    """Forks on request, and reports how each fork ended."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ)

    def serve(self) -> dict[str, Any] | None:
        """Return the request in each fork, and None in the server when it is closed."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is not self._requests:
                    self._report_exit(key)
                    continue
                message, ends, _, _ = socket.recv_fds(self._requests, _MAX_MESSAGE, 4)
                if not message:
                    self._close_all()
                    return None
                if self._fork(ends):
                    self._become_run(ends)
                    request: dict[str, Any] = json.loads(message)
                    return request

    def _fork(self, ends: list[int]) -> bool:
        *streams, status = ends
        if not (pid := os.fork()):
            return True
        for stream in streams:
            os.close(stream)
        os.write(status, f"{pid}\n".encode())
        self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))
        return False

    def _report_exit(self, key: selectors.SelectorKey) -> None:
        pid, status = key.data
        _, ended = os.waitpid(pid, 0)
        self._selector.unregister(key.fileobj)
        os.close(key.fd)
        with contextlib.suppress(BrokenPipeError):  # The test has not waited.
            os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
        os.close(status)

    def _become_run(self, ends: list[int]) -> None:
        os.setsid()
        *streams, status = ends
        os.close(status)
        self._close_all()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)

    def _close_all(self) -> None:
        for key in list(self._selector.get_map().values()):
            if key.data:
                os.close(key.fd)
                os.close(key.data[1])
        self._selector.close()
        self._requests.close()


def _run(args: list[str], cwd: str, env: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[0] = cwd
    sys.argv = args
    sys.orig_argv = [sys.executable, *FLAGS, *args]
    runpy.run_path(args[0], run_name="__main__")


def _main() -> None:
    import gc
    import importlib

    for module in _MODULES:
        importlib.import_module(module)
    gc.freeze()
    if request := _Server(socket.socket(fileno=int(sys.argv[1]))).serve():
        _run(**request)


if __name__ == "__main__":
    _main()
