"""The cut stage: frame i of the cut is frame i of the clip, and loaders find it easy."""

from __future__ import annotations

import io
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from clips import make_clip, read_number

from stages.cut import Cut
from stages.frames import Frames
from stages.records import Clip, Rejection, Sample
from stages.settings import CutSettings, FramesSettings
from stages.video import frames_at, open_video, probe

CASES = {
    "plain.mp4": {},
    "b_frames.mkv": {"options": {"preset": "fast", "x264-params": "bframes=3"}},
    "b_frames.avi": {"options": {"preset": "fast", "x264-params": "bframes=3"}},
    "stream.ts": {"options": {"preset": "fast", "x264-params": "bframes=3"}},
    "ten_bit.mp4": {"pix_fmt": "yuv420p10le"},
    "anamorphic.mp4": {"sar": Fraction(2)},
    "odd.mp4": {"pix_fmt": "yuv444p", "size": (193, 145)},
    "variable.mp4": {"fps": 50, "ticks": [i * 2 if i < 20 else 40 + (i - 20) * 7 for i in range(60)]},
    "anim.gif": {"codec": "gif", "pix_fmt": "rgb8", "fps": 25},
}


def cut(path: Path, start_s: float | None, end_s: float | None, settings: CutSettings | None = None) -> Sample | Rejection:
    clip = Clip(row=0, key="k", source_id="s", uri="u", address=str(path), start_s=start_s, end_s=end_s, caption="a disc")
    [sample] = Frames(FramesSettings(min_duration_s=0.5, several_shots="ignore")).process([Sample(clip=clip)])
    assert isinstance(sample, Sample), sample
    stage = Cut(settings or CutSettings())
    assert stage.missing() == []
    stage.setup()
    [row] = stage.process([sample])
    return row


def softened(rgb: np.ndarray) -> np.ndarray:
    """Means of 4 x 4 pixels: a GIF's dither is no colour that 4:2:0 video keeps."""
    height, width = (side // 4 * 4 for side in rgb.shape[:2])
    return rgb[:height, :width].reshape(height // 4, 4, width // 4, 4, 3).mean(axis=(1, 3))


@pytest.mark.parametrize("name", CASES)
def test_every_frame_of_the_cut_is_that_of_the_clip(tmp_path: Path, name: str) -> None:
    source = make_clip(tmp_path / name, **CASES[name])
    sample = cut(source, 0.3, 2.2)
    assert isinstance(sample, Sample) and sample.media and sample.video
    (tmp_path / "cut.mp4").write_bytes(sample.media)
    with open_video(source, 0.3, 2.2) as clip, open_video(tmp_path / "cut.mp4") as result:
        assert result.probe.times_s == pytest.approx(clip.probe.times_s, abs=1e-4)
        ours = frames_at(result, result.probe.times_s).frames
        theirs = frames_at(clip, clip.probe.times_s).frames
    assert [read_number(rgb) for rgb in ours] == [read_number(rgb) for rgb in theirs]
    for frame in sample.frames:
        assert read_number(frame.rgb) == read_number(ours[frame.index])
        assert frame.rgb.shape == ours[frame.index].shape
        assert np.abs(softened(frame.rgb) - softened(ours[frame.index])).mean() < 4
    assert sample.video.reencoded
    assert (sample.video.container, sample.video.codec, sample.video.sar) == ("mp4", "h264", "1:1")
    assert (sample.video.n_frames, sample.video.width) == (len(ours), ours[0].shape[1])


def test_the_frames_are_read_in_order_by_anyone(tmp_path: Path) -> None:
    sample = cut(make_clip(tmp_path / "a.mp4"), 0.5, 2.0)
    assert isinstance(sample, Sample) and sample.media
    with av.open(io.BytesIO(sample.media)) as container:
        assert [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)] == list(range(12, 48))


def test_rotation_is_baked_in(tmp_path: Path) -> None:
    sample = cut(make_clip(tmp_path / "a.mp4", rotation=90), 0.5, None)
    assert isinstance(sample, Sample) and sample.media and sample.video
    assert (sample.video.width, sample.video.height, sample.video.rotation) == (144, 192, 0)
    (tmp_path / "cut.mp4").write_bytes(sample.media)
    upright = frames_at(tmp_path / "cut.mp4", [0.0]).frames[0]
    assert read_number(np.rot90(upright, -1)) == 12
    assert np.abs(upright.astype(int) - frames_at(tmp_path / "a.mp4", [0.5]).frames[0]).mean() < 4


def test_colours_survive_with_their_matrix(tmp_path: Path) -> None:
    bt709 = {"x264-params": "colormatrix=bt709:colorprim=bt709:transfer=bt709"}
    sample = cut(make_clip(tmp_path / "a.mp4", options=bt709), 0.5, None)
    assert isinstance(sample, Sample) and sample.media
    (tmp_path / "cut.mp4").write_bytes(sample.media)
    before, after = frames_at(tmp_path / "a.mp4", [0.5]).frames[0], frames_at(tmp_path / "cut.mp4", [0.0]).frames[0]
    assert np.abs(before.astype(int) - after).mean() < 2


def test_key_frames_are_as_far_apart_as_configured_and_the_index_comes_first(tmp_path: Path) -> None:
    sample = cut(make_clip(tmp_path / "a.mp4"), 0.0, 2.4, CutSettings(gop=16))
    assert isinstance(sample, Sample) and sample.media
    with av.open(io.BytesIO(sample.media)) as container:
        keys = [index for index, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert max(np.diff(keys)) <= 16
    assert sample.media.index(b"moov") < sample.media.index(b"mdat")


def test_the_same_clip_gives_the_same_bytes(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4")
    first, second = cut(source, 0.5, 2.0), cut(source, 0.5, 2.0)
    assert isinstance(first, Sample) and isinstance(second, Sample)
    assert first.media == second.media


def test_whole_clips_pass_untouched(tmp_path: Path) -> None:
    sample = cut(make_clip(tmp_path / "a.mp4"), None, None)
    assert isinstance(sample, Sample) and sample.video
    assert sample.media is None
    assert not sample.video.reencoded


def test_a_clip_that_breaks_meanwhile_is_rejected(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4")
    clip = Clip(row=0, key="k", source_id="s", uri="u", address=str(source), start_s=0.5, caption="a disc")
    source.write_bytes(b"gone")
    [row] = Cut(CutSettings()).process([Sample(clip=clip)])
    assert isinstance(row, Rejection)
    assert row.reason == "unreadable"


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_clip(tmp_path / "a.mp4")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    cut(source, 0.5, 2.0)
    assert probe(source).n_frames == 60
    assert list((tmp_path / "tmp").iterdir()) == []
