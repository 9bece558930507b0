"""`materia status`, from outside: of a job that runs, that is stuck, that was killed, that is done, and of a very large one."""

import json
import re
import signal
import time
import uuid

import msgspec
import psutil
import pytest
from click.testing import CliRunner
from jobs import STUBS, kill_all, make_config, make_manifest, start, wait_for
from s3_server import s3_bucket
from stub_stages import GATES

from materia.base import leases, storage
from materia.base.leases import Claim, Holder, Renewal
from materia.cli.main import main
from materia.dataset.layout import DatasetInfo, write_info
from pipeline.cluster import status
from pipeline.cluster.status import read_status
from pipeline.job import run_job
from pipeline.pools import Pool, speed_of_light
from pipeline.preflight import lease_folder
from pipeline.snapshot import Snapshot, UnderWay

CAPTIONS = ["a dog"] * 10 + ["a dog [nothing]"] * 2 + ["a dog"] * 6 + ["a dog [gate]"] + ["a dog"] * 5  # 3 chunks


def ask(out, *options):
    return CliRunner().invoke(main, ["status", str(out), *options])


def test_a_job_that_runs_is_killed_and_goes_on(tmp_path, monkeypatch):
    manifest, out = make_manifest(tmp_path / "clips", CAPTIONS), tmp_path / "out"
    missing = ask(out)
    assert missing.exit_code == 2 and "no job has begun there" in missing.output
    monkeypatch.setenv(GATES, str(tmp_path))
    job = start(manifest, out, "serial", lease_s=1, min_deadline_s=600)
    wait_for((tmp_path / "c0018.here").exists)
    found = wait_for(lambda: "frames" in str((seen := read_status(str(out))).under_way) and seen.chunks_done == 2 and seen)
    assert (found.state, found.rows, found.chunks, found.rows_done) == ("running", 24, 3, 16)
    assert (found.kept, found.rejected) == (14, {"no_subject": 2})
    (slowest,) = found.under_way
    assert slowest.slice == 4 and slowest.node
    assert found.problems == [] and found.starts[0].pid == job.pid and found.nodes.keys() == {slowest.node}
    assert "running" in ask(out).stdout

    for process in psutil.Process(job.pid).children(recursive=True):
        if "pipeline.engine.child" in process.cmdline():
            process.send_signal(signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(status, "_STALLED_S", 1.0)
        stuck = wait_for(lambda: (seen := read_status(str(out))).state == "stalled" and seen)
    assert re.fullmatch(r"no commit for 0:\d\d; slowest: slice 4 on .+ \(frames, .*cut\) since 0:\d\d", stuck.problems[0])

    later = read_status(str(out), now_s=time.time() + 0.5)  # nothing is said in the meantime, but that is not long
    assert later.state == "running"
    kill_all(job)
    dead = ask(out, "--json")
    assert dead.exit_code == 5 and json.loads(dead.stdout)["state"] == "dead"
    assert "is dead; the same command goes on" in ask(out, "--watch").stdout

    (tmp_path / "c0018.open").touch()
    assert run_job(make_config(), input=manifest, output=str(out), engine="inline", stage_factory=STUBS).exit_code == 0
    done = ask(out)
    assert done.exit_code == 0 and "24 of 24 rows (100.0 %), 3 of 3 chunks" in done.stdout
    assert read_status(str(out)).rejected == {"no_subject": 2} and read_status(str(out)).kept == 22


@pytest.mark.ray
def test_a_chunk_is_told_when_it_is_there_however_long_the_next_slice_takes(tmp_path, monkeypatch):
    captions, out = ["a dog"] * 8 + ["a dog [gate]"] + ["a dog"] * 3, tmp_path / "out"
    monkeypatch.setenv(GATES, str(tmp_path))
    job = start(make_manifest(tmp_path / "clips", captions), out, "ray", lease_s=1, min_deadline_s=600)
    try:
        wait_for((tmp_path / "c0008.here").exists)
        found = wait_for(lambda: (seen := read_status(str(out))).chunks_done and seen)
        assert (found.state, found.rows_done, found.kept) == ("running", 8, 8)
        (tmp_path / "c0008.open").touch()
        assert job.wait(100) == 0
    finally:
        job.kill()


def test_a_job_that_is_stopped_in_good_order_and_not_done(tmp_path):
    manifest, out = make_manifest(tmp_path / "clips", CAPTIONS[:16]), tmp_path / "out"
    run_job(make_config(), input=manifest, output=str(out), engine="inline", chunks=(0, 1), stage_factory=STUBS)
    found = read_status(str(out))
    assert (found.state, found.rows_done, found.rows) == ("stopped", 8, 16)
    assert "no job is running" in found.problems[0]


@pytest.fixture(params=["disk", "s3"])
def out(request, tmp_path):
    if request.param == "disk":
        yield str(tmp_path / "out")
        return
    with s3_bucket() as bucket:
        yield f"{bucket}/{uuid.uuid4().hex}"


def tell(out, fence, snapshot, holder, since_s=0.0, renewed_s=990.0, chunks=(0, None)):
    """A claim, and what its holder said last."""
    folder = lease_folder(out)
    claims = [*leases.claims_in(folder), Claim(fence=fence, first=chunks[0], end=chunks[1], holder=holder, since_s=since_s)]
    storage.atomic_write(f"{folder}/claims.json", msgspec.json.encode({"claims": claims}))
    said = Renewal(fence=fence, renewed_s=renewed_s, lease_s=180, told=msgspec.to_builtins(snapshot))
    storage.atomic_write(f"{folder}/{fence:06d}.json", msgspec.json.encode(said))


def holder(host):
    return Holder("ann", host, 7, f"boot of {host}", 1)


def plan_of(out, rows, chunks):
    empty = {"version": "0", "plan_sha256": "0", "config": {}, "prompt_sha": "0" * 64, "stage_sha": {}}
    write_info(out, DatasetInfo(rows=rows, chunks=chunks, rows_per_chunk=1024, **empty))


def test_ten_million_rows_on_two_machines_one_of_which_is_stuck_and_one_silent(out):
    plan_of(out, 10_000_000, 9766)
    base = Snapshot(
        rows=5_000_000, done_before=0, done=1_024_000, chunks=[(0, 1000)], kept=1_000_000, rejected={"no_subject": 24_000},
        seconds={"frames": 512_000.0, "segment": 102_400.0},
        pools=[Pool(["frames"], 8, cpus=1), Pool(["segment"], 1, cards=0.5)],
        elapsed_s=100_000, clips_per_s=9, slice_s=30.0, since_commit_s=600.0,
        under_way=[UnderWay(64_000, ["frames"], "gpu-7", 700.0)],
    )  # fmt: skip
    tell(out, 1, base, holder("a"), chunks=(0, 5000))
    tell(out, 2, msgspec.structs.replace(base, chunks=[(5000, 5400)]), holder("b"), chunks=(5000, None), renewed_s=700)
    began = time.perf_counter()
    found = read_status(out, now_s=1000.0)
    assert time.perf_counter() - began < 2
    assert [start.state for start in found.starts] == ["stalled", "dead"] and found.state == "stalled"
    assert (found.chunks_done, found.rows_done) == (1400, 1400 * 1024)
    assert (found.kept, found.clips_per_s, found.light_share) == (2_000_000, 9, round(9 / 10, 4))
    assert found.left_s == round((10_000_000 - 1400 * 1024) / 9, 1)
    assert (found.card_hours, found.cpu_hours) == (round(2 * 100_000 * 0.5 / 3600, 4), round(2 * 100_000 * 8 / 3600, 4))
    assert found.problems == [
        "no commit (chunks 0:5000) for 10:10; slowest: slice 64000 on gpu-7 (frames) since 11:50",
        "ann's process 7 on b (chunks 5000:) is dead; the same command goes on",
    ]


def test_what_the_slowest_pool_allows():
    seconds = {"frames": 20.0, "localise": 10.0, "segment": 30.0}
    assert speed_of_light(seconds, [Pool(["frames"], 2), Pool(["localise", "segment"], 8)], 100) == 10.0
    assert speed_of_light(seconds, [Pool(["frames"], 4), Pool(["localise", "segment"], 2)], 100) == 5.0
    assert speed_of_light(seconds, [Pool(["frames"], 4), Pool(["localise", "segment"], 3, side_by_side=True)], 100) == 10.0
    assert speed_of_light({}, [], 0) == 0.0
