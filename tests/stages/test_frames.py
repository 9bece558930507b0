"""The frames stage: three frames of record, what the clip truly is, and a reason for every clip that is not taken."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from clips import make_clip, picture, read_number
from lying_backends import ANSWER
from seen import frames_row, kept, rejected

from stages.backends import ShotChanges
from stages.records import Row, encode_rows
from stages.settings import FramesSettings


def run(path: Path | str, start_s: float | None = None, end_s: float | None = None, **settings: object) -> Row:
    return frames_row(path, start_s, end_s, **{"min_duration_s": FramesSettings().min_duration_s, **settings})


def why(row: Row) -> str:
    return rejected(row).reason


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("frames") / "clip.mp4", 100, fps=25)


def test_frames_lie_at_the_percents_of_the_duration(clip: Path) -> None:
    sample = kept(run(clip))
    assert [(frame.percent, frame.index, frame.time_s) for frame in sample.frames] == [
        (5, 5, 0.2),
        (50, 50, 2.0),
        (95, 95, 3.8),
    ]
    assert [read_number(frame.rgb) for frame in sample.frames] == [5, 50, 95]
    assert sample.flags == []


def test_the_video_is_described_as_it_is(clip: Path) -> None:
    video = kept(run(clip)).video
    assert video is not None
    assert (video.container, video.codec, video.width, video.height, video.n_frames) == ("mp4", "h264", 192, 144, 100)
    assert (video.fps, video.duration_s, video.rotation, video.sar, video.reencoded) == (25, 4, 0, "1:1", False)


def test_a_range_has_frames_of_its_own(clip: Path) -> None:
    sample = kept(run(clip, start_s=1.0, end_s=3.0))
    assert [read_number(frame.rgb) for frame in sample.frames] == [25 + frame.index for frame in sample.frames] == [27, 50, 72]
    assert [frame.time_s for frame in sample.frames] == pytest.approx([0.08, 1.0, 1.88])


def test_the_same_clip_gives_the_same_bytes(clip: Path) -> None:
    assert encode_rows([run(clip)]) == encode_rows([run(clip)])


def test_not_looking_for_cuts_decodes_less_and_gives_the_same_frames(clip: Path) -> None:
    assert encode_rows([run(clip, motion=False)]) == encode_rows([run(clip, motion=False, several_shots="ignore")])


def test_points_are_followed_whether_cuts_are_looked_for_or_not(clip: Path) -> None:
    sample = kept(run(clip))
    assert [(motion.start, motion.end) for motion in sample.motion] == [(0, 1), (1, 2), (0, 2)]
    assert all(len(motion.array) for motion in sample.motion)
    assert kept(run(clip, several_shots="ignore")).motion == sample.motion
    assert kept(run(clip, motion=False)).motion == []


def test_jpegs_keep_colours_at_full_resolution(clip: Path) -> None:
    from PIL import Image
    from PIL.JpegImagePlugin import get_sampling

    from stages.frames import encode_jpeg

    jpeg = encode_jpeg(picture(3), 95)
    import io

    assert get_sampling(Image.open(io.BytesIO(jpeg))) == 0
    assert np.abs(np.asarray(Image.open(io.BytesIO(jpeg))).astype(int) - picture(3)).mean() < 2


@pytest.mark.parametrize(("n", "fps"), [(8, 5), (8, 4), (20, 1), (3, 2)])
def test_few_frames_are_enough(tmp_path: Path, n: int, fps: int) -> None:
    sample = kept(run(make_clip(tmp_path / "slow.mp4", n, fps=fps)))
    assert sample.video is not None and sample.video.duration_s == pytest.approx(n / fps)
    assert len({frame.index for frame in sample.frames}) == 3


def test_lengths_and_sizes_have_limits(clip: Path, tmp_path: Path) -> None:
    assert why(run(clip, min_duration_s=4.1)) == "too_short"
    assert why(run(clip, max_duration_s=3.9)) == "too_long"
    assert why(run(clip, min_side_px=145)) == "too_small"
    assert why(run(clip, start_s=50.0)) == "too_short"
    assert why(run(make_clip(tmp_path / "two.mp4", 2, fps=1))) == "no_distinct_frames"
    assert why(run(make_clip(tmp_path / "gap.mp4", 4, fps=1, ticks=[0, 1, 2, 90]))) == "no_distinct_frames"


def test_no_picture_waits_for_the_garbage_to_be_collected(clip: Path) -> None:
    """Of a 4K clip, that was half a gigabyte."""
    kept(frames_row(clip))  # imports
    gc.collect()
    gc.disable()
    try:
        before = sum(type(thing).__name__ == "VideoFrame" for thing in gc.get_objects())
        kept(frames_row(clip))
        assert sum(type(thing).__name__ == "VideoFrame" for thing in gc.get_objects()) == before
    finally:
        gc.enable()


def test_a_far_too_long_clip_is_not_read_to_its_end(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "long.mp4", 900, fps=3, size=(128, 128), gop=30)
    row = run(clip)
    assert why(row) == "too_long"
    assert "120" in row.message


def test_what_cannot_be_opened_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    for address in (tmp_path / "text.mp4", tmp_path / "missing.mp4", tmp_path, "memory://nowhere/x.mp4"):
        assert why(run(address)) == "unreadable"


def test_several_shots_are_rejected_flagged_or_ignored(tmp_path: Path) -> None:
    shots = [picture(i) for i in range(30)] + [picture(i, night=True) for i in range(30, 60)]
    clip = make_clip(tmp_path / "cut.mp4", pictures=shots)
    row = run(clip)
    assert why(row) == "several_shots"
    assert "1.25 s" in row.message
    assert kept(run(clip, several_shots="flag")).flags == ["several_shots"]
    assert kept(run(clip, several_shots="ignore")).flags == []


NONE = np.zeros(60, np.float32)
LIAR = "lying_backends:Liar"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda times_s, pictures: None, "None for a clip; want stages.backends.ShotChanges"),
        (lambda times_s, pictures: ShotChanges(NONE[1:], NONE[1:]), "cuts of shape (59,); want ("),
        (lambda times_s, pictures: ShotChanges(times_s * 0, NONE[:1]), "dissolves of shape (1,); want ("),
        (lambda times_s, pictures: ShotChanges(times_s > 9, times_s * 0), "cuts of dtype bool"),
        (lambda times_s, pictures: ShotChanges(times_s * 0 + 2, times_s * 0), "the score 2; want scores in [0, 1]"),
        (lambda times_s, pictures: ShotChanges(times_s * 0, times_s * np.nan), "the score nan"),
    ],
)
def test_a_bad_answer_of_the_cut_search_rejects_its_clip_by_a_sentence(clip: Path, given: object, said: str) -> None:
    ANSWER["is"] = given
    row = rejected(run(clip, backend=LIAR))
    assert row.reason == "internal_error"
    assert row.message.startswith(f"frames.backend {LIAR}: search gave ") and said in row.message


def test_what_is_sure_enough_to_be_a_cut_or_dissolve_is_a_setting(clip: Path) -> None:
    ANSWER["is"] = lambda times_s, pictures: ShotChanges(times_s * 0 + 0.3, times_s * 0 + 0.1)
    assert kept(run(clip, backend=LIAR)).flags == []
    assert why(run(clip, backend=LIAR, shot_threshold=0.2)) == "several_shots"
    assert why(run(clip, backend=LIAR, dissolve_threshold=0.05)) == "several_shots"


def test_the_cut_search_gets_every_frame_of_the_clip_only_if_it_wants(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    def given(times_s: np.ndarray, pictures: np.ndarray) -> ShotChanges:
        shown.append(pictures)
        return ShotChanges(times_s * 0, times_s * 0)

    ANSWER["is"] = given
    some = run(clip, backend=LIAR)
    monkeypatch.setattr("lying_backends.Liar.every_frame", True)
    monkeypatch.setattr("lying_backends.Liar.picture_size", (48, 27))
    every = run(clip, backend=LIAR)
    assert shown[0].shape[1:] == (36, 64, 3) and shown[1].shape == (91, 27, 48, 3)  # frames 5 to 95
    assert len(shown[0]) < 70
    assert [frame.jpeg for frame in kept(some).frames] == [frame.jpeg for frame in kept(every).frames]


def test_outputs_from_before_the_cut_search_had_a_choice_keep_their_fingerprint() -> None:
    plain = FramesSettings().result_fields()
    assert not {"backend", "options", "device", "threads"} & plain.keys() and plain["shot_threshold"] == 0.38
    assert FramesSettings(backend="transnetv2").result_fields()["backend"] == "transnetv2"
    assert FramesSettings(options={"n": 1}).result_fields()["options"] == {"n": 1}


def test_a_cut_outside_the_three_frames_does_no_harm(tmp_path: Path) -> None:
    shots = [picture(i, night=True) for i in range(4)] + [picture(i) for i in range(4, 100)]
    assert kept(run(make_clip(tmp_path / "early.mp4", pictures=shots))).flags == []


def test_flags_tell_still_portrait_and_long_clips(tmp_path: Path) -> None:
    still = make_clip(tmp_path / "still.mp4", pictures=[picture(7)] * 60)
    assert kept(run(still)).flags == ["still"]
    tall = make_clip(tmp_path / "tall.mp4", 30, size=(144, 256))
    assert kept(run(tall)).flags == ["portrait"]
    assert kept(run(tall, long_s=1.0)).flags == ["portrait", "long"]


def test_frames_of_a_clip_to_be_cut_have_even_sizes(tmp_path: Path) -> None:
    odd = make_clip(tmp_path / "odd.mp4", pix_fmt="yuv444p", size=(193, 145))
    assert kept(run(odd)).frames[0].rgb.shape == (145, 193, 3)
    assert kept(run(odd, start_s=0.5)).frames[0].rgb.shape == (144, 192, 3)
