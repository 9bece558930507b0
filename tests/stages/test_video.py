"""`frames_at` and `probe` give the right picture at the right time, whatever the container, codec and header say."""

from __future__ import annotations

import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from clips import copy_from, make_clip, read_number, two_streams

import stages.video.decode as decode
from stages.video import VideoError, Watcher, frames_at, in_memory, open_video, probe

VP9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}
VP8 = {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "500k", "cpu-used": "5"}}
MPEG4 = {"codec": "mpeg4", "options": {"bf": "2", "b": "1M"}}
B_FRAMES = {"options": {"preset": "fast", "x264-params": "bframes=3:scenecut=0"}}
VFR = [i * 2 if i < 20 else 40 + (i - 20) * 7 for i in range(60)]

PLAIN = {
    "plain.mp4": {},
    "b_frames.mp4": B_FRAMES,
    "quicktime.mov": {},
    "h264.mkv": B_FRAMES,
    "vp9.webm": VP9,
    "hevc.mp4": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"}},
    "part2.mp4": MPEG4,
    "variable.mp4": {"fps": 50, "ticks": VFR},
    "anamorphic.mp4": {"sar": Fraction(2)},
}
"""Files that decord decodes right."""
ODD = {
    "vp8.webm": VP8,
    "b_frames.avi": B_FRAMES,
    "part2.avi": MPEG4,
    "stream.ts": B_FRAMES,
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "lp=1"}},
    "ten_bit.mp4": {"pix_fmt": "yuv420p10le"},
    "odd_444.mp4": {"pix_fmt": "yuv444p", "size": (193, 145)},
    "anim.gif": {"codec": "gif", "pix_fmt": "rgb8", "fps": 25},
    "fragmented.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
}
"""Files that PyAV must decode."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, arguments in (PLAIN | ODD).items():
        make_clip(folder / name, **arguments)
    return folder


def numbers(source: object, times_s: list[float]) -> list[int]:
    return [read_number(rgb) for rgb in frames_at(source, times_s).frames]


@pytest.mark.parametrize("name", [*PLAIN, *ODD])
def test_every_frame_is_found_at_its_time(folder: Path, name: str) -> None:
    with open_video(folder / name) as video:
        assert video.probe.n_frames == 60
        times_s = video.probe.times_s
        assert numbers(video, [time + 0.001 for time in times_s]) == list(range(60))
        assert numbers(video, [times_s[41] + 0.001, times_s[3]]) == [41, 3]


@pytest.mark.parametrize("name", [*PLAIN, *ODD])
def test_a_watcher_sees_frames_in_order_and_changes_nothing(folder: Path, name: str) -> None:
    seen: list[int] = []
    with open_video(folder / name) as video:
        times_s = [video.probe.duration_s * share for share in (0.05, 0.5, 0.95)]
        alone = frames_at(video, times_s)
        watched = frames_at(video, times_s, Watcher(lambda index, picture: seen.append(index), (64, 36)))
    assert watched.indices == alone.indices
    assert all(np.array_equal(a, b) for a, b in zip(alone.frames, watched.frames, strict=True))
    assert seen == sorted(set(seen)) and set(alone.indices) <= set(seen)


@pytest.mark.parametrize("name", PLAIN)
def test_decord_serves_plain_files_and_gives_the_bits_of_pyav(folder: Path, name: str) -> None:
    pytest.importorskip("decord")
    wanted = [2, 3, 30, 57]
    with open_video(folder / name) as video:
        assert decode._decord_is_right(video)
        ours, _ = decode._decode_with_pyav(video, wanted, None)
        theirs = decode._decode_with_decord(video, wanted)
    assert theirs is not None
    assert all(np.array_equal(ours[index], theirs[index]) for index in wanted)


@pytest.mark.parametrize("name", ODD)
def test_decord_is_kept_from_files_that_it_may_get_wrong(folder: Path, name: str) -> None:
    with open_video(folder / name) as video:
        assert not decode._decord_is_right(video)


def test_containers_are_named_by_their_bytes(folder: Path, tmp_path: Path) -> None:
    disguised = tmp_path / "webm.mp4"
    disguised.write_bytes((folder / "vp9.webm").read_bytes())
    assert probe(disguised).container == "webm"
    named = {probe(folder / name).container for name in PLAIN | ODD}
    assert named == {"mp4", "mov", "mkv", "webm", "avi", "ts", "gif"}


def test_variable_frame_rate_goes_by_time_stamps(folder: Path) -> None:
    found = probe(folder / "variable.mp4")
    assert found.times_s == pytest.approx([tick / 50 for tick in VFR])
    assert numbers(folder / "variable.mp4", [2.0]) == [max(i for i, tick in enumerate(VFR) if tick <= 100)]


@pytest.mark.parametrize("shown_from", [30, 31, 35])
def test_an_edit_list_hides_what_it_cut_away(folder: Path, tmp_path: Path, shown_from: int) -> None:
    cut = copy_from(folder / "b_frames.mp4", tmp_path / "cut.mp4", 30, shift_to=shown_from)
    with open_video(cut) as video:
        assert video.probe.n_frames == 60 - shown_from < video.stream.frames
        assert not decode._decord_is_right(video)
        assert numbers(video, list(video.probe.times_s)) == list(range(shown_from, 60))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_open_gop_start_counts_only_what_can_be_decoded(tmp_path: Path, codec: str) -> None:
    whole = make_clip(
        tmp_path / "whole.mp4",
        codec=codec,
        options={
            "preset": "fast",
            "x264-params": "open-gop=1:bframes=3:keyint=12",
            "x265-params": "log-level=none:pools=1:open-gop=1:keyint=12:bframes=3",
        },
    )
    cut = copy_from(whole, tmp_path / "cut.mp4", 30)
    with av.open(str(cut)) as container:
        in_order = [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    with open_video(cut) as video:
        assert video.probe.n_frames == len(in_order) < video.stream.frames
        assert numbers(video, list(video.probe.times_s)) == in_order


def test_packets_before_the_first_key_frame_do_not_count(folder: Path, tmp_path: Path) -> None:
    whole, headless = folder / "b_frames.mp4", tmp_path / "headless.mkv"
    with av.open(str(whole)) as given, av.open(str(headless), "w") as output:
        copy = output.add_stream_from_template(given.streams.video[0])
        for packet in list(given.demux(video=0))[5:]:
            if packet.size:
                packet.stream = copy
                output.mux(packet)
    assert probe(headless).n_frames == 48
    assert numbers(headless, [0.0]) == [12]


def test_rotation_is_applied_and_told_clockwise(folder: Path, tmp_path: Path) -> None:
    turned = make_clip(tmp_path / "turned.mp4", rotation=90)
    found = probe(turned)
    assert (found.width, found.height, found.rotation) == (144, 192, 270)
    frame = frames_at(turned, [1.0]).frames[0]
    assert frame.shape == (192, 144, 3)
    assert read_number(np.rot90(frame, -1)) == 24


def test_rotation_is_that_of_decord_too(tmp_path: Path) -> None:
    decord = pytest.importorskip("decord")
    turned = make_clip(tmp_path / "turned.mp4", rotation=90)
    theirs = decord.VideoReader(str(turned), num_threads=1)[24].asnumpy()
    assert np.array_equal(theirs, frames_at(turned, [1.0]).frames[0])


def test_pixels_that_are_not_square_become_square(folder: Path) -> None:
    found = probe(folder / "anamorphic.mp4")
    assert (found.width, found.height, found.sar) == (384, 144, "2:1")
    assert frames_at(folder / "anamorphic.mp4", [0]).frames[0].shape == (144, 384, 3)


def test_the_default_stream_is_chosen(folder: Path, tmp_path: Path) -> None:
    both = two_streams(tmp_path / "two.mp4", default=folder / "plain.mp4", other=folder / "odd_444.mp4")
    found = probe(both)
    assert (found.width, found.pix_fmt) == (192, "yuv420p")


def test_a_cover_picture_is_no_video(folder: Path, tmp_path: Path) -> None:
    cover = make_clip(tmp_path / "cover.mp4", 1, codec="mjpeg", pix_fmt="yuvj420p", size=(320, 240))
    both = two_streams(tmp_path / "two.mp4", folder / "plain.mp4", cover, Disposition.attached_pic)
    assert probe(both).n_frames == 60


def test_headers_that_lie_about_duration_are_not_believed(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "plain.mp4").read_bytes())
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        place = data.index(box) + offset
        data[place : place + 4] = struct.pack(">I", 2**31 - 1)
    (tmp_path / "liar.mp4").write_bytes(data)
    found = probe(tmp_path / "liar.mp4")
    assert found.duration_s == pytest.approx(2.5)
    assert found.fps == pytest.approx(24)


def test_a_truncated_file_is_damaged_or_refused(folder: Path, tmp_path: Path) -> None:
    fast = make_clip(tmp_path / "whole.mp4", muxer={"movflags": "faststart"})
    (tmp_path / "half.mp4").write_bytes(fast.read_bytes()[: fast.stat().st_size // 2])
    with open_video(tmp_path / "half.mp4") as video:
        assert video.probe.n_frames < 60
        assert video.probe.damaged
    (tmp_path / "headless.mp4").write_bytes((folder / "plain.mp4").read_bytes()[:9000])
    with pytest.raises(VideoError) as caught:
        probe(tmp_path / "headless.mp4")
    assert caught.value.reason == "unreadable"


def test_flipped_bits_are_reported(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "good.mp4", gop=60)
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 400
    for place in range(start, start + 12000, 1511):
        data[place] ^= 0x55
    clip.write_bytes(data)
    with open_video(clip) as video:
        assert frames_at(video, [0.1, 1.2, 2.3], Watcher(lambda index, picture: None, (64, 36))).seen.damaged


@pytest.mark.parametrize("name", ["b_frames.mp4", "h264.mkv", "b_frames.avi", "stream.ts", "variable.mp4"])
def test_a_range_is_a_clip_of_its_own(folder: Path, name: str) -> None:
    whole = probe(folder / name).times_s
    start_s, end_s = whole[17] - 0.001, whole[45] - 0.001
    with open_video(folder / name, start_s, end_s) as video:
        assert video.probe.times_s == pytest.approx([time - whole[17] for time in whole[17:45]], abs=1e-3)
        assert numbers(video, list(video.probe.times_s)) == list(range(17, 45))


def test_a_range_behind_the_end_says_so(folder: Path) -> None:
    with pytest.raises(VideoError, match="no frame in the range") as caught, open_video(folder / "plain.mp4", 100, 110):
        pass
    assert caught.value.reason == "too_short"


def test_a_range_reads_only_its_part_of_the_file(folder: Path) -> None:
    with open_video(folder / "plain.mp4", 2.0) as video:
        assert len(video.timeline.keys) < 5


def test_the_cost_is_the_distance_to_the_key_frame(tmp_path: Path) -> None:
    long = make_clip(tmp_path / "long.mp4", 600, gop=50, size=(128, 96))
    with open_video(long) as video:
        walked = list(decode.walk(video, [10, 310, 590]))
    assert [index for _, index, _ in walked][-1] == 590
    assert len(walked) < 3 * 50


def test_times_outside_give_the_first_and_the_last_frame(folder: Path) -> None:
    assert numbers(folder / "plain.mp4", [-5, 99]) == [0, 59]


@settings(max_examples=25)
@given(gaps=st.lists(st.integers(1, 40), min_size=3, max_size=24), share=st.floats(0, 1))
def test_the_frame_shown_is_the_last_that_began(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[int], share: float
) -> None:
    ticks = [sum(gaps[:i]) for i in range(len(gaps))]
    clip = make_clip(tmp_path_factory.mktemp("vfr") / "a.mp4", len(ticks), fps=100, ticks=ticks, size=(128, 96), gop=5)
    time_s = share * ticks[-1] / 100
    decoded = frames_at(clip, [time_s])
    expected = max(i for i, tick in enumerate(ticks) if tick / 100 <= time_s + 1e-6)
    assert (decoded.indices, read_number(decoded.frames[0])) == ([expected], expected)
    assert decoded.pts_s[0] == pytest.approx(ticks[expected] / 100)


def test_a_clip_in_memory_gives_what_its_file_gives_each_picture_fitted(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 30)
    times = [0.0, 0.5, 0.5, 1.0, 9.0]
    with in_memory(path.read_bytes()) as name:
        fitted = frames_at(name, times, fit=lambda picture: picture[::2, ::3])
    whole = frames_at(path, times)
    assert fitted.indices == whole.indices == [0, 12, 12, 24, 29]
    assert all(np.array_equal(a, b[::2, ::3]) for a, b in zip(fitted.frames, whole.frames, strict=True))
