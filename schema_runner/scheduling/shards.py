"""Shards: parts of a suite that several machines run without communicating."""

import heapq
import math
import re
from collections.abc import Mapping
from typing import NamedTuple, Self
from zlib import crc32

_ADVICE = "Pass the shard yourself, such as --shard 2/4."
# At most four digits, so that a typo cannot allocate much memory.
_NUMBER = "[0-9]{1,4}"


class Weight(NamedTuple):
    """The size of a test class."""

    # The number of tests.
    tests: int
    # The seconds of all tests, finite and not negative; None if the history lacks the class.
    seconds: float | None = None


class Shard(NamedTuple):
    """Shard `number`, from 1 to `total`, of the `total` shards of a suite."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shard for a string such as "2/4". Raises ValueError if it is not one."""
        match = re.fullmatch(rf"\s*({_NUMBER})\s*/\s*({_NUMBER})\s*", text)
        number, total = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= total:
            raise ValueError(
                f"must be I/N with I from 1 to N, such as 2/4, or auto to read both from the "
                f"environment variables of the CI service, not {text!r}"
            )
        return cls(number, total)

    @staticmethod
    def from_environment(environ: Mapping[str, str]) -> "Shard":
        """Return the shard from the environment variables of a CI service.

        If the jobs of a matrix differ, for example in the Python version, the variables number all
        of them together and are no shard: pass --shard I/N in these jobs. Raises ValueError if the
        variables contain no shard, or different ones.
        """
        if environ.get("CIRRUS_CI"):
            # https://cirrus-ci.org/guide/writing-tasks/#environment-variables
            raise ValueError(
                "--shard auto does not work on Cirrus CI, because CI_NODE_INDEX and CI_NODE_TOTAL "
                f"also count the tasks of a build that run no tests. {_ADVICE}"
            )
        pair = _HEROKU if environ.get("HEROKU_TEST_RUN_ID") else _GITLAB
        results = {each: each.read(environ) for each in (pair, *_OTHERS)}
        shards = {each: shard for each, shard in results.items() if shard}
        if not shards:
            names = ", ".join(map(str, results))
            raise ValueError(
                f"--shard auto: none of these pairs of variables is set: {names}. {_ADVICE}"
            )
        if len(set(shards.values())) > 1:
            listed = ", ".join(f"{shard} in {each}" for each, shard in shards.items())
            raise ValueError(
                f"--shard auto: the variables name different shards: {listed}. {_ADVICE}"
            )
        return shards.popitem()[1]

    def select(self, weights: Mapping[str, Weight]) -> set[str]:
        """Return the names of the classes in this shard, from the weights of the whole suite.

        Each class is in exactly one shard. The result depends only on the weights, so it is the
        same on each machine with the same suite and history.
        """
        if any(weight.seconds is not None for weight in weights.values()):
            shards = _by_seconds(weights, self.total)
        else:
            shards = {name: 1 + crc32(name.encode()) % self.total for name in weights}
        return {name for name, number in shards.items() if number == self.number}


class _Pair(NamedTuple):
    """The two variables of a CI service; the number of the first job is `first`, 0 or 1."""

    job: str
    total: str
    first: int

    def __str__(self) -> str:
        return f"{self.job} and {self.total}"

    def read(self, environ: Mapping[str, str]) -> Shard | None:
        """Return the shard; None if neither variable is set.

        Raises ValueError if only one is set, or if they are not the numbers of a shard.
        """
        index, total = (environ.get(name, "").strip() for name in (self.job, self.total))
        if not index and not total:
            return None
        if not index and total == "1":
            # GitLab jobs without `parallel`.
            return Shard(1, 1)
        number = int(index) + 1 - self.first if re.fullmatch(_NUMBER, index) else 0
        try:
            return Shard.parse(f"{number}/{total}")
        except ValueError:
            raise ValueError(
                f"--shard auto: {self.job}={index!r}, which counts from {self.first}, and "
                f"{self.total}={total!r} are not a shard. {_ADVICE}"
            ) from None


# GitLab and Heroku use the same names, but count from 1 and from 0. For an unknown service with
# these names, GitLab's numbering is assumed: if it counts from 0, its first job fails, so that no
# tests are silently left out.
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
    """Map each class to a shard: the longest first, each to the shard with the least load.

    The longest shard takes at most a third more than the optimum (Graham, 1969).
    """
    seconds = _estimate_seconds(weights)
    # The number of tests balances classes that take no measurable time.
    longest = sorted(weights, key=lambda name: (-seconds[name], -weights[name].tests, name))
    loads = [(0.0, 0, number) for number in range(1, total + 1)]
    shards = {}
    for name in longest:
        used, tests, shards[name] = loads[0]
        load = (used + seconds[name], tests + weights[name].tests, shards[name])
        heapq.heapreplace(loads, load)
    return shards


def _estimate_seconds(weights: Mapping[str, Weight]) -> dict[str, float]:
    """Map each class to its seconds; an unknown class gets the mean of the known tests."""
    known = {name: each.seconds for name, each in weights.items() if each.seconds is not None}
    # math.fsum, because its result does not depend on the order of discovery.
    mean = math.fsum(known.values()) / max(1, sum(weights[name].tests for name in known))
    return {name: known.get(name, mean * each.tests) for name, each in weights.items()}
