"""What README and docs show is run."""

import os
import re
import subprocess
import sys
from pathlib import Path

from schema_runner.embedded import Server
from schema_runner.settings import Settings

from ..project import PARALLEL, Mode, Project, each_mode

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FIXTURE = '[{"model": "library.author", "pk": 7, "fields": {"name": "Terry Pratchett"}}]'


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def write_blocks(project: Project) -> None:
    """Write each block of Python to the file that its first line names."""
    for page in PAGES:
        for block in blocks(page, "python"):
            name = re.match(r"# ([\w/]+\.py)\n", block)
            assert name, f"{page.name}: a block of Python does not say which file it is"
            if name[1] == "settings.py":
                if "embedded" not in block:
                    project.configure(block)
            else:
                project.write(name[1], block)


def test_the_embedded_server_shown_works(postgresql: Server, tmp_path: Path) -> None:
    """The settings that start it, in a process of their own, on the server of the tests."""
    (block,) = [block for page in PAGES for block in blocks(page, "python") if "embedded" in block]
    cache = postgresql.data_dir.parent
    variables = {"SCHEMA_RUNNER_PG_BIN": str(postgresql.bin_dir), "XDG_CACHE_HOME": str(cache)}
    show = "print(os.listdir(DATABASES['default']['HOST']))"
    command = [sys.executable, "-c", f"import os\n{block}\n{show}"]
    assert b"'.s.PGSQL.5432'" in subprocess.check_output(command, env={**os.environ, **variables})


@each_mode
def test_the_code_shown_works_together(project: Project, mode: Mode) -> None:
    """All blocks of Python, in one project whose tests are those of the docs."""
    write_blocks(project)
    project.write("library/fixtures/authors.json", FIXTURE)
    project.run(*mode).passed("Ran 8 tests")
    if mode:
        project.run(*mode, "--testrunner", "runner.Runner").passed()
        observed = project.run(*mode, "--testrunner", "observed.ObservedRunner").passed()
        assert "AloneTests.test_nothing_else_runs: passed in worker " in observed.stdout


def test_the_output_shown_is_what_a_run_prints(project: Project) -> None:
    """Line by line, but for the time it took."""
    (shown,) = blocks(ROOT / "README.md", "text")
    tests = """
        class A(TestCase):
            def test_a(self): meet(number=2)
            def test_b(self): pass
        class B(A): pass
    """
    project.tests(tests)
    result = project.run(*PARALLEL).passed()

    def lines(text: str) -> list[str]:
        return sorted(re.sub(r"[0-9.]+(s$| m?s\b)", "N", one) for one in text.splitlines())

    assert lines(result.output) == lines(shown)


def test_the_settings_documented_are_those_there_are() -> None:
    """Each key has its row, and each row a key."""
    table = (ROOT / "docs/settings.md").read_text().partition("\n## Command-line options\n")[0]
    documented = re.findall(r"^\| `([A-Z_]+)` \|", table, re.M)
    assert sorted(documented) == sorted(name.upper() for name in Settings._fields)


def test_links_lead_somewhere() -> None:
    """Every relative link in README and docs is a file."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
