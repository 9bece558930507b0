"""Training items: the right pictures, references by the method, pure functions of seed and numbers, and clear errors."""

import bisect
import io
import pickle
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from clips import read_number
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from real_clips import FPS, make_real_output, same_item

from materia.dataset.documents import Document
from materia.dataset.layout import OutputError
from materia.dataset.reader import Dataset
from trainer.config import BucketSettings, DataSettings
from trainer.data import augment
from trainer.data.batch import numpy_rng
from trainer.data.items import PixelSource, cover, draw, reference_pixels, window_times
from trainer.data.references import Reference, choose
from trainer.errors import TrainError

WHOLE = BucketSettings(frames=9, height=72, width=96, batch=2)
CROPS = {"dog": [f"ref{n:02d}.png" for n in (0, 1, 2, 3, 5, 6)], "red ball": ["ref04.png", "ref07.png"]}
"""Words of every sample and what shows them; refs 1, 3 and 6 are the dog's face."""
DATA = DataSettings(buckets=(WHOLE, BucketSettings(frames=3, height=24, width=24, batch=2)), reference_px=48, validation=0)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_real_output(tmp_path_factory.mktemp("items"), [2.0, 3.0, 1.5])


@pytest.fixture(scope="module")
def document(out: str) -> Document:
    return Dataset(out).document(0)


def test_an_item_has_the_pictures_of_its_window_at_the_configured_rate(out: str) -> None:
    samples = Dataset(out)
    source = PixelSource(samples, DATA, seed=3)
    for step in range(4):
        item = source.read(step, 0, 1, 0)
        document = samples.document(1)
        window = draw(numpy_rng(3, step, 0), document, DATA, images=True).window
        shown = [number / FPS for number in range(round(3.0 * FPS))]
        expected = [bisect.bisect_right(shown, time + 1e-6) - 1 for time in window_times(document, WHOLE, DATA, window, 3)]
        assert item.video.shape == (9, 72, 96, 3)
        assert [read_number(picture) for picture in item.video] == expected
        assert np.diff(expected).tolist() == [3] * 8  # 24 frames a second, 8 wanted


@settings(max_examples=200)
@given(st.floats(0.2, 60), st.floats(1, 60), st.integers(1, 121), st.floats(1, 30), st.integers(0, 30), st.integers(0, 9))
def test_windows_lie_within_clips_that_are_long_enough(
    duration_s: float, fps: float, frames: int, rate: float, window: int, seed: int
) -> None:
    document = SimpleNamespace(key="a", video=SimpleNamespace(duration_s=duration_s, fps=fps))
    bucket = BucketSettings(frames=frames, height=8, width=8, batch=1)
    data = DataSettings(buckets=(bucket,), fps=rate)
    times = window_times(document, bucket, data, window, seed)
    assert len(times) == frames
    assert np.allclose(np.diff(times), 1 / rate)
    if duration_s - 1 / fps >= (frames - 1) / rate:
        assert times[0] >= 0
        assert times[-1] <= duration_s - 1 / fps + 1e-9
    else:
        assert times[0] == 0
    assert times == window_times(document, bucket, data, window, seed)


def test_windows_differ_by_number_key_and_seed(document: Document) -> None:
    starts = {
        window_times(msgspec.structs.replace(document, key=key), DATA.buckets[1], DATA, window, seed)[0]
        for key in "ab"
        for window in range(4)
        for seed in range(3)
    }
    assert len(starts) == 24


def test_draws_are_within_their_ranges_and_by_the_method(document: Document) -> None:
    drawn = [draw(np.random.default_rng(seed), document, DATA, images=True) for seed in range(3000)]
    assert Counter(one.window for one in drawn).keys() == set(range(DATA.windows))
    references = [reference for one in drawn for reference in one.references]
    assert {reference.variant for reference in references} == set(range(DATA.variants))
    assert {len(one.references) for one in drawn} == set(range(1, 7))
    for word, members in CROPS.items():
        assert {reference.member for reference in references if reference.word == word} == set(members)
    caption = document.caption
    assert all(caption[slice(*reference.span)] == reference.word for reference in references)
    last = [one.references[-1].member == "background.png" for one in drawn]
    assert np.mean(last) == pytest.approx(0.5, abs=0.03)
    assert caption.index("dog") == next(reference.span[0] for reference in references if reference.word == "dog")  # its first


def test_the_choice_of_references_is_that_of_the_method(document: Document) -> None:
    rng, same_rng = np.random.default_rng(5), np.random.default_rng(5)
    drawn = draw(rng, document, DATA, images=True)
    assert drawn.window == same_rng.integers(DATA.windows)
    expected = choose(same_rng, CROPS, Reference("meadow", "background.png"))
    assert [(reference.word, reference.member) for reference in drawn.references] == expected


def test_without_augmentation_or_images_there_is_nothing_to_vary(document: Document) -> None:
    plain = DATA.model_copy(update={"augment": False})
    drawn = [draw(np.random.default_rng(seed), document, plain, images=True) for seed in range(50)]
    assert {reference.variant for one in drawn for reference in one.references} == {0}
    assert all(not draw(np.random.default_rng(seed), document, DATA, images=False).references for seed in range(20))


