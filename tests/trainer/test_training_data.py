"""What a run is trained on: how many of how many samples, of one output or several, from clips or caches; and what it shows."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from encoded_items import same_encoding
from real_clips import make_real_output, same_item
from small_run import SECONDS, config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from materia.base.terminal import plural
from materia.cli import training
from materia.dataset.filters import FilterError
from materia.dataset.layers import remove_layer, write_layer
from materia.dataset.layout import OutputError
from materia.dataset.reader import Dataset
from trainer.config import TrainConfig
from trainer.data.samples import JoinedDataset, open_samples, parts_of
from trainer.data.streaming import read_shard, shards_of
from trainer.data.training_data import Data, encoded, open_data, steps, told
from trainer.distributed import World
from trainer.encoders import build_encoders
from trainer.errors import TrainError
from trainer.run.loop import train
from trainer.run.precompute import precompute

ALONE = World(0, 1, 0, torch.device("cpu"))
OTHER_SECONDS = [0.4, 0.9, 0.2]


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight samples in four tars."""
    return make_real_output(tmp_path_factory.mktemp("a"), SECONDS)


@pytest.fixture(scope="module")
def b(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three samples in two tars, with keys and paths that `a` has too; the last clip is too short."""
    return make_real_output(tmp_path_factory.mktemp("b"), OTHER_SECONDS)


@pytest.fixture(scope="module")
def caches(a: str, b: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    made = [str(tmp_path_factory.mktemp("caches") / name) for name in "ab"]
    for shards, cache in zip((a, b), made, strict=True):
        precompute(settings(), shards=shards, output=cache, say=lambda text: None)
    return made


def settings(**data: object) -> TrainConfig:
    return config(data={**config().data.model_dump(), "variants": 2, "windows": 2, **data})


def opened(shards: str | list[str], cache: str | list[str] | None = None, **data: object) -> Data:
    asked = settings(**data)
    return open_data(asked, shards, cache, build_encoders(asked.encoders), ALONE)


def said(shards: str | list[str], **data: object) -> list[str]:
    return told(opened(shards, **data), settings(**data))


def test_a_run_says_how_many_samples_it_has_and_why_not_the_others(b: str, a: str) -> None:
    assert said(a) == ["training on 6 of 8 samples: 2 held out for the validation loss"]
    assert said(a, validation=0) == ["training on 8 of 8 samples"]
    (line,) = said([a, b], validation=1, where="row != 1")
    assert line == (
        "training on 7 of 11 samples: 2 left out by --where 'row != 1', 1 held out for the validation loss,"
        " 1 too short for data.buckets"
    )
    assert opened([a, b], where="row != 1").selection._asdict() == {
        **{"total": 11, "trained_on": 6, "filtered_out": 2, "not_decodable": 0},
        **{"held_out": 2, "too_short": 1, "validated_on": 2},
    }


@pytest.mark.parametrize(("rows", "warned"), [(3, True), (4, False), (5, False)])
def test_fewer_samples_than_a_batch_are_warned_of(a: str, rows: int, warned: bool) -> None:
    lines = said(a, where=f"row < {rows}", validation=0)
    assert (len(lines) == 2) is warned
    if warned:
        assert lines[1].startswith(f"warning: a step of data.buckets[0] takes 4 clips and there are {rows}")


def test_samples_held_out_that_are_too_short_leave_no_validation_loss_and_that_is_told(a: str) -> None:
    long = [{"frames": 12, "height": 32, "width": 32, "batch": 1}]  # the clip of 1 s
    held_out = next((count for count in range(1, 7) if not opened(a, buckets=long, validation=count).validation), None)
    assert held_out is not None
    lines = said(a, buckets=long, validation=held_out)
    assert lines[-1].startswith(
        f"there will be no validation loss: of {plural(held_out, 'sample')} held out none is long enough"
    )


def points(run: Path, name: str) -> list[int]:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars(name)]


@pytest.mark.parametrize(("every", "steps_", "expected"), [(500, 3, [3]), (2, 3, [2, 3]), (3, 3, [3]), (1, 2, [1, 2])])
def test_the_last_step_is_validated_whatever_the_interval(
    a: str, tmp_path: Path, every: int, steps_: int, expected: list[int]
) -> None:
    lines: list[str] = []
    asked = config(stage={"steps": steps_}, log={"validate_every": every})
    train(asked, shards=a, output=str(tmp_path), say=lines.append)
    assert points(tmp_path, "validation/own") == points(tmp_path, "validation/gap") == expected
    validated = [line for line in lines if "validation loss" in line and line.startswith("step")]
    assert [line.partition(":")[0] for line in validated] == [f"step {step}" for step in expected]
    assert "a gap of" in validated[-1] and validated[-1].endswith("on 2 held-out clips")


def test_a_run_shows_what_it_was_trained_on(a: str, tmp_path: Path) -> None:
    lines: list[str] = []
    train(
        config(data={**config().data.model_dump(), "where": "row < 7"}, stage={"steps": 1}),
        shards=a,
        output=str(tmp_path),
        say=lines.append,
    )
    assert lines[0] == "training on 5 of 8 samples: 1 left out by --where 'row < 7', 2 held out for the validation loss"
    assert json.loads((tmp_path / "config.json").read_text())["samples"]["trained_on"] == 5


def test_several_outputs_are_read_as_one(a: str, b: str) -> None:
    joined, parts = opened([a, b], validation=0), [opened(a, validation=0), opened(b, validation=0)]
    assert len(joined.samples) == 11 and isinstance(joined.samples, JoinedDataset)
    assert joined.order.buckets[0].samples.tolist() == list(range(10))  # the last one is too short
    for number in range(10):
        part, place = (parts[0], number) if number < 8 else (parts[1], number - 8)
        assert joined.samples.document(number) == part.samples.document(place)
        assert joined.samples.address(number) == part.samples.address(place)
        assert same_item(joined.source.read(3, 1, number, 0), part.source.read(3, 1, place, 0))


def test_one_output_is_what_it_was_before_there_could_be_several(a: str) -> None:
    samples, total = open_samples([a], "row > 2")
    assert (samples.sha256, len(samples), total) == (Dataset(a, "row > 2").sha256, 5, 8)
    assert open_samples(a, None)[0].sha256 == Dataset(a).sha256


def test_their_order_and_their_filter_are_part_of_what_a_run_is(a: str, b: str) -> None:
    hashes = {open_samples(shards, where)[0].sha256 for shards in ([a, b], [b, a], [a], [b]) for where in (None, "row >= 0")}
    assert len(hashes) == 8


def test_an_output_of_which_the_filter_leaves_nothing_is_left_out(a: str, b: str, caches: list[str]) -> None:
    joined = opened([a, b], caches, where="row > 2", validation=0)
    assert (joined.samples.out, joined.selection.trained_on, joined.selection.total) == (a, 5, 11)
    with pytest.raises(OutputError, match=r"'row > 20' admits none of the 11 samples of .*/a0/out, .*/b0/out"):
        opened([a, b], where="row > 20")


def test_caches_of_several_outputs_give_what_their_clips_give(a: str, b: str, caches: list[str]) -> None:
    pixels, cached = opened([a, b], validation=2), opened([a, b], caches, validation=2)
    encoders = build_encoders(settings().encoders)
    encoders.setup("cpu")
    ours, theirs = (list(steps(data, settings(), 0, ALONE)) for data in (cached, pixels))
    assert [step.keys for step in ours] == [step.keys for step in theirs]
    for one, other in zip(ours, theirs, strict=True):
        pairs = zip(one.items, encoded(other.items, encoders), strict=True)
        assert all(same_encoding(mine, his) for mine, his in pairs)


def test_caches_are_one_for_each_output_in_their_order(a: str, b: str, caches: list[str]) -> None:
    for given in (caches[:1], [*caches, "c"]):
        with pytest.raises(TrainError, match=rf"--cache is given {len(given)} times for 2 --shards"):
            opened([a, b], given)
    with pytest.raises(TrainError, match="made with another shards"):
        opened([a, b], caches[::-1])


def test_the_same_samples_twice_are_refused(a: str, b: str) -> None:
    with pytest.raises(TrainError, match=r"has the same samples as .*; give them once"):
        opened([a, b, f"{a}/"])


def test_a_stream_of_several_outputs_has_every_sample_of_both(a: str, b: str) -> None:
    samples, _ = open_samples([a, b], "duration_s > 0.3")
    shards = shards_of(samples, np.arange(len(samples)))
    assert len(shards) == 5
    read = {sample.number: sample for _, numbers in shards for sample in read_shard(samples, numbers)}
    assert sorted(read) == list(range(10))
    for number, sample in read.items():
        assert sample.shard == samples.address(number)
        assert sample.members == samples.read(number, sample.members)
    asked = settings(reader="streaming", validation=0)
    streamed = steps(opened([a, b], reader="streaming", validation=0), asked, 0, ALONE)
    assert {len(step.items) for step in streamed} == {4}


def test_the_command_trains_on_several_and_goes_on(a: str, b: str, caches: list[str], tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(settings().model_dump_json())
    shards = ["--shards", a, "--shards", b, "--cache", caches[0], "--cache", caches[1]]
    for count in (1, 2):
        command = ["--config", str(path), *shards, "--output", str(tmp_path / "run"), "--set", f"stage.steps={count}"]
        done = CliRunner().invoke(training.train, command, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert len((tmp_path / "run/steps.jsonl").read_text().splitlines()) == 2
    assert np.isfinite([json.loads(line)["loss"] for line in (tmp_path / "run/steps.jsonl").read_text().splitlines()]).all()


def test_each_output_asks_its_own_layers(a: str, b: str) -> None:
    for out, bad in ((a, 0), (b, 1)):
        write_layer(out, "marks", pa.table({"key": Dataset(out).index["key"].slice(bad, 1)}), made_by="anna", version="1")
    try:
        samples, total = open_samples([a, b], "marks.key is null")
        assert (len(samples), total, samples.chosen_by_layers) == (9, 11, True)
        assert [part.index["row"][0].as_py() for part in parts_of(samples)] == [1, 0]
        remove_layer(b, "marks")
        with pytest.raises(FilterError, match=f"there is no layer marks; {b} has no layers"):
            open_samples([a, b], "marks.key is null")
    finally:
        remove_layer(a, "marks")
