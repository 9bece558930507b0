"""HDR is shown as SDR, everywhere: beside the pictures that the ffmpeg program made of the same files."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from clips import make_clip, picture
from seen import apart, cut_row, frames_row, kept, of_cut, record

from stages.video import decode, frames_at, open_video
from stages.video.tone import HLG, PQ, light_of, tone_mapped

HDR = Path(__file__).parents[1] / "data" / "golden" / "hdr"
KINDS = ["pq", "hlg"]


def made_by_ffmpeg(kind: str) -> dict[int, np.ndarray]:
    """Index -> SDR picture of ffmpeg (tests/data/golden/hdr/make_hdr.py)."""
    return dict(zip((0, 14, 28), np.split(np.asarray(Image.open(HDR / f"{kind}.png")), 3), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("several_shots", ["reject", "ignore"])
def test_frames_of_record_are_those_of_ffmpeg_and_flagged(kind: str, several_shots: str) -> None:
    row = frames_row(HDR / f"{kind}.mp4", percents=(1, 49, 95), several_shots=several_shots, min_side_px=16)
    assert "hdr" in kept(row).flags
    found, expected = record(row), made_by_ffmpeg(kind)
    assert set(found) == set(expected)
    for index in found:
        assert apart(found[index], expected[index]) < 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_is_sdr_and_says_so(kind: str) -> None:
    row = cut_row(HDR / f"{kind}.mp4", 10 / 24, 27 / 24, percents=(5, 24, 95), min_side_px=16)
    assert "hdr" in kept(row).flags
    assert apart(of_cut(row)[4], made_by_ffmpeg(kind)[14]) < 5
    with av.open(io.BytesIO(kept(row).media)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
        assert context.pix_fmt == "yuv420p"


@pytest.mark.parametrize("kind", KINDS)
def test_training_decodes_what_the_frames_show(kind: str) -> None:
    from trainer.data.items import decode as decode_item

    pictures = decode_item((HDR / f"{kind}.mp4").read_bytes(), [0.0, 14 / 24, 28 / 24], 72, 96)
    for picture_, expected in zip(pictures, made_by_ffmpeg(kind).values(), strict=True):
        assert apart(picture_, expected) < 3


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_eight_bits_are_tone_mapped_too_and_kept_from_decord(tmp_path: Path, transfer: int) -> None:
    clip = make_clip(tmp_path / "a.mp4", 30, colors=(9, 9, transfer))
    with open_video(clip) as video:
        assert video.probe.hdr and not decode._decord_is_right(video)
        frame = frames_at(video, [0.5]).frames[0]
    expected = tone_mapped(picture(12).astype(np.uint16) * 257, light_of(_decoded(clip)))
    assert apart(frame, expected) < 5
    assert apart(frame, picture(12)) > 10


def test_the_shots_of_hdr_are_told_apart(tmp_path: Path) -> None:
    dim = [picture(i) // 2 for i in range(30)] + [picture(i, night=True) // 2 for i in range(30, 60)]
    row = frames_row(make_clip(tmp_path / "a.mp4", pictures=dim, colors=(9, 9, PQ)), several_shots="flag")
    assert kept(row).flags == ["several_shots", "hdr"]


@pytest.mark.parametrize("colors", [(1, 1, 1), (9, 9, 14), None])
def test_sdr_is_left_as_it_is(tmp_path: Path, colors: tuple[int, int, int] | None) -> None:
    """Also of BT.2020's primaries, with its SDR transfer."""
    clip = make_clip(tmp_path / "a.mp4", 30, colors=colors, pix_fmt="yuv420p10le")
    assert "hdr" not in kept(frames_row(clip)).flags
    assert apart(frames_at(clip, [0.5]).frames[0], _decoded(clip, 12).to_ndarray(format="rgb24")) == 0


def test_the_curve_keeps_grey_grey_and_order(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 65535, 512).astype(np.uint16)[None, :, None], 3, axis=2)
    for transfer in (PQ, HLG):
        shown = tone_mapped(ramp, light_of(_decoded(make_clip(tmp_path / f"{transfer}.mp4", 2, colors=(9, 9, transfer)))))[0]
        assert np.ptp(shown.astype(int), axis=1).max() <= 1
        assert (np.diff(shown.astype(int)[:, 1]) >= 0).all()
        assert (shown[0].max(), shown[-1].min()) == (0, 255)


def _decoded(clip: Path, number: int = 0) -> av.VideoFrame:
    with av.open(str(clip)) as container:
        return list(container.decode(video=0))[number]
