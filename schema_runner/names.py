"""The names that this package gives to what it creates."""

import re

_WORKER_SCHEMA = re.compile(r"test_w[1-9][0-9]*_[0-9]+")
_APPLICATION = re.compile(r"django-schema-runner ([0-9]+)")


def worker_schema(worker: int, milliseconds: int) -> str:
    """Return the name of a worker's schema; `milliseconds` are since the Unix epoch."""
    return f"test_w{worker}_{milliseconds}"


def is_worker_schema(name: str) -> bool:
    return _WORKER_SCHEMA.fullmatch(name) is not None


def application(run: int) -> str:
    """Return the application_name by which the server shows the connections of a run."""
    return f"django-schema-runner {run}"


def run_of_application(application: str) -> int | None:
    """Return the run whose connections have this application_name, if it is one of ours."""
    found = _APPLICATION.fullmatch(application)
    return int(found[1]) if found else None
