"""`materia run --wait`: an attempt after one whose node was lost does not fail on the claim that this one left behind."""

import contextlib
import json
import threading
import time
from pathlib import Path

import pytest

from pipeline.preflight import JobError, only_writer

LEASE_S = 1.0


def claimed(out: Path) -> Path:
    """A claim of a process on another machine, about which nothing is known here. The file that its holder renews."""
    folder = out / "_run" / "lease"
    folder.mkdir(parents=True)
    holder = {"who": "anna", "host": "node7", "pid": 5, "machine": "another", "started": 3}
    claim = {"fence": 1, "first": 0, "end": None, "holder": holder, "since_s": time.time()}
    (folder / "claims.json").write_text(json.dumps({"claims": [claim]}))
    renew(folder / "000001.json")
    return folder / "000001.json"


def renew(file: Path) -> None:
    file.with_suffix(".new").write_text(json.dumps({"fence": 1, "renewed_s": time.time()}))
    file.with_suffix(".new").replace(file)


def test_a_dead_jobs_claim_is_waited_for(tmp_path, capsys):
    claimed(tmp_path)
    with pytest.raises(JobError, match="anna, process 5 on node7"), only_writer(str(tmp_path), lease_s=LEASE_S):
        pass
    with only_writer(str(tmp_path), lease_s=LEASE_S, wait=True) as lease:
        assert lease.claim.fence == 2
    assert capsys.readouterr().err.count("waiting: ") == 1


def test_a_job_that_lives_is_not_waited_for(tmp_path):
    file, ended = claimed(tmp_path), threading.Event()

    def live() -> None:
        while not ended.wait(0.05):
            renew(file)

    holder = threading.Thread(target=live)
    holder.start()
    try:
        with pytest.raises(JobError, match="being written by another job") as error, contextlib.ExitStack() as stack:
            stack.enter_context(only_writer(str(tmp_path), lease_s=LEASE_S, wait=True))
        assert error.value.exit_code == 2
    finally:
        ended.set()
        holder.join()
