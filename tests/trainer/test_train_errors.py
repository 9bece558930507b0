"""What `materia train` says when it cannot: one line and an exit code for each kind of error, and nothing around it."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
import warm
import yaml
from real_clips import make_real_output
from small_run import SECONDS, config

from materia.cli.main import main
from materia.dataset.reader import Dataset
from trainer.run.loop import train
from trainer.run.precompute import precompute


class Given(NamedTuple):
    """Copies that a test may break: an output, a finished cache and run of it, the configuration that made them."""

    config: Path
    shards: Path
    cache: Path
    run: Path

    def command(self, *more: str, shards: str | None = None, output: Path | str | None = None) -> list[str]:
        paths = ["--shards", shards or str(self.shards), "--output", str(output or self.run.parent / "new")]
        return ["train", "--config", str(self.config), *paths, *more]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("made")
    settings = config(stage={"steps": 2}, data=config().data.model_dump() | {"workers": 1})
    made = Given(folder / "train.yaml", folder / "out", folder / "cache", folder / "run")
    make_real_output(folder, SECONDS)
    made.config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    precompute(settings, shards=str(made.shards), output=str(made.cache), say=lambda text: None)
    train(settings, shards=str(made.shards), output=str(made.run), say=lambda text: None)
    return made


@pytest.fixture
def given(made: Given, tmp_path: Path) -> Given:
    (tmp_path / "made").mkdir()
    for path in made:
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / "made" / path.name)
    return Given(*(tmp_path / "made" / path.name for path in made))


def sets(*overrides: str) -> Callable[[Given], list[str]]:
    return lambda given: given.command(*(part for override in overrides for part in ("--set", override)))


def where(expression: str) -> Callable[[Given], list[str]]:
    return lambda given: given.command("--where", expression)


def again(*more: str) -> Callable[[Given], list[str]]:
    return lambda given: given.command(*more, output=given.run)


def of(shards: str) -> Callable[[Given], list[str]]:
    return lambda given: given.command(shards=shards)


def into(output: str) -> Callable[[Given], list[str]]:
    return lambda given: given.command(output=output)


def with_cache(*more: str) -> Callable[[Given], list[str]]:
    return lambda given: given.command("--cache", str(given.cache), *more)


def after(change: Callable[[Given], object], command: Callable[[Given], list[str]]) -> Callable[[Given], list[str]]:
    return lambda given: (change(given), command(given))[1]


def plain(given: Given) -> list[str]:
    return given.command()


def other_columns(given: Given) -> None:
    """An index that is what was committed, but of another program."""
    path, commit = given.shards / "index/000001.parquet", given.shards / "commits/000001.json"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["duration_s"]).append_column("duration", table["duration_s"].cast("string")), path)
    told = json.loads(commit.read_text())
    told["files"]["index/000001.parquet"] = {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    commit.write_text(json.dumps(told))


def broken_clips(given: Given) -> None:
    for row in Dataset(str(given.shards)).index.to_pylist():
        clip = next(member for member in row["members"] if member["name"] == "mp4")
        with (given.shards / row["shard"]).open("r+b") as tar:
            tar.seek(clip["offset"])
            tar.write(bytes(clip["size"]))


def other_weights(part: str) -> Callable[[Given], None]:
    """A checkpoint that is whole, with tensors of other names in one of its files."""

    def change(given: Given) -> None:
        import torch
        from safetensors.torch import save_file

        folder = given.run / "checkpoints/step-00000002"
        save_file({"a/b": torch.ones(3)}, folder / f"{part}.safetensors")
        state = json.loads((folder / "state.json").read_text())
        state["files"][part] = (folder / f"{part}.safetensors").stat().st_size
        (folder / "state.json").write_text(json.dumps(state))

    return change


def edit(name: str, content: str | bytes) -> Callable[[Given], object]:
    def change(given: Given) -> None:
        path = given.config.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def cut(folder: str) -> Callable[[Given], object]:
    return lambda given: [os.truncate(tar, 3000) for tar in (given.config.parent / folder).iterdir()]


def remove(*names: str) -> Callable[[Given], object]:
    def change(given: Given) -> None:
        for name in names:
            path = given.config.parent / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def unanswered(given: Given) -> list[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return given.command("--ray", "--ray-address", f"127.0.0.1:{port}")


MORE = ("--set", "stage.steps=3")
KINDS: dict[str, tuple[Callable[[Given], list[str]], int, str]] = {
    "no shards": (after(remove("out"), plain), 2, "out is no output"),
    "an empty folder": (after(remove("out/commits", "out/dataset.json"), plain), 2, "out is no output"),
    "another schema": (after(edit("out/commits/000000.json", '{"schema": 99}'), plain), 2, "schema 99"),
    "an index that was changed": (
        after(edit("out/index/000000.parquet", b"PAR1"), plain),
        2,
        "not the file that was committed",
    ),
    "an index of other columns": (after(other_columns, plain), 2, "no column duration_s as training reads it"),
    "a commit that is none": (after(edit("out/commits/000000.json", "{"), plain), 2, "000000.json"),
    "no such shards in a store": (of("nostore://a/b"), 2, "nostore"),
    "one output twice": (lambda given: given.command("--shards", str(given.shards)), 2, "give them once"),
    "a filter that is no expression": (where("subjects >>"), 2, "no expression like"),
    "a filter on an unknown column": (where("subjecs > 1"), 2, "did you mean subjects"),
    "a filter of other types": (where("caption > 3"), 2, "cannot be compared"),
    "a filter that admits nothing": (where("subjects > 900"), 2, "'subjects > 900' admits none of the 8 samples"),
    "no configuration": (after(remove("train.yaml"), plain), 2, "train.yaml"),
    "a configuration that is a list": (after(edit("train.yaml", "[1]"), plain), 2, "train.yaml"),
    "an unknown field": (sets("stage.stps=3"), 2, "did you mean 'steps'"),
    "a value out of range": (sets("stage.steps=0"), 2, "stage.steps"),
    "a value that is none": (sets("optimiser.lr=nan"), 2, "optimiser.lr"),
    "an unknown encoder": (sets("encoders.text.backend=minlm"), 2, "minilm"),
    "an encoder without weights": (sets("encoders.video.backend=small"), 2, "small"),
    "an encoder's unknown option": (sets("encoders.video.options.blok=3"), 2, "blok"),
    "a batch that cannot be cut": (sets("run.accumulate=3"), 2, "run.accumulate"),
    "clips that are no latents": (sets("data.buckets=[{frames: 4, height: 32, width: 30, batch: 4}]"), 2, "whole blocks"),
    "clips that are too short": (sets("data.buckets=[{frames: 400, height: 32, width: 32, batch: 4}]"), 2, "long enough"),
    "everything held out": (sets("data.validation=8"), 2, "holds out all 8 samples"),
    "weights from nowhere": (sets("stage.init=/nowhere"), 2, "/nowhere has no checkpoint"),
    "new attention alone": (sets("stage.new_attention_steps=1"), 2, "needs stage.init"),
    "no such device": (sets("run.device=tpu"), 2, "run.device"),
    "no wandb": (sets("log.wandb=true"), 2, "log.wandb"),
    "workers without Ray": (lambda given: given.command("--workers", "2"), 2, "belong to --ray"),
    "no Ray there": (unanswered, 2, "no Ray answers"),
    "other settings than the run's": (again("--set", "optimiser.lr=0.5", *MORE), 4, "optimiser.lr was 0.002, is 0.5"),
    "other samples than the run's": (again("--where", "row > 0", *MORE), 4, "data.where"),
    "other encoders than the run's": (again("--set", "encoders.image.backend=efficientnet", *MORE), 4, "encoder"),
    "a run's record that is none": (after(edit("run/config.json", "{"), again(*MORE)), 2, "config.json"),
    "a run's record that is a list": (after(edit("run/config.json", "[]"), again(*MORE)), 2, "config.json"),
    "a run of another version": (
        after(edit("run/config.json", '{"config": {"a": 1}, "data_sha256": "", "encoders": {}}'), again(*MORE)),
        4,
        "another version",
    ),
    "a checkpoint of other weights": (after(other_weights("model"), again(*MORE)), 2, "step-00000002/model"),
    "a checkpoint of another average": (after(other_weights("ema"), again(*MORE)), 2, "step-00000002/ema"),
    "a checkpoint of other moments": (after(other_weights("optimiser"), again(*MORE)), 2, "step-00000002/optimiser"),
    "no cache": (after(remove("cache"), with_cache()), 2, "no cache.json; make one: materia precompute"),
    "a cache that is none": (after(edit("cache/cache.json", "[]"), with_cache()), 2, "no description of a cache"),
    "a cache of other encoders": (with_cache("--set", "encoders.text.backend=small_run:Colours"), 4, "another encoders.text"),
    "a cache with other windows": (with_cache("--set", "data.windows=9"), 4, "another data.windows"),
    "an unfinished cache": (after(remove("cache/index/000001.parquet"), with_cache()), 2, "not finished.*materia precompute"),
    "a cache's broken index": (after(edit("cache/index/000001.parquet", b"PAR1"), with_cache()), 2, "cannot be read"),
    "a cache's missing tar": (after(remove("cache/shards"), with_cache()), 2, "cache/shards/.*cannot be read"),
    "a cache's cut tar": (after(edit("cache/shards/000001.tar", b"abc"), with_cache()), 2, "000001.tar ends before"),
    "a stream of a cache": (with_cache("--set", "data.reader=streaming"), 2, "data.reader=indexed"),
    "two caches of one output": (with_cache("--cache", "b"), 2, "--cache is given 2 times for 1 --shards"),
    "missing tars": (after(remove("out/shards"), plain), 2, "out/shards/.*cannot be read"),
    "tars that end early": (after(cut("out/shards"), plain), 2, "ends before"),
    "clips that cannot be decoded": (after(broken_clips, plain), 2, "cannot be decoded"),
    "the same of a stream": (after(broken_clips, sets("data.reader=streaming")), 2, "cannot be decoded"),
    "an output that is a file": (lambda given: given.command(output=given.config), 2, "train.yaml"),
    "an output in a file": (lambda given: given.command(output=given.config / "run"), 2, "train.yaml"),
    "an output that cannot be made": (into("/proc/run"), 2, "/proc/run"),
    "an output in a store": (into("s3://a/b"), 2, "local or mounted"),
    "checkpoints that are a file": (after(edit("new/checkpoints", ""), plain), 2, "checkpoints"),
    "curves that are a file": (after(edit("new/tensorboard", ""), plain), 2, "tensorboard"),
    "a log that is a folder": (after(edit("new/steps.jsonl/a", ""), plain), 2, "steps.jsonl"),
    "a loss that is no number": (sets("optimiser.lr=1e30", "optimiser.warmup_steps=0"), 5, "not finite"),
}


def assert_one_line(errors: str, message: str) -> None:
    """After what a run says of itself, and the usage that click puts before an error of the command line."""
    said = errors.partition("--help' for help.\n\n")[2] if errors.startswith("Usage: ") else errors
    lines = [line for line in said.splitlines() if not line.startswith(("training on ", "warning: a step of", "step "))]
    assert len(lines) == 1 and lines[0].lower().startswith("error: ") and re.search(message, lines[0]), errors


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_error_is_one_line_and_an_exit_code(given: Given, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    command, exit_code, message = KINDS[kind]
    with pytest.raises(SystemExit) as ended:
        main(command(given), prog_name="materia")
    assert ended.value.code == exit_code
    assert_one_line(capfd.readouterr().err, message)


def as_program(command: list[str], before: str = "") -> subprocess.CompletedProcess[str]:
    """`materia` in a process of its own, after a line of Python; tests' encoders are found."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    program = [sys.executable, "-c", f"{before}\nfrom prima_materia import main; main()", *command]
    return warm.run(program, "heavy", env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize(
    "kind",
    [
        "a filter that admits nothing",
        "other settings than the run's",
        "a cache's cut tar",
        "clips that cannot be decoded",
        "a loss that is no number",
    ],
)
def test_nothing_that_had_begun_speaks_up_when_the_program_ends(given: Given, kind: str) -> None:
    command, exit_code, message = KINDS[kind]
    result = as_program(command(given))
    assert result.returncode == exit_code, result.stderr
    assert_one_line(result.stderr, message)
    assert not result.stdout


def test_a_disk_that_takes_no_checkpoint_can_be_mended(given: Given) -> None:
    result = as_program(given.command(), "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22, 1 << 22))")
    assert result.returncode == 5
    assert_one_line(result.stderr, r"/checkpoints/.*model.safetensors: File too large; .*the same command goes on")
    assert as_program(given.command()).returncode == 0
