"""Tests of WORKER_SETUP."""

import shutil
from dataclasses import dataclass, field
from unittest import mock

from django.conf import settings
from django.core.cache import caches
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.test import SimpleTestCase, override_settings

from config import testing


@dataclass
class FakeWorker:
    number: int = 7
    schema: str = "test_w7_1765198600442"
    schemas: dict[str, str] = field(default_factory=dict)


class IsolationTests(SimpleTestCase):
    """Each worker has its own files and cache keys."""

    def isolate(self) -> None:
        """Apply what a worker applies for its life, for the rest of one test."""
        overrides: list[override_settings] = []

        def remember(**options: object) -> override_settings:
            overrides.append(override_settings(**options))
            return overrides[-1]

        with mock.patch.object(testing, "override_settings", remember):
            testing.isolate_worker(FakeWorker())
        self.addCleanup(shutil.rmtree, settings.MEDIA_ROOT)
        for override in overrides:
            self.addCleanup(override.disable)

    def test_files(self) -> None:
        before = settings.MEDIA_ROOT
        self.isolate()
        self.assertNotEqual(settings.MEDIA_ROOT, before)
        name = default_storage.save("note.txt", ContentFile(b"mine"))
        self.assertTrue(default_storage.path(name).startswith(str(settings.MEDIA_ROOT)))
        self.assertIn(FakeWorker.schema, default_storage.path(name))

    def test_cache_keys(self) -> None:
        self.isolate()
        self.assertIn(FakeWorker.schema, caches["default"].make_key("key"))
