"""A job that reads from and writes to a store that fails: the bytes of an undisturbed one, or a stop that loses nothing."""

import json
import subprocess
import sys

import fsspec
import pytest
from jobs import wait_for

from materia.base import retries
from tools.faults import job
from tools.faults.proxy import FAULTS, FaultProxy, serving
from tools.faults.servers import credentials, running

ROWS = 8
TIMEOUT_S = 0.3
ENDLESS = 10**6


@pytest.fixture(scope="module")
def server():
    """ministack, which checks every condition. `tools.fault_run` runs jobs on moto, too."""
    with running("ministack") as server:
        job.make_input(server, ROWS)
        yield server


@pytest.fixture(scope="module")
def always(server):
    proxy = FaultProxy(server, silence_s=3 * TIMEOUT_S)
    with serving(proxy):
        yield proxy


@pytest.fixture
def proxy(always):
    always.calm()
    return always


@pytest.fixture(autouse=True)
def hurried(monkeypatch, server):
    """Pauses of this process are short; how it reaches stores ends with the test."""
    for name in ("PAUSES_S", "PATIENT_PAUSES_S"):
        monkeypatch.setattr(retries, name, (0.0, *[0.01] * 5))
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.0)
    for name, value in (credentials() | {"FSSPEC_S3": "{}"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fsspec.config, "conf", {})


@pytest.fixture(scope="module")
def undisturbed(server, always):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (credentials() | {"FSSPEC_S3": "{}"}).items():
            patch.setenv(name, value)
        patch.setattr(fsspec.config, "conf", {})
        result = job.run(always.address, "undisturbed", "inline", TIMEOUT_S)
    assert (result.exit_code, result.samples, result.rejections) == (0, ROWS - 2, 2), result.message
    files = job.contents(server, "undisturbed")
    assert job.rows_of(files) == list(range(ROWS))
    return files


def of_input(request):
    return request.path.startswith("/bucket/in/") and request.path.endswith(".mp4") and request.method == "GET"


def of_output(request):
    return request.method == "PUT" and "/_run/" not in request.path


def test_every_fault_at_once_changes_no_byte(server, undisturbed, proxy):
    proxy.rate, proxy.faults = 0.15, list(FAULTS)
    result = job.run(proxy.address, "all", "inline", TIMEOUT_S)
    assert (result.exit_code, result.rows, result.samples) == (0, ROWS, ROWS - 2), result.message
    assert proxy.met.total() > 10
    assert job.contents(server, "all") == undisturbed


@pytest.mark.parametrize(
    ("fault", "where", "exit_code", "words"),
    [
        ("slow_down", of_output, 5, "the storage failed 6 times, last with SlowDown; when it answers again, the same command"),
        ("expired", of_input, 5, "the credentials have expired (ExpiredToken); renew them"),
        ("unknown_key", of_output, 2, "the storage does not accept the credentials (InvalidAccessKeyId)"),
    ],
)
def test_what_lasts_stops_the_job_and_the_same_command_goes_on(server, undisturbed, proxy, fault, where, exit_code, words):
    out = f"{fault}-{where.__name__}"
    seen = []

    def after_some(request):
        seen.extend([request] * where(request))
        return len(seen) > 2 and where(request)

    proxy.next(fault, ENDLESS, after_some)
    stopped = job.run(proxy.address, out, "inline", TIMEOUT_S)
    assert (stopped.exit_code, words in stopped.message) == (exit_code, True), stopped.message
    assert proxy.met[fault]
    proxy.calm()
    assert job.run(proxy.address, out, "inline", TIMEOUT_S).exit_code == 0
    assert job.contents(server, out) == undisturbed


def test_a_child_that_is_not_let_in_stops_the_job_too(server, undisturbed, proxy):
    proxy.next("unknown_key", ENDLESS, of_input)
    stopped = job.run(proxy.address, "child", "serial")
    assert stopped.exit_code == 2 and "InvalidAccessKeyId" in stopped.message, stopped.message
    assert "transient_exhausted" not in stopped.message


@pytest.mark.ray
def test_a_cluster_without_the_keys_of_the_driver_is_told_so(server, ray_address):
    request = {"server": server, "out": "no_keys", "engine": "ray", "ray_address": ray_address}
    result = job.run(**request)
    assert result.exit_code == 2 and "no credentials were found" in result.message, result.message


def test_a_clip_that_cannot_be_fetched_is_one_rejection_and_others_are_none(server, undisturbed, proxy):
    proxy.next("unavailable", ENDLESS, lambda request: of_input(request) and "/2.mp4" in request.path)
    result = job.run(proxy.address, "clip", "inline")
    lost = len(range(2, ROWS, job.CLIPS)) - 1  # one of them has no caption
    assert (result.exit_code, result.samples, result.rejections) == (0, ROWS - 2 - lost, 2 + lost), result.message
    files = job.contents(server, "clip")
    assert job.rows_of(files) == list(range(ROWS))
    assert set(job.reasons_of(files)) == {"not_found", "empty_caption", "transient_exhausted"}


@pytest.mark.ray
def test_a_driver_that_is_killed_beside_all_that_changes_no_byte(server, undisturbed, proxy, ray_address):
    proxy.rate, proxy.faults = 0.05, list(FAULTS)
    request = {"server": proxy.address, "out": "killed", "engine": "ray", "timeout_s": 1, "ray_address": ray_address}
    request["anonymous"] = True  # the cluster of the tests knows no keys
    driver = subprocess.Popen([sys.executable, "-m", "tools.faults.job", json.dumps(request)], stderr=subprocess.DEVNULL)
    wait_for(lambda: proxy.requests.total() > 40)
    driver.kill()
    assert driver.wait() < 0
    result = job.run(proxy.address, "killed", "ray", TIMEOUT_S, ray_address, anonymous=True)
    assert (result.exit_code, result.samples) == (0, ROWS - 2), result.message
    assert job.contents(server, "killed") == undisturbed
