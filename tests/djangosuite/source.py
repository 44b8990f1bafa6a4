"""Django's source distribution, which contains its tests, unlike the wheel."""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import django
import platformdirs


def tests_folder() -> Path:
    """Return the folder of the tests of the installed Django; download them the first time."""
    cache = platformdirs.user_cache_path("django-schema-runner", appauthor=False) / "djangosuite"
    name = f"django-{django.__version__}"
    if not (cache / name).exists():
        cache.mkdir(parents=True, exist_ok=True)
        _download(name, cache)
    return cache / name / "tests"


def _download(name: str, cache: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        requirement = f"django=={django.__version__}"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        sources = ["--no-deps", "--no-binary", "django", "--dest", folder]
        subprocess.run([*pip, "download", *sources, requirement], check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        # Moved when complete, because the next run uses whatever exists.
        shutil.move(Path(folder) / name, cache / name)
