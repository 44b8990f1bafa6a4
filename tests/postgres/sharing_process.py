"""A process that shares a host database with others, as a program for tests.

It prints a line for each step, and waits for a line on standard input before the next one.
"""

import json
import sys
from contextlib import ExitStack
from typing import Any

from schema_runner.postgres.host import Host
from schema_runner.postgres.host_request import HostRequest, PoolCriteria, Sharing
from schema_runner.postgres.host_reservation import Reservation
from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.project_host import ProjectDatabase
from schema_runner.postgres.server import Server


def say(text: str) -> None:
    print(text, flush=True)


def wait() -> None:
    sys.stdin.readline()


def open_host(request: HostRequest, build_lock: ExitStack) -> Host:
    if request.is_projects_own:
        return ProjectDatabase.open(request, build_lock)
    reservation = Reservation(request, build_lock)

    def create() -> None:
        with request.server.maintenance() as connection:
            connection.execute(f"CREATE DATABASE {reservation.name}")

    return reservation.kept or reservation.create_host(create)


def build(host: Host) -> str:
    building = host.begin_build(1) or "public"
    with host.connect() as connection:
        connection.execute(f"CREATE TABLE {building}.author (name text)")
        say("building")
        wait()
        connection.execute(f"INSERT INTO {building}.author VALUES ('here')")
        schema = host.finish_build(1)
        host.start_dump(schema, PgDump.find(connection.info.server_version))
    host.create_template(schema, {}, None)
    return schema


def build_for_clones(host: Any) -> str:
    host.begin_build(1)
    with host.connect() as connection:
        connection.execute("CREATE TABLE public.author (name text)")
        say("building")
        wait()
        connection.execute("INSERT INTO public.author VALUES ('here')")
    host.prepare_clones({})
    return clone(host)


def clone(host: Any) -> str:
    with host.clones.creation(1), host.server.maintenance() as connection:
        name = host.clones.names[1]
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {host.name}")
    return str(name)


def main(params: dict[str, Any], name: str, mode: str, fingerprint: str, sharing: Any) -> None:
    wanted = PoolCriteria(
        fingerprint=fingerprint,
        is_unchanged=lambda _: True,
        now=2,
        oldest=1,
        max_others=1,
        report_nearest=lambda *_: None,
        sharing=Sharing(**sharing),
    )
    request = HostRequest(
        server=Server(params),
        name=name,
        is_projects_own=mode == "project",
        workers=1,
        oldest_version=140000,
        log=say,
        wanted=wanted,
    )
    leased = None
    with ExitStack() as build_lock:
        host: Any = open_host(request, build_lock)
        if mode == "clones":
            is_built = not host.is_kept_for_clones
            schema, database = "public", build_for_clones(host) if is_built else clone(host)
        else:
            is_built, database, leased = host.template is None, host.name, host.own_schema
            schema = build(host) if is_built else ""
            schema = schema or leased or host.schema_source("").lease_or_copy(1)
        host.start_tests()
    with request.server.connect(database) as connection:
        rows = connection.execute(f"SELECT name FROM {schema}.author").fetchall()
    assert rows == [("here",)]
    say("built" if is_built else "leased" if leased else "copied")
    wait()
    stays = wanted.sharing.stays
    if mode == "clones":
        if not (stays and host.keep_clone(database)):
            host.clones.drop(database)
    elif stays:
        host.keep_schema(schema, host.schema_source(schema))
    else:
        host.drop_worker_schemas(1)
    host.release(keep=stays)
    say("ended")


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
