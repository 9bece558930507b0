"""A full disk stops a job, is no clip's fault, and leaves nothing that the same command could not finish."""

import pytest
from jobs import STUBS, contents, make_config, make_manifest, start
from stub_stages import NO_ROOM, STUB_BYTES

from materia.dataset.layout import committed
from pipeline.job import run_job

CAPTIONS = ["a dog"] * 10 + ["a dog [writes]"] + ["a dog"] * 5


@pytest.fixture
def manifest(tmp_path):
    return make_manifest(tmp_path / "clips", CAPTIONS)


def run(manifest, out, engine="serial"):
    return run_job(
        make_config(workers=1, rows_per_batch=4), input=manifest, output=str(out), engine=engine, stage_factory=STUBS
    )


@pytest.mark.parametrize("engine", ["serial", "inline", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_disk_that_is_full_for_a_worker_stops_the_job_and_the_same_command_goes_on(manifest, tmp_path, monkeypatch, engine):
    monkeypatch.setenv(NO_ROOM, str(tmp_path / "full"))
    assert run(manifest, tmp_path / "undisturbed", "inline").exit_code == 0
    (tmp_path / "full").touch()
    stopped = run(manifest, tmp_path / "out", engine)
    assert stopped.exit_code == 5
    assert "No space left on device; when it takes files again, the same command goes on" in stopped.message
    assert len(stopped.message.splitlines()) == 1
    assert 1 not in committed(str(tmp_path / "out"))

    (tmp_path / "full").unlink()
    assert run(manifest, tmp_path / "out", "inline").exit_code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


@pytest.mark.ray
def test_an_object_store_of_ray_that_is_full_with_its_disk_stops_the_job_and_the_same_command_goes_on(tmp_path, monkeypatch):
    manifest = make_manifest(tmp_path / "clips", ["a dog"] * 4)
    monkeypatch.setenv(STUB_BYTES, "40000000")  # a slice is larger than the store of 100 MB
    monkeypatch.setenv("RAY_local_fs_capacity_threshold", "0.0001")  # of its disk, from which on Ray takes it for full
    stopped = run(manifest, tmp_path / "out", "ray")
    assert (stopped.exit_code, committed(str(tmp_path / "out"))) == (5, set()), stopped.message
    assert "the disk of Ray's folder" in stopped.message and "the same command goes on" in stopped.message
    monkeypatch.delenv("RAY_local_fs_capacity_threshold")
    assert run(manifest, tmp_path / "out", "inline").exit_code == 0


@pytest.mark.parametrize("engine", ["serial", "inline"])
def test_an_output_that_takes_no_more_stops_the_job_with_one_line(manifest, tmp_path, monkeypatch, engine):
    monkeypatch.setenv(NO_ROOM, str(tmp_path / "full"))
    (tmp_path / "clips/clip.mp4").write_bytes(bytes(100_000))
    limited = start(manifest, tmp_path / "out", engine, largest_file=300_000)  # more than any file but the shard
    said = limited.communicate()[1]
    assert limited.returncode == 5, said
    told = said.splitlines()[-1]
    assert told.startswith(f"{tmp_path}/out/shards: File too large; when it takes files again") and "Traceback" not in said
    assert not committed(str(tmp_path / "out"))

    for out in ("out", "undisturbed"):
        assert run(manifest, tmp_path / out, "inline").exit_code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "lost",
    [
        "shards/000000.tar",
        "index/000001.parquet",
        "instances/000001.parquet",
        "rejects/000000.parquet",
        "commits/000001.json",
    ],
)
@pytest.mark.parametrize("how", ["gone", "cut off", "longer", "another commit"])
def test_what_was_lost_is_built_again_as_it_was(manifest, tmp_path, capsys, lost, how, monkeypatch):
    monkeypatch.setenv(NO_ROOM, str(tmp_path / "full"))
    out = tmp_path / "out"
    run(manifest, out, "inline")
    before, whole = contents(out), out / lost
    content = whole.read_bytes()
    whole.write_bytes({"cut off": content[:-7], "longer": content + b"0123"}.get(how, b"{}"))
    if how == "gone":
        whole.unlink()
    result = run(manifest, out, "inline")
    assert (result.exit_code, result.samples) == (0, 16)
    assert contents(out) == before
    if how != "gone" or "commits" not in lost:
        assert f"notice: {whole}" in capsys.readouterr().err
