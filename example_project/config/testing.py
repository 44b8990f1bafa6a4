"""Resources that test workers must not share, besides their schemas."""

import shutil
import tempfile
from multiprocessing.util import Finalize
from typing import Protocol

from django.conf import settings
from django.test import override_settings


class Worker(Protocol):
    """The test runner's description of a worker."""

    number: int
    schema: str
    schemas: dict[str, str]


def isolate_worker(worker: Worker) -> None:
    """Give a test worker its own media folder and prefix of cache keys."""
    media = tempfile.mkdtemp(prefix=f"{worker.schema}-")
    # A forked worker does not run the handlers of atexit, but those of multiprocessing.
    Finalize(None, shutil.rmtree, args=(media,), kwargs={"ignore_errors": True}, exitpriority=1)
    caches = {
        alias: {**cache, "KEY_PREFIX": f"{cache.get('KEY_PREFIX', '')}{worker.schema}"}
        for alias, cache in settings.CACHES.items()
    }
    # Never disabled, because it holds for the life of the worker. `enable` resets existing
    # storages and caches.
    override_settings(MEDIA_ROOT=media, CACHES=caches).enable()
