"""Run a job from and to S3 servers that fail, kill its driver with -9 on the way, and see whether the output is byte-equal.

    python -m tools.fault_run [--server moto] [--fault all --fault silence] [--kills 5] [--engine ray] [--rows 96] [--rate 0.1]

In: nothing; it starts the servers, the fault proxy before each (tools/faults/), and for Ray a cluster of one node, which
outlives the drivers. Out: a table, a line for each server and fault (all: every fault by turns): how often the driver was
killed and how the last start ended, whether its files equal those of an undisturbed run, whether every row is there once,
requests, how many of them failed, seconds. Exit code 1 if a line is wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import click

from materia.cli.shared import print_table
from pipeline.job import Engine
from tools.faults import job
from tools.faults.proxy import FAULTS, FaultProxy, serving
from tools.faults.servers import SERVERS, credentials, running

ALL = "all"
_TIMEOUT_S = 1.0
_START_S = 300.0


class Case(NamedTuple):
    """How a line of the table is made."""

    engine: Engine
    ray_address: str | None
    kills: int
    rate: float
    seed: int


class Line(NamedTuple):
    """Of the table."""

    server: str
    fault: str
    kills: int
    exit_code: int
    equal: bool
    complete: bool
    requests: int
    failed: int
    seconds: float

    @property
    def right(self) -> bool:
        """Whether nothing was lost, doubled or changed."""
        return not self.exit_code and self.equal and self.complete


@click.command()
@click.option("--server", "servers", multiple=True, type=click.Choice(SERVERS), help="Repeatable; without it, each.")
@click.option("--fault", "faults", multiple=True, type=click.Choice([ALL, *FAULTS]), help="Repeatable; without it, each.")
@click.option("--kills", default=5, show_default=True, help="Of the driver, with -9, at moments drawn by the seed.")
@click.option("--engine", default="ray", type=click.Choice(["ray", "serial"]), show_default=True)
@click.option("--rows", default=96, show_default=True)
@click.option("--rate", default=0.1, show_default=True, help="Share of the requests that fail.")
@click.option("--seed", default=0, show_default=True)
def main(
    servers: tuple[str, ...], faults: tuple[str, ...], kills: int, engine: Engine, rows: int, rate: float, seed: int
) -> None:
    """See this file's first lines."""
    lines = []
    os.environ.update(credentials())  # for Ray's workers, too
    with _cluster(engine) as ray_address:
        case = Case(engine, ray_address, kills, rate, seed)
        for server in servers or SERVERS:
            for line in _lines(server, faults or (ALL, *FAULTS), rows, case):
                print(*line, file=sys.stderr)
                lines.append(line)
    words = {True: "yes", False: "NO"}
    print_table(
        ["server", "fault", "kills", "exit", "byte-equal", "rows once", "requests", "failed", "seconds"],
        [
            [*map(str, line[:4]), words[line.equal], words[line.complete], *map(str, line[6:8]), f"{line.seconds:.0f}"]
            for line in lines
        ],
    )
    sys.exit(not all(line.right for line in lines))


def _lines(server: str, faults: tuple[str, ...], rows: int, case: Case) -> Iterator[Line]:
    """Of one server, which holds the undisturbed output too."""
    with running(server) as behind:
        job.make_input(behind, rows)
        calm = FaultProxy(behind)
        with serving(calm) as address:
            result = job.run(address, "calm", "inline", _TIMEOUT_S)
        if result.exit_code:
            raise SystemExit(f"the undisturbed run failed: {result.message}")
        undisturbed = job.contents(behind, "calm")
        for fault in faults:
            began = time.monotonic()
            chosen = list(FAULTS) if fault == ALL else [fault]
            proxy = FaultProxy(behind, case.rate, chosen, case.seed, silence_s=3 * _TIMEOUT_S)
            with serving(proxy) as address:
                killed, exit_code = _run(proxy, address, fault, calm.requests.total(), case)
            found = job.contents(behind, fault)
            yield Line(
                server,
                fault,
                killed,
                exit_code,
                found == undisturbed,
                job.rows_of(found) == list(range(rows)),
                proxy.requests.total(),
                proxy.met.total(),
                time.monotonic() - began,
            )


def _run(proxy: FaultProxy, address: str, out: str, usual_requests: int, case: Case) -> tuple[int, int]:
    """(kills, exit code of the last start) of a job that is killed after so many requests, and started again."""
    moments = random.Random(f"{case.seed} {out}")
    request = {"server": address, "out": out, "engine": case.engine, "timeout_s": _TIMEOUT_S, "ray_address": case.ray_address}
    command = [sys.executable, "-m", "tools.faults.job", json.dumps(request)]
    for kills in range(case.kills + 1):
        enough = proxy.requests.total() + moments.randint(10, max(11, usual_requests // (case.kills + 1)))
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        ends = time.monotonic() + _START_S
        while driver.poll() is None and (kills == case.kills or proxy.requests.total() < enough):
            if time.monotonic() > ends:
                driver.kill()
                raise SystemExit(f"{out}: a start took more than {_START_S:.0f} s")
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(0.02)
        if driver.poll() is not None:
            said = driver.communicate()[1]
            if driver.returncode:
                print(said, file=sys.stderr)
            return kills, driver.returncode
        driver.kill()
        driver.communicate()
    raise AssertionError("the last start is not killed")


@contextmanager
def _cluster(engine: str) -> Iterator[str | None]:
    """The address of a Ray cluster of one node; None where Ray does not run the job."""
    if engine != "ray":
        yield None
        return
    from materia.base.ray_session import start_ray  # noqa: F401  # first, because it sets Ray's environment

    # isort: split
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=4, object_store_memory=100 * 2**20, include_dashboard=False)
        yield cluster.address
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
