"""Compare this runner with others, and two workers with one process."""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from schema_runner import embedded

from ..project import Project, address
from .comparison import Comparison
from .engine import compare_engines
from .example import compare_workers
from .order import compare_orders
from .page import page
from .resets import compare_resets
from .setups import SIZES, compare_set_ups
from .start import compare_starts

PARTS = ["engine", "order", "example", "setup", "reset", "start"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds")
    parser.add_argument("--only", choices=PARTS, help="run this part only")
    parser.add_argument("--size", choices=SIZES, help="size of project for setup (default: all)")
    parser.add_argument("--output", type=Path, help="file to write the table to")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="benchmarks-"))
    # The server may run as another user than this process.
    folder.chmod(0o755)
    server = embedded.start(cache_dir=folder / "server")
    try:
        comparisons = list(_compare(server, folder, options))
    finally:
        embedded.stop(server)
        shutil.rmtree(folder)
    text = page(comparisons, server, rounds=options.rounds)
    print(f"\n{text}")
    if options.output:
        options.output.write_text(text)


def _compare(
    server: embedded.EmbeddedServer, folder: Path, options: argparse.Namespace
) -> Iterator[Comparison]:
    parts = [options.only] if options.only else PARTS
    rounds = options.rounds
    for part, compare in {"engine": compare_engines, "order": compare_orders}.items():
        if part in parts:
            project = Project(folder / part, address(server), "bench")
            yield from map(_print_row, compare(project, rounds=rounds))
    if "example" in parts:
        # Each run takes a minute or two.
        yield _print_row(compare_workers(server, rounds=(rounds + 1) // 2))
    if "setup" in parts:
        sizes = [SIZES[options.size]] if options.size else list(SIZES.values())
        yield from map(_print_row, compare_set_ups(folder, rounds=rounds, sizes=sizes))
    for part, compare in {"reset": compare_resets, "start": compare_starts}.items():
        if part in parts:
            yield from map(_print_row, compare(folder, rounds=rounds))


def _print_row(comparison: Comparison) -> Comparison:
    """Print a row as soon as it is measured: the others take minutes."""
    print(f"{comparison.name}: {comparison.median} ({comparison.spread})", flush=True)
    return comparison


if __name__ == "__main__":
    main()