def test_a_background_without_a_word_has_no_span(document: Document) -> None:
    wordless = msgspec.structs.replace(document, background=msgspec.structs.replace(document.background, word=None))
    drawn = [draw(np.random.default_rng(seed), wordless, DATA, images=True) for seed in range(20)]
    found = {reference[:3] for one in drawn for reference in one.references if reference.member == "background.png"}
    assert found == {("", (0, 0), "background.png")}


def test_reference_pixels_follow_from_seed_key_member_and_variant(out: str) -> None:
    png = Dataset(out).read(0, ["ref00.png"])["ref00.png"]
    first = reference_pixels(png, "a", "ref00.png", 0, DATA, 1)
    assert first.shape == (48, 48, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, reference_pixels(png, "a", "ref00.png", 0, DATA, 1))
    others = [("b", "ref00.png", 0, 1), ("a", "ref01.png", 0, 1), ("a", "ref00.png", 1, 1), ("a", "ref00.png", 0, 2)]
    for key, member, variant, seed in others:
        assert not np.array_equal(first, reference_pixels(png, key, member, variant, DATA, seed))


def test_without_augmentation_a_reference_is_the_crop_on_white(out: str) -> None:
    png = Dataset(out).read(0, ["ref00.png"])["ref00.png"]
    plain = DATA.model_copy(update={"augment": False})
    expected = augment.on_white_square(np.asarray(Image.open(io.BytesIO(png))), 48)
    assert np.array_equal(reference_pixels(png, "a", "ref00.png", 0, plain, 1), expected)


@settings(max_examples=60)
@given(*[st.integers(1, 90)] * 2, *[st.integers(8, 64)] * 2)
def test_a_picture_is_cut_about_its_middle_and_not_distorted(h: int, w: int, height: int, width: int) -> None:
    ramp = np.zeros((h, w, 3), np.float32)
    ramp[..., 0], ramp[..., 1] = np.linspace(0, 255, h)[:, None], np.linspace(0, 255, w)[None]
    covered = cover(ramp.round().astype(np.uint8), height, width)
    assert covered.shape == (height, width, 3)
    scale = max(height / h, width / w)
    for axis, side, new in ((0, h, height), (1, w, width)):
        kept = min(1.0, new / scale / side)  # share of the side that stays
        values = covered[..., axis].mean(axis=1 - axis)
        if min(h, w) > 8:  # else a pixel is a large share
            assert values.mean() == pytest.approx(127.5, abs=3 + 255 / side)
            assert values[-1] - values[0] == pytest.approx(255 * kept, abs=4 + 512 / side + 512 / new)


def test_reading_again_from_another_process_or_the_whole_sample_gives_the_same(out: str) -> None:
    samples = Dataset(out)
    source = PixelSource(samples, DATA, seed=0)
    copied = pickle.loads(pickle.dumps(source))
    for step in range(3):
        item = source.read(step, 1, 2, 1)
        assert same_item(item, copied.read(step, 1, 2, 1))
        assert same_item(item, source.item(step, 1, samples.read(2, samples.members(2)), samples.address(2), 1))
        assert not same_item(item, PixelSource(samples, DATA, seed=1).read(step, 1, 2, 1))


def test_stage_one_reads_no_references(out: str) -> None:
    item = PixelSource(Dataset(out), DATA, seed=0, images=False).read(0, 0, 0, 1)
    assert item.references == []
    assert item.video.shape == (3, 24, 24, 3)


def spoil(tmp_path: Path, member: str, data: bytes | None = None) -> PixelSource:
    """A fresh output in whose tar a member of the first sample is overwritten, behind its header (data) or with it."""
    out = make_real_output(tmp_path, [1.5])
    samples = Dataset(out)
    place = next(place for place in samples.index["members"][0].as_py() if place["name"] == member)
    with Path(samples.address(0)).open("r+b") as tar:
        tar.seek(place["offset"] - (512 if data is None else 0))
        tar.write(bytes(place["size"]) if data is None else data[: place["size"]].ljust(place["size"], b"\0"))
    return PixelSource(samples, DATA, seed=0)


@pytest.mark.parametrize(
    ("member", "data", "error", "told"),
    [
        ("mp4", b"no video", TrainError, r"000000\.tar: the video of clip-0000 cannot be decoded.*leave it out: --where"),
        ("json", b"{", OutputError, r"000000\.tar holds a KEY.json that cannot be understood.*materia validate"),
        (
            "background.png",
            b"no picture",
            OutputError,
            r"000000\.tar: clip-0000.background.png is no picture.*materia validate",
        ),
        ("mp4", None, OutputError, r"000000\.tar is not the tar that its index describes: no clip-0000.mp4.*materia validate"),
    ],
)
def test_damage_is_told_in_a_line(tmp_path: Path, member: str, data: bytes | None, error: type[Exception], told: str) -> None:
    source = spoil(tmp_path, member, data)
    with pytest.raises(error, match=told) as caught:
        for step in range(20):  # until the background is drawn
            source.read(step, 0, 0, 1)
    assert "\n" not in str(caught.value)


def test_the_advice_about_a_damaged_clip_leaves_it_out(out: str) -> None:
    assert "clip-0000" not in Dataset(out, where="key != 'clip-0000'").index["key"].to_pylist()
