"""Object stores are reached as the configuration says, by every process of a job; and nothing secret is ever told."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import warm
from jobs import STUBS, contents, make_config, make_manifest
from s3_server import SECRET, s3_server

import materia
from materia.base import storage
from materia.base.settings_file import ConfigError
from materia.base.storage_settings import StorageOptions, fsspec_options, use_storage
from pipeline.config import Config, load_config
from pipeline.job import run_job

MATERIA = str(Path(sys.executable).with_name("materia"))


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test says about storage ends with it."""
    monkeypatch.setattr(fsspec.config, "conf", {})
    for scheme in ("S3", "GS"):
        monkeypatch.setenv(f"FSSPEC_{scheme}", "{}")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Of an S3 server of our own with the bucket `bucket`."""
    with s3_server() as address:
        yield address


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def test_a_job_from_store_to_store(endpoint, credentials, clean, tmp_path, capfd):
    manifest = Path(make_manifest(tmp_path, ["A dog runs.", "[raise]", "A cat sits."]))
    use_storage({"s3": StorageOptions(endpoint=endpoint)})
    for name in ("clip.mp4", manifest.name):
        storage.atomic_write(f"s3://bucket/in/{name}", (tmp_path / name).read_bytes())
    fsspec.config.conf.clear()
    os.environ["FSSPEC_S3"] = "{}"

    settings = {"storage": {"s3": {"endpoint": endpoint}}, "source": {"schemes": ["s3"]}}
    config = Config.model_validate(make_config().model_dump() | settings)
    result = run_job(
        config, input=f"s3://bucket/in/{manifest.name}", output="s3://bucket/out", engine="serial", stage_factory=STUBS
    )
    assert result.exit_code == 0, result.message
    dataset = materia.open_dataset("s3://bucket/out")
    assert [sample.document.row for sample in dataset] == [0, 2]

    copy = tmp_path / "copy"
    fsspec.filesystem("s3", endpoint_url=endpoint).get("bucket/out", str(copy), recursive=True)
    run_job(make_config(), input=str(manifest), output=str(tmp_path / "out"), engine="serial", stage_factory=STUBS)
    shards_and_tables = {name: data for name, data in contents(copy).items() if name != "dataset.json"}  # it names the schemes
    assert {name: contents(tmp_path / "out")[name] for name in shards_and_tables} == shards_and_tables
    told = [path.read_bytes() for path in copy.rglob("*") if path.is_file()] + [text.encode() for text in capfd.readouterr()]
    assert len(told) > 8
    for text in told:
        assert SECRET.encode() not in text and endpoint.encode() not in text


def test_a_server_that_does_not_answer_is_one_line(credentials):
    env = {**os.environ, "FSSPEC_S3": json.dumps({"endpoint_url": "http://127.0.0.1:9", "token": SECRET})}
    failed = subprocess.run(
        [MATERIA, "stats", "s3://bucket/out"], check=False, env=env, capture_output=True, text=True, timeout=120
    )
    assert (failed.returncode, failed.stdout) == (2, "")
    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: s3://bucket/out") and "EndpointConnectionError" in line
    assert SECRET not in line and "127.0.0.1" not in line


def test_every_option_has_its_name_in_the_stores_own_classes():
    options = StorageOptions(
        endpoint="https://store:9000", anonymous=True, requester_pays=True, region="eu-central-1", profile="lab"
    )
    assert fsspec_options("s3", options) == {
        "endpoint_url": "https://store:9000",
        "anon": True,
        "requester_pays": True,
        "client_kwargs": {"region_name": "eu-central-1"},
        "profile": "lab",
    }
    assert fsspec_options("s3", StorageOptions(anonymous=False)) == {}
    assert fsspec_options("gs", StorageOptions(anonymous=True)) == {"token": "anon"}
    from s3fs import S3FileSystem

    S3FileSystem(**fsspec_options("s3", options), skip_instance_cache=True)


def test_the_configuration_goes_before_the_environment_and_reaches_child_processes(clean, monkeypatch):
    monkeypatch.setenv("FSSPEC_S3", '{"endpoint_url": "http://elsewhere", "use_ssl": false}')
    use_storage({"s3": StorageOptions(endpoint="http://store", anonymous=True)})
    wanted = {"endpoint_url": "http://store", "anon": True, "use_ssl": False}
    assert fsspec.config.conf["s3"] == wanted
    code = "import fsspec, json; print(json.dumps(fsspec.config.conf['s3'], sort_keys=True))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == '{"anon": true, "endpoint_url": "http://store", "use_ssl": false}'


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "s3.secret",
            SECRET,
            "unknown field 'storage.s3.secret'; known: endpoint, anonymous, requester_pays, region, profile, timeout_s",
        ),
        ("s3.endpoint", f"https://k:{SECRET}@store", "storage.s3.endpoint: must hold no credentials"),
        ("s3.endpoint", f"https://store?signature={SECRET}", "storage.s3.endpoint: must hold no credentials"),
        ("s3.endpoint", "store:9000", "storage.s3.endpoint: must look like https://host:port"),
        ("gs.profile", SECRET, "storage: gs has no profile; known: endpoint, anonymous, requester_pays"),
        ("az.endpoint", "https://store", "storage: options of 'az' are not known here, only those of s3, gs"),
    ],
)
def test_what_does_not_belong_there_is_refused_without_being_repeated(field, value, message):
    with pytest.raises(ConfigError) as refused:
        load_config("local", (f"storage.{field}={value}",))
    assert message in str(refused.value) and SECRET not in str(refused.value)


def test_what_was_set_is_not_repeated():
    with pytest.raises(ConfigError) as refused:
        load_config("local", (f"storage.s3.endpoint={{{SECRET}: [",))
    assert "--set storage.s3.endpoint: the value is not YAML" in str(refused.value) and SECRET not in str(refused.value)
    command = ["doctor", "--config", "gpu", "--set", f"storage.s3.endpoint=https://{SECRET}", "--set", "device=cpu"]
    told = warm.run([MATERIA, *command], "heavy")
    assert "--set device=cpu" in told.stdout and SECRET not in told.stdout + told.stderr


def test_storage_is_no_part_of_any_record():
    config = make_config().model_copy(update={"storage": {"s3": StorageOptions(endpoint="http://store")}})
    assert "storage" not in config.result_fields()
