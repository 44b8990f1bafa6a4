"""The figures for docs/benchmarks.md, as Markdown."""

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from schema_runner import embedded

from .comparison import Comparison

_PAGE = """\
{table}

- Machine: {machine}; load average {load} at the end.
- Versions: {versions}.
- Command: `make bench ROUNDS={rounds}`
"""


def table(comparisons: Sequence[Comparison]) -> str:
    """Return a Markdown table with padded cells."""
    rows = [
        ("benchmark", "ratio", "rounds", "median", "range", "target", "met"),
        *(
            (c.name, c.ratio_of, str(len(c.ratios)), c.median, c.spread, c.target, c.verdict)
            for c in comparisons
        ),
    ]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(f"|{'-' if n == 1 else ' '}{line} |" for n, line in enumerate(lines))


def page(
    comparisons: Sequence[Comparison], server: embedded.EmbeddedServer, *, rounds: int
) -> str:
    packages = ["django", "psycopg", "tblib", "pytest-django", "pytest-xdist"]
    versions = [f"{package} {version(package)}" for package in [*packages, "django-schema-runner"]]
    return _PAGE.format(
        table=table(comparisons),
        machine=f"{platform.system()}, {_processor()}, {os.cpu_count()} cores",
        load=f"{os.getloadavg()[0]:.1f}",
        versions=", ".join(
            [f"PostgreSQL {server.version}", f"Python {platform.python_version()}", *versions]
        ),
        rounds=rounds,
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    named = re.search(r"^model name\s*: *(.*)", text, re.MULTILINE)
    return named[1] if named else platform.machine()
