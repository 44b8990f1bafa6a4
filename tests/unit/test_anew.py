from typing import Any

import pytest

from schema_runner.database.kept_builds import EDITED, BuildFacts, UnusedBuild
from schema_runner.errors import ago

PARTS = {"version of Django": "a" * 32, "models of b": "b" * 32, "migrations of b": "c" * 32}
NOW, DAY = 10**9, 24 * 60 * 60
FACTS = BuildFacts("same", PARTS, NOW, NOW - 3 * DAY // 2)


@pytest.mark.parametrize(
    ("nearest", "expected"),
    [
        (
            ("other", NOW, {"parts": FACTS.comparable_parts | {"models of b": "x"}}),
            "models of b changed",
        ),
        # A new app, and a removed one; only the first of many are listed.
        (
            ("other", NOW, {"parts": {"models of gone": "x"}}),
            "version of Django, models of b, migrations of b and 1 more changed",
        ),
        (("other", NOW, {}), "version of django-schema-runner changed"),
        (("same", NOW - 2 * DAY, {}), "the last build is more than 1.5 days old (KEEP_DAYS)"),
        (("same", NOW, {"dependencies": {"no/file": "x"}}), "no/file changed"),
        (("same", NOW, {"dependencies": {"setting:SITE_ID": "x"}}), "setting SITE_ID changed"),
        (
            ("same", NOW, {"dependencies": {EDITED: ""}}),
            "files were edited during the last build",
        ),
        # Not verified, for example.
        (("same", NOW, {"dependencies": {}}), "the last build can no longer be used"),
    ],
)
def test_why_a_run_builds(nearest: Any, expected: str) -> None:
    assert UnusedBuild(*nearest).reason(FACTS, days=1.5) == expected


def test_ages_are_shown_in_the_largest_unit() -> None:
    ages = {-1: "a moment ago", 59: "a moment ago", 60: "1 minute ago", 7200: "2 hours ago"}
    assert {age: ago(age) for age in ages} == ages
    assert ago(3 * DAY - 1) == "2 days ago"
