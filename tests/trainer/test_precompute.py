"""The cache: the same items as from pixels, tars that anybody reads, resumed where it stopped, refused where it is wrong."""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset as wds
import yaml
from click.testing import CliRunner
from encoded_items import ENCODERS, same_encoding
from real_clips import make_real_output

from materia.cli import training
from materia.dataset.layers import remove_layer, write_layer
from materia.dataset.layout import OutputError
from materia.dataset.reader import Dataset
from trainer.config import TrainConfig
from trainer.data.batch import collate
from trainer.data.cache import CacheSource, OtherCacheError
from trainer.data.encode import encode
from trainer.data.items import PixelSource
from trainer.data.loader import long_enough
from trainer.distributed import World
from trainer.encoders import build_encoders
from trainer.errors import TrainError
from trainer.run.precompute import precompute

SECONDS = [1.2, 0.8, 2.0]
BROKEN = "clip-0001"


def config(**sections: dict) -> TrainConfig:
    """Two sizes of clips, the second with a bucket that only the longest clip fills."""
    data = {
        **{"fps": 4, "windows": 2, "variants": 2, "reference_px": 64, "validation": 0, "workers": 0},
        "buckets": [
            {"frames": 2, "height": 16, "width": 24, "batch": 2},
            {"frames": 2, "height": 16, "width": 16, "batch": 2},
            {"frames": 6, "height": 16, "width": 24, "batch": 2},
        ],
    }
    base = {"seed": 5, "encoders": ENCODERS, "data": data, "run": {"threads": 1, "device": "cpu"}}
    for name, values in sections.items():
        base[name] = base.get(name, {}) | values
    return TrainConfig.model_validate(base)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three samples in two tars; the clip of the second has been overwritten."""
    out = make_real_output(tmp_path_factory.mktemp("precompute"), SECONDS)
    row = next(row for row in Dataset(out).index.to_pylist() if row["key"] == BROKEN)
    clip = next(member for member in row["members"] if member["name"] == "mp4")
    with Path(out, row["shard"]).open("r+b") as tar:
        tar.seek(clip["offset"])
        tar.write(bytes(clip["size"]))
    return out


@pytest.fixture(scope="module")
def cache(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cache") / "cache"
    said: list[str] = []
    summary = precompute(config(), shards=shards, output=str(made), say=said.append)
    assert summary[:2] == (2, 1)
    assert summary.bytes == sum(tar.stat().st_size for tar in (made / "shards").iterdir())
    assert "2 samples" in said[0] and "1 sample could not be decoded" in said[1]
    return made


@pytest.fixture
def copy(cache: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cache, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stage", [{}, {"images": False}], ids=["stage II", "stage I"])
def test_training_from_the_cache_and_from_pixels_gives_the_same_batches(shards: str, cache: Path, stage: dict) -> None:
    settings, samples = config(stage=stage), Dataset(shards)
    cached = CacheSource(samples, str(cache), settings)
    pixels = PixelSource(samples, settings.data, settings.seed, settings.stage.images)
    encoders = build_encoders(settings.encoders)
    encoders.setup("cpu")
    drawn = set()
    for bucket, size in enumerate(settings.data.buckets):
        numbers = np.intersect1d(long_enough(samples, size, settings.data.fps), cached.numbers()).tolist()
        for step in range(3):
            ours = [cached.read(step, slot, number, bucket) for slot, number in enumerate(numbers)]
            theirs = encode([pixels.read(step, slot, number, bucket) for slot, number in enumerate(numbers)], encoders)
            assert all(same_encoding(one, other) for one, other in zip(ours, theirs, strict=True))
            assert collate(ours, 4).keys == collate(theirs, 4).keys
            drawn |= {one.mean.float().sum().item() for one in ours}
    assert len(drawn) > 5  # the windows and clips do differ


def test_plain_webdataset_reads_the_arrays_that_the_index_tells_of(cache: Path) -> None:
    tars = sorted(str(path) for path in (cache / "shards").iterdir())
    rows = {row["key"]: row for path in sorted((cache / "index").iterdir()) for row in pq.read_table(path).to_pylist()}
    found = {sample["__key__"]: sample for sample in wds.WebDataset(tars, shardshuffle=False)}
    assert list(found) == list(rows) == ["clip-0000", "clip-0002"]
    for key, row in rows.items():
        tar = (cache / row["shard"]).read_bytes()
        assert {member["name"] for member in row["members"]} == {name for name in found[key] if not name.startswith("__")}
        for member in row["members"]:
            data = found[key][member["name"]]
            array = np.load(io.BytesIO(data), allow_pickle=False)
            assert [array.dtype.name, list(array.shape)] == [member["dtype"], member["shape"]]
            assert tar[member["offset"] : member["offset"] + member["size"]] == data
            assert data.endswith(array.tobytes())
    assert {name for name in found["clip-0000"] if "x" in name and name[0] == "m"} == {"mean.2x16x16.npy", "mean.2x16x24.npy"}
    assert np.load(io.BytesIO(found["clip-0002"]["mean.6x16x24.npy"])).shape[0] == 2  # windows
    assert np.load(io.BytesIO(found["clip-0002"]["background.npy"])).shape[:2] == (2, 4)  # variants, tokens


def test_what_cannot_be_decoded_is_listed_and_left_out(shards: str, cache: Path) -> None:
    rejects = [row for path in sorted((cache / "rejects").iterdir()) for row in pq.read_table(path).to_pylist()]
    assert [(row["key"], row["reason"]) for row in rejects] == [(BROKEN, "unreadable")]
    samples = Dataset(shards)
    served = CacheSource(samples, str(cache), config()).numbers()
    assert [samples.index["key"][number].as_py() for number in served.tolist()] == ["clip-0000", "clip-0002"]


def test_a_filter_chooses_among_what_is_there(shards: str, cache: Path) -> None:
    one = Dataset(shards, where="key == 'clip-0002'")
    assert CacheSource(one, str(cache), config()).read(0, 0, 0, 2).key == "clip-0002"


def test_only_what_a_filter_admits_is_encoded_and_serves_every_filter_that_admits_no_more(shards: str, tmp_path: Path) -> None:
    cache, said = tmp_path / "some", []
    some = config(data={"where": "row >= 1"})
    assert precompute(some, shards=shards, output=str(cache), say=said.append)[:2] == (1, 1)
    assert "encoding 2 of 3 samples, those that --where 'row >= 1' admits" in said
    before = contents(cache)
    precompute(some, shards=shards, output=str(cache), say=lambda text: None)
    assert contents(cache) == before

    for where, served in (("row >= 1", ["clip-0002"]), ("row == 2", ["clip-0002"]), ("row > 0 and row < 2", [])):
        samples = Dataset(shards, where)
        numbers = CacheSource(samples, str(cache), config(data={"where": where})).numbers().tolist()
        assert [samples.key(number) for number in numbers] == served


@pytest.mark.parametrize("where", [None, "row >= 0", "row != 1"])
def test_a_filter_that_admits_more_than_the_cache_has_is_told_with_the_command(
    shards: str, tmp_path: Path, where: str | None
) -> None:
    cache = str(tmp_path / "some")
    precompute(config(data={"where": "row >= 1"}), shards=shards, output=cache, say=lambda text: None)
    with pytest.raises(TrainError, match=r"made with --where 'row >= 1': 1 of the [23] samples .* first is clip-0000") as told:
        CacheSource(Dataset(shards, where), cache, config(data={"where": where}))
    chosen = "" if where is None else f" --where '{where}'"
    assert str(told.value).endswith(
        f"materia precompute --config THIS_CONFIGURATION --shards {shards} --output ANOTHER_FOLDER{chosen}"
    )
    assert told.value.exit_code == 2 and "\n" not in str(told.value)
    with pytest.raises(OtherCacheError, match=r"made with another data.where; choose another --output"):
        precompute(config(data={"where": where}), shards=shards, output=cache, say=lambda text: None)


def test_an_unfinished_cache_of_a_filter_is_gone_on_with_by_the_same_command(shards: str, tmp_path: Path) -> None:
    cache, some = tmp_path / "some", config(data={"where": "row != 1"})
    precompute(some, shards=shards, output=str(cache), say=lambda text: None)
    (cache / "index/000001.parquet").unlink()
    with pytest.raises(TrainError, match=rf"not finished: 1 of .* go on: .* --output {cache} --where 'row != 1'$"):
        CacheSource(Dataset(shards, "row != 1"), str(cache), some)


def test_a_filter_that_admits_nothing_makes_no_cache(shards: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="'row > 9' admits none of the 3 samples"):
        precompute(config(data={"where": "row > 9"}), shards=shards, output=str(tmp_path / "none"), say=lambda text: None)
    assert not (tmp_path / "none").exists()


def test_the_command_takes_filters_as_train_does(shards: str, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config().model_dump(mode="json")))
    wheres = ["--where", "row >= 1", "--where", "duration_s > 1"]
    paths = ["--config", str(path), "--shards", shards, "--output", str(tmp_path / "cache")]
    done = CliRunner().invoke(training.precompute, [*paths, *wheres], catch_exceptions=False)
    assert done.exit_code == 0
    (table,) = [pq.read_table(path) for path in (tmp_path / "cache/index").iterdir()]
    assert table["key"].to_pylist() == ["clip-0002"]


def test_only_what_is_missing_is_made_again_and_its_bytes_are_the_same(shards: str, cache: Path, copy: Path) -> None:
    before, kept = contents(cache), (copy / "shards/000000.tar").stat().st_mtime_ns
    (copy / "index/000001.parquet").unlink()
    (copy / "shards/000001.tar").write_bytes(b"half a t")
    (copy / "shards/.000001.tar.0123abcd.tmp").write_bytes(b"left by a killed process")
    with pytest.raises(TrainError, match=r"not finished.*000001.*materia precompute"):
        CacheSource(Dataset(shards), str(copy), config())
    precompute(config(), shards=shards, output=str(copy), say=lambda text: None)
    assert contents(copy) == before
    assert (copy / "shards/000000.tar").stat().st_mtime_ns == kept


def test_processes_share_the_shards(shards: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, samples = tmp_path / "shared", 0
    for rank in (0, 1):
        monkeypatch.setattr("trainer.run.precompute.join", lambda run, rank=rank: World(rank, 2, 0, torch.device("cpu")))
        samples += precompute(config(), shards=shards, output=str(shared), say=lambda text: None).samples
        assert len(list((shared / "shards").iterdir())) == rank + 1
    assert samples == 2
    assert contents(shared) == contents(cache)


def test_another_configuration_is_refused_naming_what_differs(shards: str, cache: Path, tmp_path: Path) -> None:
    other = config(data={"fps": 8, "windows": 3})
    for use in (
        lambda settings: precompute(settings, shards=shards, output=str(cache), say=lambda text: None),
        lambda settings: CacheSource(Dataset(shards), str(cache), settings),
    ):
        with pytest.raises(OtherCacheError, match=r"another data.fps, data.windows;") as refused:
            use(other)
        assert refused.value.exit_code == 4 and "\n" not in str(refused.value)
    image = {"backend": "efficientnet", "options": {"blocks": [1], "grid": 2}}
    with pytest.raises(OtherCacheError, match=r"another encoders.image; .*materia precompute"):
        CacheSource(Dataset(shards), str(cache), config(encoders={"image": image}))
    more = make_real_output(tmp_path, [0.8])
    with pytest.raises(OtherCacheError, match="another shards;"):
        CacheSource(Dataset(more), str(cache), config())


def test_a_cache_serves_fewer_buckets_in_other_batches(shards: str, cache: Path) -> None:
    fewer = config(data={"buckets": [{"frames": 2, "height": 16, "width": 16, "batch": 1, "weight": 3}]})
    whole = CacheSource(Dataset(shards), str(cache), config())
    assert same_encoding(CacheSource(Dataset(shards), str(cache), fewer).read(1, 0, 0, 0), whole.read(1, 0, 0, 1))


def test_a_cache_that_is_none_torn_or_anothers_is_told(shards: str, copy: Path, tmp_path: Path) -> None:
    samples = Dataset(shards)
    with pytest.raises(TrainError, match=r"no cache.json; make one: materia precompute"):
        CacheSource(samples, str(tmp_path / "nothing"), config())
    source = CacheSource(samples, str(copy), config())
    tar = copy / "shards/000000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:2000])
    with pytest.raises(OutputError, match=r"000000.tar ends before .* run materia precompute again"):
        source.read(0, 0, 0, 0)
    shutil.copy(copy / "shards/000001.tar", tar)
    with pytest.raises(OutputError, match=r"000000.tar is not the tar that its index describes"):
        CacheSource(samples, str(copy), config()).read(0, 0, 0, 0)
    (copy / "index/000000.parquet").write_bytes(b"no table")
    with pytest.raises(OutputError, match=r"000000.parquet cannot be read"):
        CacheSource(samples, str(copy), config())
    (copy / "cache.json").write_text("[]")
    with pytest.raises(OutputError, match=r"cache.json is no description of a cache"):
        CacheSource(samples, str(copy), config())


def mark(shards: str, *keys: str) -> None:
    write_layer(shards, "marks", pa.table({"key": pa.array(keys, pa.string())}), made_by="anna", version="1")


def test_a_cache_of_what_layers_chose_is_of_the_layers_of_its_time(shards: str, tmp_path: Path) -> None:
    cache, where = str(tmp_path / "unmarked"), "marks.key is null"
    settings = config(data={"where": where})
    mark(shards, "clip-0000")
    try:
        precompute(settings, shards=shards, output=cache, say=lambda text: None)
        mark(shards, "clip-0000", "nobody")  # chooses the same
        precompute(settings, shards=shards, output=cache, say=lambda text: None)
        mark(shards, "clip-0000", "clip-0001")  # less: that is there
        assert len(CacheSource(Dataset(shards, where), cache, settings).numbers()) == 1
        mark(shards, "clip-0001")
        with pytest.raises(TrainError, match=f"made with --where '{where}' when its layers had other rows: 1 of the 2 samples"):
            CacheSource(Dataset(shards, where), cache, settings)
        with pytest.raises(OtherCacheError, match=r"made with another data\.where's layers; choose another --output"):
            precompute(settings, shards=shards, output=cache, say=lambda text: None)
    finally:
        remove_layer(shards, "marks")
