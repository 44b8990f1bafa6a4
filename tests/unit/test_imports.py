"""The layout of the package: layers, import cycles, and the size and names of modules."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import schema_runner

PACKAGE = Path(schema_runner.__file__).parent
# A module imports only from its own layer's entry, or from layers below: docs/development.md.
LAYERS = [
    {"apps", "embedded", "management"},
    {"runner"},
    {"checks", "run_summary", "suite_selection"},
    {"run_history"},
    {"options", "reporting"},
    {"suite"},
    {"session"},
    {"reruns"},
    {"workers"},
    {"database", "decorators", "scheduling"},
    {"events", "fingerprint", "flush", "migration_lint"},
    {"alias_connection", "fixtures"},
    {"connections", "project"},
    {"search_path_restore", "settings"},
    {"search_path"},
    {"postgres"},
    {"clock", "errors", "folders", "forks", "installations"},
]
LAYER = {entry: number for number, entries in enumerate(LAYERS) for entry in entries}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
}
MOST_LINES = 300


def imported(path: Path) -> set[str]:
    """Return the modules of the package that a module imports, also in functions or for types."""
    package = ["schema_runner", *path.relative_to(PACKAGE).parent.parts]
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) + 1 - node.level] if node.level else []
            origin = origin + (node.module.split(".") if node.module else [])
            names += [[*origin, alias.name] for alias in node.names]
    found = {".".join(name[1:]) for name in names if name[0] == "schema_runner"}
    return {name if name in MODULES else name.rpartition(".")[0] for name in found} & {*MODULES}


def test_imports_are_found() -> None:
    """Relative and absolute imports, of modules and of names in them."""
    assert imported(MODULES["database.creation"]) >= {
        *("database.test_database", "alias_connection", "postgres.names", "search_path"),
    }
    assert {name.split(".")[0] for name in MODULES} == {*LAYER}


def test_imports_point_down() -> None:
    """A layer imports nothing from those above it, and there are no cycles, even for types."""
    graph = {name: imported(path) - {name} for name, path in MODULES.items()}
    upwards = []
    for name, targets in graph.items():
        own = name.split(".")[0]
        for target in targets:
            other = target.split(".")[0]
            if other != own and LAYER[other] <= LAYER[own]:
                upwards.append(f"{name} imports {target}")
    assert upwards == []
    TopologicalSorter(graph).prepare()


def test_modules_are_short_and_have_names_of_their_own() -> None:
    """Except packages and commands, whose names Python and Django determine."""
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: number for name, number in lines.items() if number > MOST_LINES} == {}
    names = Counter(path.stem for path in MODULES.values() if path.stem != "__init__")
    assert [name for name, number in names.items() if number > 1] == []


@pytest.mark.parametrize("pattern", ["__init__.py", "postgres/**/*.py", "embedded/*.py"])
def test_layers_without_django(pattern: str) -> None:
    """Settings files import the package; `postgres` and `embedded` are used without Django."""
    paths = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.glob(pattern))
    modules = [".".join(path.with_suffix("").parts) for path in paths]
    code = f"import sys, {', '.join(modules)}; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
