"""The code, output, settings and links in README and docs are correct."""

import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from schema_runner.embedded import EmbeddedServer
from schema_runner.settings import Settings

from ..project import PARALLEL, Mode, Project, each_mode

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The same as in pyproject.toml.
REPOSITORY = "https://github.com/django-schema-runner/django-schema-runner"
LINKING = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "example_project/README.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: +(\S+)$", re.MULTILINE)
# In messages and docstrings: an address in this repository, or the path of a page.
MENTION = re.compile(rf"{REPOSITORY}[^\s)\"'`]*|(?<![\w/.])docs/[\w-]+\.md(?:#[\w-]+)?")
FIXTURE = '[{"model": "library.author", "pk": 7, "fields": {"name": "Terry Pratchett"}}]'


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def write_blocks(project: Project) -> None:
    """Write each Python block to the file that its first line names."""
    for page in PAGES:
        for block in blocks(page, "python"):
            name = re.match(r"# ([\w/]+\.py)\n", block)
            assert name, f"{page.name}: a block of Python does not say which file it is"
            if name[1] == "settings.py":
                if "embedded" not in block:
                    project.configure(block)
            else:
                project.write(name[1], block)


def test_the_example_of_the_embedded_server_works(
    postgresql: EmbeddedServer, tmp_path: Path
) -> None:
    """The example that starts the server runs, in its own process."""
    (block,) = [block for page in PAGES for block in blocks(page, "python") if "embedded" in block]
    cache = postgresql.data_dir.parent
    variables = {"SCHEMA_RUNNER_PG_BIN": str(postgresql.bin_dir), "XDG_CACHE_HOME": str(cache)}
    show = "print(os.listdir(DATABASES['default']['HOST']))"
    command = [sys.executable, "-c", f"import os\n{block}\n{show}"]
    assert b"'.s.PGSQL.5432'" in subprocess.check_output(command, env={**os.environ, **variables})


@each_mode
def test_the_code_examples_work(project: Project, mode: Mode) -> None:
    """All Python blocks form one project, whose tests pass."""
    write_blocks(project)
    project.write("library/fixtures/authors.json", FIXTURE)
    project.run(*mode).passed("Ran 8 tests")
    if mode:
        project.run(*mode, "--testrunner", "runner.Runner").passed()
        observed = project.run(*mode, "--testrunner", "observed.ObservedRunner").passed()
        assert "AloneTests.test_nothing_else_runs: passed in worker " in observed.stdout


def test_the_output_example_is_that_of_a_run(project: Project) -> None:
    """The lines are the same, except for times, as those of a run that uses a pool."""
    (shown,) = blocks(ROOT / "README.md", "text")
    tests = """
        class BookTests(TestCase):
            def test_a(self): meet(number=2)
            def test_b(self): pass
            def test_c(self): pass
        class AuthorTests(BookTests): pass
        class LoanTests(TransactionTestCase):
            def test_a(self): Author.objects.create(name="A")
            def test_b(self): Author.objects.create(name="A")
            def test_c(self): Author.objects.create(name="A")
        class FineTests(LoanTests): pass
    """
    project.tests(tests)
    keep = (*PARALLEL, "--keepdb")
    project.run(*keep).passed()
    result = project.run(*keep).passed()
    project.run(*PARALLEL, "--clear-pools").passed()

    def lines(text: str) -> list[str]:
        times = r"[0-9.]+(s$| m?s\b)|(?<= from )[\w ]+(?= ago )"
        return sorted(re.sub(times, "N", one) for one in text.splitlines())

    assert lines(result.output) == lines(shown)


def test_all_settings_are_documented() -> None:
    """Each setting has a row in the table, and each row is a setting."""
    table = (ROOT / "docs/settings.md").read_text().partition("\n## Command-line options\n")[0]
    documented = re.findall(r"^\| `([A-Z_]+)` \|", table, re.M)
    assert sorted(documented) == sorted(name.upper() for name in Settings._fields)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub generates for a page's headings."""
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose(page), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w -]", "", shown).replace(" ", "-")
        names.add(f"{anchor}-{found[anchor]}" if found[anchor] else anchor)
        found[anchor] += 1
    return names


def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def has_target(link: str, page: Path) -> bool:
    """Whether a link on `page` has a target: a file and heading here, or another site."""
    path, _, anchor = link.partition("#")
    if inside := re.fullmatch(rf"{REPOSITORY}/(?:blob|tree)/main/(.+)", path):
        target = ROOT / inside[1]
    elif link.startswith(("http://", "https://")):
        return not path.startswith(f"{REPOSITORY}/") or path == f"{REPOSITORY}/issues"
    else:
        target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_have_targets(page: Path) -> None:
    """Links point to files and headings that exist.

    On PyPI, relative ones in README would not work.
    """
    links = [inline or reference for inline, reference in LINK.findall(prose(page))]
    assert [link for link in links if not has_target(link, page)] == []
    if page.name == "README.md" and page.parent == ROOT:
        assert [link for link in links if not re.match("https://|#", link)] == []


def test_pages_named_in_messages_exist() -> None:
    """Pages and headings named in the package and its metadata exist."""
    named = [
        (mention, source.name)
        for source in (ROOT / "schema_runner").rglob("*.py")
        for mention in MENTION.findall(source.read_text())
    ]
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert all(url.startswith(REPOSITORY) for url in urls.values())
    named += [(url, "pyproject.toml") for url in urls.values()]
    assert [one for one in named if not has_target(one[0], ROOT / "README.md")] == []
