"""docs/settings.md lists all options and environment variables of the code."""

import ast
import re
from argparse import Action, ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test.runner import DiscoverRunner

import schema_runner
from schema_runner import SchemaDiscoverRunner
from schema_runner.options import Options
from schema_runner.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
SOURCES = [*Path(schema_runner.__file__).parent.rglob("*.py")]
# The settings that options override, by option.
OVERRIDDEN = {
    **{name: name.upper() for name in Options().for_settings},
    "keepdb": "KEEP",
    "no_migrations": 'TEST["MIGRATE"]',
}
# The name of an environment variable.
VARIABLE = r"[A-Z][A-Z0-9_]+"


def table(page: str, *, having: str) -> list[list[str]]:
    """Return the cells of the rows of the table that contains this text."""
    blocks = re.findall(r"(?:^\|.*\n)+", (DOCS / page).read_text(), re.MULTILINE)
    (found,) = [block for block in blocks if having in block]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]
    # Without the header and the line below it.
    return rows[2:]


def actions(runner: type[DiscoverRunner]) -> dict[str, Action]:
    """Return a runner's options by flag."""
    parser = ArgumentParser()
    runner.add_arguments(parser)
    return {flag: action for action in parser._actions for flag in action.option_strings}


def option_row(flag: str, action: Action) -> list[str]:
    """Return the option with its values, its default, and the setting that it overrides."""
    value = f"{{{','.join(action.choices)}}}" if action.choices else action.metavar
    shown = f"[{value}]" if action.nargs == "?" else value
    setting = OVERRIDDEN.get(action.dest, "-")
    default = getattr(Settings(), setting.lower(), action.default)
    # Not a dict, in which 0 and False are the same key.
    text = "off" if default is False else "none" if default is None else f"`{default}`"
    option = f"`{flag} {shown}`" if shown else f"`{flag}`"
    return [option, text, setting if setting == "-" else f"`{setting}`"]


def test_the_settings_have_the_defaults_documented() -> None:
    documented = {row[0]: row[1] for row in table("settings.md", having="| `STRATEGY` |")}
    defaults = {
        name: "[]" if value == () else f'"{value}"' if isinstance(value, str) else f"{value}"
        for name, value in Settings()._asdict().items()
    }
    expected = {
        f"`{name.upper()}`": f"`{text.removesuffix('.0')}`" for name, text in defaults.items()
    }
    assert documented == expected


def test_the_options_are_documented() -> None:
    ours, stock = actions(SchemaDiscoverRunner), actions(DiscoverRunner)
    expected = [option_row(flag, ours[flag]) for flag in ours if flag not in stock]
    documented = [row[:3] for row in table("settings.md", having="| `--clear-pools` |")]
    assert sorted(documented) == sorted(expected)


def is_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "environ"
    return isinstance(node, ast.Name) and node.id == "environ"


def keys_read(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield the keys looked up in `os.environ`, or in a parameter named `environ`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            method, owner = node.func.attr, node.func.value
            is_read = method in {"get", "pop", "setdefault"} and is_environment(owner)
            if is_read or method == "getenv":
                yield node.args[0]
        elif isinstance(node, ast.Subscript) and is_environment(node.value):
            if isinstance(node.ctx, ast.Load):
                yield node.slice
        elif isinstance(node, ast.Compare) and any(map(is_environment, node.comparators)):
            yield node.left


def variables_read(source: str) -> set[str]:
    """Return the environment variables that a module reads.

    A key that is no constant comes from a table, and can be any of the module's constants.
    """
    tree = ast.parse(source)
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = set()
    for key in keys_read(tree):
        value = constants.get(key.id, key) if isinstance(key, ast.Name) else key
        if isinstance(value, ast.Constant):
            found.add(str(value.value))
            continue
        texts = {
            node.value
            for constant in constants.values()
            for node in ast.walk(constant)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        names = {text for text in texts if re.fullmatch(VARIABLE, text)}
        assert names, f"line {key.lineno}: no table has the names of these variables"
        found |= names
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "import os\nos.environ.get('A_B')\nos.environ['C_D'] = os.environ['E_F']",
            {"A_B", "E_F"},
        ),
        ("from os import environ, getenv\n'A_B' not in environ\nos.getenv('C_D')", {"A_B", "C_D"}),
        ("_ONE = 'A_B'\ndel os.environ['X_Y']\nos.environ.pop(_ONE, None)", {"A_B"}),
        ("_ALL = [Pair('A_B', 'C_D', 1)]\ndef f(environ, n): environ.get(n)", {"A_B", "C_D"}),
    ],
)
def test_environment_variables_are_found(source: str, expected: set[str]) -> None:
    assert variables_read(source) == expected


def test_the_environment_variables_are_documented() -> None:
    """Except those of CI services, which are in a table of another page."""
    read = set[str]().union(*(variables_read(path.read_text()) for path in SOURCES))
    rows = [row[:1] for row in table("settings.md", having="| `DJANGO_TEST_PROCESSES` |")]
    rows += table("order.md", having="`CI_NODE_INDEX`")
    documented = [name for row in rows for name in re.findall(f"`({VARIABLE})`", " ".join(row))]
    assert sorted(set(documented)) == sorted(read)
