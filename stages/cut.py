"""The last stage: cut clips that are a range of a longer video, by re-encoding.

In: kept samples. Out: those with `start_s` or `end_s` carry the bytes of an MP4 of exactly that range in `media`, the others
pass untouched. Never a stream copy: it can only start at key frames and hides the rest behind an edit list, which decoders get
wrong. The cut shows what a viewer saw (upright, square pixels, progressive, SDR, 8 bit 4:2:0), keeps every frame with its
time, has no sound, is encoded for being decoded often: x264 without what makes decoding slow, short GOPs; one thread and no
version in the header: the same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from materia.base.errors import NoWayIn, StorageFailed
from materia.base.weights.files import Missing
from stages.frames import video_info
from stages.records import Row, Sample, StageName, reject
from stages.settings import CutSettings
from stages.unexpected import internal_error
from stages.video import OpenVideo, VideoError, in_memory, local_copy, open_video, probe
from stages.video.decode import walk
from stages.video.encode import BT709, Colors, write_h264
from stages.video.fields import progressive
from stages.video.pictures import as_420, has_shape_of, several_sizes
from stages.video.timeline import time_base

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
                in_memory(b"") as name,
            ):
                target = Path(name)
                encode(video, target, self.settings)
                sample.video = video_info(probe(target))
                sample.video.reencoded = True
                sample.media = target.read_bytes()
        except VideoError as error:
            return reject(sample, "frames", error.reason, str(error))
        except NoWayIn:
            raise
        except StorageFailed as error:
            return reject(sample, "cut", "transient_exhausted", f"cannot fetch the video: {error}")
        except Exception as error:  # a bug or a broken library must cost this clip only
            return internal_error(sample, "cut", error)
        return sample


def encode(video: OpenVideo, target: Path, settings: CutSettings) -> None:
    """Write the opened range to `target` as MP4, frame by frame; raises VideoError if a frame is lost on the way."""
    context = video.stream.codec_context
    own = Colors(context.colorspace, context.color_primaries, context.color_trc)
    colors = BT709 if video.probe.hdr else own
    count = write_h264(
        target,
        _pictures(video, colors),
        size=(video.probe.width // 2 * 2, video.probe.height // 2 * 2),
        rate=round(max(1, video.probe.fps)),
        time_base=time_base(video.stream),
        crf=settings.crf,
        preset=settings.preset,
        tune="fastdecode",
        gop=settings.gop,
        colors=colors,
    )
    if count != video.probe.n_frames:
        raise VideoError(
            "unreadable", f"frame {count} of {video.probe.n_frames} cannot be decoded (the file is damaged or cut off)"
        )


def _pictures(video: OpenVideo, colors: Colors) -> Iterator[VideoFrame]:
    """Every frame with its time as displayed, 8 bit 4:2:0, of even size; up to the first that is lost, a few in memory.

    Raises VideoError for one of another shape than the video's.
    """
    everything = range(video.probe.n_frames)
    for wanted, (_, index, frame) in enumerate(progressive(walk(video, everything, everything=True), everything)):
        if index != wanted:
            return
        if not has_shape_of(frame, video.probe):
            raise several_sizes(video.probe)
        picture = as_420(frame, video.probe, colors)
        picture.pts, picture.time_base = video.timeline.pts[index] - video.timeline.pts[0], time_base(video.stream)
        yield picture
