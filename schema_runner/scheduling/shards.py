"""The shard of a suite that one machine of several runs, without a word between them."""

import heapq
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

_BY_HAND = "Say which shard this is by hand, such as --shard 2/4."
# With so few digits, a slip of the keyboard costs no memory.
_NUMBER = "[0-9]{1,4}"


@dataclass(frozen=True, slots=True)
class Weight:
    """What a test class weighs: its number of tests, and how long all of them take.

    `seconds` are finite and not negative; None where history knows nothing of the class.
    """

    tests: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `total` parts of a suite, which has its `number` from 1 to that."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shard for a text such as "2/4"; raises ValueError for any other."""
        match = re.fullmatch(rf"\s*({_NUMBER})\s*/\s*({_NUMBER})\s*", text)
        number, total = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= total:
            raise ValueError(
                f"--shard takes a number from 1 on and how many shards there are, such as "
                f"--shard 2/4, or auto for what the CI engine says; not {text!r}."
            )
        return cls(number, total)

    @staticmethod
    def from_environment(environ: Mapping[str, str]) -> "Shard":
        """Return the shard that a CI engine's variables name, to each of a job's parallel copies.

        Jobs of a matrix that differ, by the version of Python for example, are counted all
        together: these have to be told by hand. Raises ValueError where the variables name no
        shard or more than one.
        """
        if environ.get("CIRRUS_CI"):
            # https://cirrus-ci.org/guide/writing-tasks/#environment-variables
            raise ValueError(
                "--shard auto cannot be used on Cirrus CI, where CI_NODE_INDEX and CI_NODE_TOTAL "
                f"count the tasks of a build that run no tests, too. {_BY_HAND}"
            )
        node = _HEROKU if environ.get("HEROKU_TEST_RUN_ID") else _GITLAB
        read = {pair: pair.read(environ) for pair in (node, *_OTHERS)}
        found = {pair: shard for pair, shard in read.items() if shard}
        if not found:
            looked = ", ".join(map(str, read))
            raise ValueError(f"--shard auto found nothing in {looked}. {_BY_HAND}")
        if len(set(found.values())) > 1:
            said = ", ".join(f"{shard} in {pair}" for pair, shard in found.items())
            raise ValueError(f"--shard auto found more than one shard: {said}. {_BY_HAND}")
        return found.popitem()[1]

    def select(self, weights: Mapping[str, Weight]) -> set[str]:
        """Return which of the suite's classes are in this shard, given those of all shards.

        Every class is in one of the shards. They are the same on each machine that has the same
        suite and the same history.
        """
        is_timed = any(weight.seconds is not None for weight in weights.values())
        shards = (_by_seconds if is_timed else _by_name)(weights, self.total)
        return {name for name, number in shards.items() if number == self.number}


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two variables of a CI engine, whose index of the first job is 0 or 1."""

    index: str
    total: str
    first: int

    def __str__(self) -> str:
        return f"{self.index} and {self.total}"

    def read(self, environ: Mapping[str, str]) -> Shard | None:
        """Return the shard, None where neither variable is set.

        Raises ValueError where only one is, or they make no shard.
        """
        index, total = (environ.get(name, "").strip() for name in (self.index, self.total))
        if not index and not total:
            return None
        if not index and total == "1":
            # As in GitLab's jobs without `parallel`.
            return Shard(1, 1)
        number = int(index) + 1 - self.first if re.fullmatch(_NUMBER, index) else 0
        try:
            return Shard.parse(f"{number}/{total}")
        except ValueError:
            raise ValueError(
                f"--shard auto cannot make a shard of {self.index}={index!r}, which counts from "
                f"{self.first}, and {self.total}={total!r}. {_BY_HAND}"
            ) from None


# The same names count from 1 in one engine and from 0 in another. An unknown engine is taken to
# count as GitLab does: if it does not, its first job fails, so that no test is left out unseen.
# https://docs.gitlab.com/ci/variables/predefined_variables/
_GITLAB = _Pair("CI_NODE_INDEX", "CI_NODE_TOTAL", 1)
# https://devcenter.heroku.com/articles/heroku-ci-parallel-test-runs
_HEROKU = _Pair("CI_NODE_INDEX", "CI_NODE_TOTAL", 0)
_OTHERS = (
    # https://circleci.com/docs/reference/variables/
    _Pair("CIRCLE_NODE_INDEX", "CIRCLE_NODE_TOTAL", 0),
    # https://buildkite.com/docs/pipelines/configure/environment-variables
    _Pair("BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT", 0),
    # https://docs.semaphoreci.com/reference/env-vars
    _Pair("SEMAPHORE_JOB_INDEX", "SEMAPHORE_JOB_COUNT", 1),
    # https://learn.microsoft.com/azure/devops/pipelines/test/parallel-testing-any-test-runner
    _Pair("SYSTEM_JOBPOSITIONINPHASE", "SYSTEM_TOTALJOBSINPHASE", 1),
    # https://support.atlassian.com/bitbucket-cloud/docs/set-up-or-run-parallel-steps/
    _Pair("BITBUCKET_PARALLEL_STEP", "BITBUCKET_PARALLEL_STEP_COUNT", 0),
    # https://docs.bitrise.io/en/bitrise-ci/references/available-environment-variables
    _Pair("BITRISE_IO_PARALLEL_INDEX", "BITRISE_IO_PARALLEL_TOTAL", 0),
    # https://developer.harness.io/docs/continuous-integration/troubleshoot-ci/ci-env-var/
    _Pair("HARNESS_NODE_INDEX", "HARNESS_NODE_TOTAL", 0),
)


def _by_seconds(weights: Mapping[str, Weight], total: int) -> dict[str, int]:
    """Return each class's shard, the longest first to the shard that has least to do.

    Which takes a third longer than the best there is, at most (Graham, 1969).
    """
    seconds = _estimated(weights)
    # Where many take no time that could be measured, tests are shared out evenly.
    longest = sorted(weights, key=lambda name: (-seconds[name], -weights[name].tests, name))
    loads = [(0.0, 0, number) for number in range(1, total + 1)]
    shards = {}
    for name in longest:
        taken, tests, shards[name] = loads[0]
        load = (taken + seconds[name], tests + weights[name].tests, shards[name])
        heapq.heapreplace(loads, load)
    return shards


def _estimated(weights: Mapping[str, Weight]) -> dict[str, float]:
    """Return each class's seconds, by those of a test of the others where nobody knows."""
    known = {name: each.seconds for name, each in weights.items() if each.seconds is not None}
    # A sum that depended on the order of discovery would not be the same on every machine.
    pace = math.fsum(known.values()) / max(1, sum(weights[name].tests for name in known))
    return {name: known.get(name, pace * each.tests) for name, each in weights.items()}


def _by_name(weights: Mapping[str, Weight], total: int) -> dict[str, int]:
    """Return each class's shard: the first with room, in an order that its name alone decides.

    So most classes stay where they are when others come and go, or when a shard is added. With
    no limit all others would stay, and a shard could get twice its share of the tests; with one
    close to the share, each new class would push others on and on.
    """
    # An eighth more than its share. Only where no shard has room for a class can one get more.
    limit = 9 * sum(weight.tests for weight in weights.values()) // (8 * total)
    loads = dict.fromkeys(range(1, total + 1), 0)
    shards = {}
    for name in sorted(weights):
        tests = weights[name].tests
        preferred = sorted(loads, key=lambda number: _rank(name, number))
        least = min(preferred, key=loads.__getitem__)
        shards[name] = next((n for n in preferred if loads[n] + tests <= limit), least)
        loads[shards[name]] += tests
    return shards


def _rank(name: str, number: int) -> bytes:
    # Rendezvous hashing: https://en.wikipedia.org/wiki/Rendezvous_hashing
    return blake2b(f"{number} {name}".encode(), digest_size=8).digest()
