"""What a test worker must not share with its neighbours, besides its database schema."""

import shutil
import tempfile
from multiprocessing.util import Finalize
from typing import Protocol

from django.conf import settings
from django.test import override_settings


class Worker(Protocol):
    """What the test runner tells a worker about itself."""

    number: int
    schema: str
    schemas: dict[str, str]


def isolate_worker(worker: Worker) -> None:
    """Give a test worker a media folder and a range of cache keys of its own."""
    media = tempfile.mkdtemp(prefix=f"{worker.schema}-")
    # A forked worker leaves without running atexit's handlers, but runs multiprocessing's.
    Finalize(None, shutil.rmtree, args=(media,), kwargs={"ignore_errors": True}, exitpriority=1)
    caches = {
        alias: {**cache, "KEY_PREFIX": f"{cache.get('KEY_PREFIX', '')}{worker.schema}"}
        for alias, cache in settings.CACHES.items()
    }
    # Never disabled: it holds for the life of the worker. Enabling tells the storages and the
    # caches that exist already.
    override_settings(MEDIA_ROOT=media, CACHES=caches).enable()
