"""Run Django's own tests with its runner and with ours; fail if a test is worse with ours."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import django

from schema_runner import embedded

from ..builds import BUILDS
from .internals import INTERNALS
from .outcomes import Outcomes, differences
from .source import tests_folder

# Tests of Django's test tools, connections and creation classes.
LABELS = [
    *("backends", "fixtures", "introspection", "migrations", "postgres_tests", "schema"),
    *("test_runner", "test_utils", "transactions"),
]
WITHIN = Path(__file__).parent / "within"
STOCK = "recorded_runners.StockRunner"
OURS = "recorded_runners.OurRunner"


def main() -> int:
    options = _parser().parse_args()
    folder = Path(tempfile.mkdtemp(prefix="djangosuite-"))
    # The server may run as another user than this process.
    folder.chmod(0o755)
    tests = tests_folder()
    server = _start(folder / "server", options.labels)
    try:
        print(f"Django {django.__version__}, PostgreSQL {server.version}, {options.start_method}")
        stock, ours = (
            _outcomes(tests, server, folder / f"{runner}.json", runner, options)
            for runner in (STOCK, OURS)
        )
    finally:
        embedded.stop(server)
        shutil.rmtree(folder)
    return _report(stock, ours)


def _start(cache: Path, labels: list[str]) -> embedded.EmbeddedServer:
    """Start a server that offers the extensions that the tests create, if one is installed."""
    debian = BUILDS["15"]
    if debian.is_installed:
        return embedded.start(bin_dir=debian.bin_dir, settings=debian.settings, cache_dir=cache)
    if "postgres_tests" in labels:
        labels.remove("postgres_tests")
        print(f"Skipped postgres_tests. To run them: {debian.install}")
    return embedded.start(cache_dir=cache)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.djangosuite", description=__doc__)
    # Stock Django 5.2 hangs under forkserver.
    methods = ["fork", "spawn", *(["forkserver"] if django.VERSION >= (6, 0) else [])]
    parser.add_argument("--start-method", choices=methods, default="fork")
    parser.add_argument("--parallel", type=int, default=2, help="the number of workers")
    parser.add_argument("--verbose", action="store_true", help="show what the runs print")
    parser.add_argument("labels", nargs="*", default=LABELS, help="of Django's tests")
    return parser


def _outcomes(
    tests: Path,
    server: embedded.EmbeddedServer,
    outcomes: Path,
    runner: str,
    options: argparse.Namespace,
) -> Outcomes:
    """Run the tests, and return the outcomes that the runner recorded."""
    run = {
        "databases": {alias: server.database(f"django_{alias}") for alias in ("default", "other")},
        "start_method": options.start_method,
        "test_runner": runner,
        "outcomes": str(outcomes),
    }
    arguments = ["--settings", "recorded_settings", "--noinput"]
    arguments += ["--parallel", str(options.parallel), "--verbosity", "1"]
    process = subprocess.run(
        [sys.executable, "runtests.py", *arguments, *options.labels],
        cwd=tests,
        env={**os.environ, "PYTHONPATH": str(WITHIN), "DJANGOSUITE": json.dumps(run)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    if options.verbose or not outcomes.exists():
        print(process.stdout)
    read: Outcomes = json.loads(outcomes.read_text())
    print(f"{runner}: {len(read)} tests, exit code {process.returncode}")
    return read


def _report(stock: Outcomes, ours: Outcomes) -> int:
    passed = [test_id for test_id, outcomes in stock.items() if set(outcomes) == {"passed"}]
    if not passed:
        print("Nothing passes under stock, so there is nothing to compare.")
        return 1
    found = differences(stock, ours)
    for difference in found:
        if reason := INTERNALS.get(difference.test_id):
            print(f"expected: {difference}; {reason}")
    unexpected = [each for each in found if each.test_id not in INTERNALS]
    for difference in unexpected:
        print(f"UNEXPECTED: {difference}")
    print(f"{len(passed)} pass under stock; {len(unexpected)} unexpected differences")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
