"""The page that the figures are written to."""

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from schema_runner import embedded

from .comparison import Comparison

_PAGE = """\
# Benchmarks

Ratios within one run of `make bench`: both ways take turns on the same machine and server. Each
figure is the median of the rounds, with the lowest and the highest beside it. How each is taken,
and why that is fair, is at the top of the modules in `tests/benchmarks`. A server with default
settings is as initdb makes it; one with test settings is as `schema_runner.embedded` makes it.
The few rows in ms are times on the machine named below, and depend on it.

{table}

- Machine: {machine}; load average {load} at the end.
- Versions: {versions}.
- Command: `make bench ROUNDS={rounds}`
"""


def table(comparisons: Sequence[Comparison]) -> str:
    """Return a table in Markdown, which can be read as it is."""
    rows = [
        ("what", "ratio of", "rounds", "median", "spread", "target", "reached"),
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
