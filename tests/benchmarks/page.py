"""The page that the figures are written to."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from schema_runner import embedded

from .comparison import Comparison, figure

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
            (
                each.name,
                each.ratio_of,
                str(len(each.ratios)),
                figure(each.median),
                each.spread,
                str(each.target or "-"),
                each.verdict,
            )
            for each in comparisons
        ),
    ]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(f"|{'-' if n == 1 else ' '}{line} |" for n, line in enumerate(lines))


def page(comparisons: Sequence[Comparison], server: embedded.Server, *, rounds: int) -> str:
    packages = ["django", "psycopg", "tblib", "pytest-django", "pytest-xdist"]
    packages.append("django-schema-runner")
    versions = [f"PostgreSQL {server.version}", f"Python {platform.python_version()}"]
    versions += [f"{package} {version(package)}" for package in packages]
    return _PAGE.format(
        table=table(comparisons),
        machine=f"{platform.system()}, {_processor()}, {os.cpu_count()} cores",
        load=f"{os.getloadavg()[0]:.1f}",
        versions=", ".join(versions),
        rounds=rounds,
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
