"""The rooms of the package: imports point down only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import schema_runner

PACKAGE = Path(schema_runner.__file__).parent
# Each room may import from those after it, and from itself.
ROOMS = [
    *(
        "apps",
        "management",
        "runner",
        "checks",
        "arranging",
        "closing",
        "reporting",
        "options",
        "execution",
        "foresight",
    ),
    *("backend", "fingerprint", "reference", "workspace", "sites", "usage", "settings"),
    *("postgres", "embedded", "wording", "names", "folders", "installations", "requirements"),
    *("errors", "forks"),
]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the rooms that a module imports from."""
    package = ["schema_runner", *path.relative_to(PACKAGE).parent.parts]
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) + 1 - node.level] if node.level else []
            origin = origin + (node.module.split(".") if node.module else [])
            names += [[*origin, alias.name] for alias in node.names]
    return {name[1] for name in names if name[0] == "schema_runner"}


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_the_imports_of_a_room_are_found() -> None:
    """Relative ones and absolute ones, of modules and of what is in them."""
    assert imported(PACKAGE / "backend" / "placement.py") >= {"workspace", "errors", "names"}
    assert {room(path) for path in MODULES} == set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """A room knows nothing of those above it."""
    below = ROOMS[ROOMS.index(room(path)) :]
    assert imported(path) <= set(below)


@pytest.mark.parametrize("pattern", ["__init__.py", "postgres/*.py", "embedded/*.py"])
def test_rooms_without_django(pattern: str) -> None:
    """Settings files import the package; `postgres` and `embedded` are used without Django."""
    paths = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.glob(pattern))
    modules = [".".join(path.with_suffix("").parts) for path in paths]
    code = f"import sys, {', '.join(modules)}; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
