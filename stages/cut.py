"""The last stage: cut clips that are a range of a longer video, by re-encoding.

In: kept samples. Out: those with `start_s` or `end_s` carry the bytes of an MP4 of exactly that range in `media`, the others
pass untouched. Never a stream copy: it can only start at key frames and hides the rest behind an edit list, which decoders get
wrong. The cut shows what a viewer saw (upright, square pixels, 8 bit 4:2:0), keeps every frame with its time, has no sound, is
encoded for being decoded often: x264 without what makes decoding slow, short GOPs; one thread and no version in the header: the
same input gives the same bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from materia.base.weights.files import Missing
from stages.frames import video_info
from stages.records import Row, Sample, StageName, reject
from stages.settings import CutSettings
from stages.video import OpenVideo, VideoError, local_copy, open_video, probe
from stages.video.decode import walk
from stages.video.encode import Colors, write_h264

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


class Cut:
    """Re-encode the ranges; frame i of the cut is frame i of the clip."""

    name: StageName = "cut"

    def __init__(self, settings: CutSettings) -> None:
        self.settings = settings

    def missing(self) -> list[Missing]:
        """x264, which some builds of PyAV lack."""
        import av

        if "libx264" in av.codecs_available:
            return []
        return [Missing("the libx264 encoder in PyAV", "pip install --force-reinstall --only-binary av av")]

    def identity(self) -> dict[str, str]:
        """Nothing beyond the settings."""
        return {}

    def setup(self) -> None:
        """Nothing to load."""

    def process(self, samples: list[Sample]) -> list[Row]:
        """One row a sample; see `stages.base.Stage`."""
        return [self._process_one(sample) for sample in samples]

    def close(self) -> None:
        """Nothing is kept."""

    def _process_one(self, sample: Sample) -> Row:
        clip = sample.clip
        if clip.start_s is None and clip.end_s is None:
            return sample
        try:
            with (
                local_copy(clip.address) as path,
                open_video(path, clip.start_s, clip.end_s) as video,
                tempfile.TemporaryDirectory(prefix="materia-") as folder,
            ):
                target = Path(folder) / "cut.mp4"
                encode(video, target, self.settings)
                sample.video = video_info(probe(target))
                sample.video.reencoded = True
                sample.media = target.read_bytes()
        except VideoError as error:
            return reject(sample, "frames", error.reason, str(error))
        except Exception as error:  # a bug or a full disk must cost this clip only
            return reject(sample, "cut", "internal_error", f"{type(error).__name__}: {error}")
        return sample


def encode(video: OpenVideo, target: Path, settings: CutSettings) -> None:
    """Write the opened range to `target` as MP4, frame by frame; raises VideoError if a frame is lost on the way."""
    context = video.stream.codec_context
    count = write_h264(
        target,
        _pictures(video),
        size=(video.probe.width // 2 * 2, video.probe.height // 2 * 2),
        rate=round(max(1, video.probe.fps)),
        time_base=_time_base(video),
        crf=settings.crf,
        preset=settings.preset,
        tune="fastdecode",
        gop=settings.gop,
        colors=Colors(context.colorspace, context.color_primaries, context.color_trc),
    )
    if count != video.probe.n_frames:
        raise VideoError(
            "unreadable", f"frame {count} of {video.probe.n_frames} cannot be decoded (the file is damaged or cut off)"
        )


def _time_base(video: OpenVideo) -> Fraction:
    return video.stream.time_base or Fraction(1, 90000)


def _pictures(video: OpenVideo) -> Iterator[VideoFrame]:
    """Every frame with its time as displayed, 8 bit 4:2:0, of even size; up to the first that is lost, one in memory.

    Sizes as displayed are even, or lose their last row or column, so pixels keep their places.
    """
    everything = range(video.probe.n_frames)
    for wanted, (_, index, frame) in enumerate(walk(video, everything, everything=True)):
        if index != wanted:
            return
        picture = _upright_420(frame, video)
        picture.pts, picture.time_base = video.timeline.pts[index] - video.timeline.pts[0], _time_base(video)
        yield picture


def _upright_420(frame: VideoFrame, video: OpenVideo) -> VideoFrame:
    from av.video.frame import VideoFrame as Picture

    width, height, turns = video.probe.width, video.probe.height, -video.probe.rotation // 90 % 4
    if turns == 0 and width % 2 == height % 2 == 0:
        return frame.reformat(width, height, "yuv420p", dst_color_range="MPEG", threads=1)
    stored = (height, width) if turns % 2 else (width, height)
    planes = frame.reformat(*stored, "yuv444p", dst_color_range="MPEG", threads=1).to_ndarray()  # (3, H, W)
    planes = np.rot90(planes, turns, axes=(1, 2))[:, : height // 2 * 2, : width // 2 * 2]
    upright = Picture.from_ndarray(np.ascontiguousarray(planes, np.uint8), format="yuv444p")
    upright.colorspace, upright.color_range = frame.colorspace, 1
    return upright.reformat(format="yuv420p", threads=1)
