"""Stage 2a: what the clip is, its three frames of record, and whether it is worth going on with.

In: samples whose `clip.address` is to be opened. Out: `video`, `frames`, `motion` and `flags` filled in, or a rejection. The
three pictures, what moved between them, what is searched for scene cuts and the decoder's complaints come out of one decoding
pass.
"""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from materia.base.errors import lasting_trouble
from materia.base.terminal import plural
from materia.base.weights.files import Missing
from stages.answers import BadAnswer
from stages.backends import CutSearcher, build_backend
from stages.records import MIDDLE, Donor, Flag, Frame, Row, Sample, StageName, VideoInfo, reject
from stages.settings import FramesSettings
from stages.shots import find_cuts
from stages.unexpected import internal_error
from stages.video import Decoded, OpenVideo, Probe, VideoError, Watcher, frames_at, local_copy, open_video
from stages.video.decode import indices_at
from stages.video.motion import Follower
from stages.video.pictures import several_sizes

DONOR_QUALITY, MOST_DONOR_PX = 90, 1920 * 1080
"""JPEG quality of donors (4:2:0, as most video is), and pixels from which on they are scaled down: what travels is bounded."""
LIVELY_SHARE = 99
"""Percentile of the change of small areas that tells whether anything moves: a small subject moves in few of them."""


class Frames:
    """Three frames at `percents` of the clip, by time stamp, with the checks that need nothing but the pictures."""

    name: StageName = "frames"

    def __init__(self, settings: FramesSettings) -> None:
        self.settings = settings
        searcher = cast(CutSearcher, build_backend("frames", settings.backend, settings.options))
        self.searcher = None if settings.several_shots == "ignore" else searcher

    def missing(self) -> list[Missing]:
        """What the cut search lacks. PyAV and OpenCV are requirements; without decord PyAV decodes the same bits."""
        return self.searcher.missing() if self.searcher else []

    def identity(self) -> dict[str, str]:
        """Hashes of the cut search's weights."""
        return self.searcher.identity() if self.searcher else {}

    def setup(self) -> None:
        """Import the decoders once, keep OpenCV to one thread, and load the cut search."""
        import av  # noqa: F401
        import cv2

        cv2.setNumThreads(1)
        if self.searcher:
            self.searcher.setup(self.settings.device, self.settings.threads)

    def process(self, samples: list[Sample]) -> list[Row]:
        """One row a sample; see `stages.base.Stage`."""
        return [self._process_one(sample) for sample in samples]

    def close(self) -> None:
        """Give the cut search back."""
        if self.searcher:
            self.searcher.close()

    def _process_one(self, sample: Sample) -> Row:
        clip = sample.clip
        try:
            with (
                local_copy(clip.address) as path,
                open_video(path, clip.start_s, clip.end_s, self.settings.max_duration_s) as video,
            ):
                sample.source_bytes = Path(path).stat().st_size
                return self._look_at(sample, video)
        except VideoError as error:
            return reject(sample, "frames", error.reason, str(error))
        except (FileNotFoundError, PermissionError) as error:
            return reject(sample, "frames", "unreadable", f"cannot open the video: {error.strerror or error}")
        except OSError as error:
            if lasting_trouble(error) is not None:
                raise  # of a folder for downloads, or of credentials
            return reject(sample, "frames", "transient_exhausted", f"cannot fetch the video: {error}")
        except BadAnswer as bad:
            return reject(sample, "frames", "internal_error", str(bad))
        except Exception as error:  # a bug or a broken library must cost this clip only
            return internal_error(sample, "frames", error)

    def _look_at(self, sample: Sample, video: OpenVideo) -> Row:
        settings = self.settings
        problem = _unfit(video.probe, settings)
        if problem:
            return reject(sample, "frames", *problem)

        times_s = [video.probe.duration_s * percent / 100 for percent in settings.percents]
        seen: list[tuple[int, np.ndarray]] = []
        watcher = None
        if self.searcher:
            watcher = Watcher(lambda *picture: seen.append(picture), self.searcher.picture_size, self.searcher.every_frame)
        record = indices_at(video.probe, times_s)
        donors = _donor_indices(video.probe, record, settings.donors) if settings.motion else []
        follower = Follower(video.probe, record, donors) if settings.motion else None
        all_s = [*times_s, *(video.probe.times_s[index] for index in donors)]
        every = frames_at(video, all_s, watcher, follow=follower)
        decoded = every.first(len(times_s))
        if len(set(decoded.indices)) < len(decoded.indices):
            n_frames = plural(video.probe.n_frames, "frame")
            message = f"the clip has {n_frames}, and {settings.percents} % of it do not show distinct ones"
            return reject(sample, "frames", "no_distinct_frames", message)
        if decoded.seen.reshaped:
            raise several_sizes(video.probe)
        cuts = self._cuts_between(decoded, seen, video.probe)
        if cuts and settings.several_shots == "reject":
            return reject(sample, "frames", "several_shots", _told(cuts))

        sample.video = video_info(video.probe)
        sample.frames = _frames_of_record(decoded, settings, even=not video.whole)
        if follower is not None:
            sample.motion = follower.motion(even=not video.whole)
            sample.donors = _donors(every, follower, len(times_s), even=not video.whole)
        sample.flags = [*sample.flags, *_flags(decoded, video.probe, bool(cuts), settings)]
        return sample

    def _cuts_between(self, decoded: Decoded, seen: list[tuple[int, np.ndarray]], probe: Probe) -> list[float]:
        """Times of the scene cuts between the first and the last frame of record."""
        inside = [(index, picture) for index, picture in seen if decoded.indices[0] <= index <= decoded.indices[-1]]
        if self.searcher is None or not inside:
            return []
        times_s = np.array([probe.times_s[index] for index, _ in inside])
        settings, pictures = self.settings, np.stack([picture for _, picture in inside])
        name = f"frames.backend {settings.backend}"
        return find_cuts(self.searcher, name, times_s, pictures, settings.shot_threshold, settings.dissolve_threshold)


def video_info(probe: Probe) -> VideoInfo:
    """The record of a probed video."""
    names = ("container", "codec", "width", "height", "rotation", "mirrored", "sar", "fps", "duration_s", "n_frames")
    return VideoInfo(**{name: getattr(probe, name) for name in names})


def _unfit(probe: Probe, settings: FramesSettings) -> tuple[str, str] | None:
    """(reason, message) if the clip's length, size or angle forbids its use."""
    if probe.tilt_deg:
        message = f"its display matrix turns the picture by {probe.tilt_deg} degrees beyond a right angle; re-encode it upright"
        return "unreadable", message
    if probe.duration_s < settings.min_duration_s - 1e-6:
        return "too_short", f"{probe.duration_s:.3f} s, the least is min_duration_s = {settings.min_duration_s:g}"
    if probe.duration_s > settings.max_duration_s + 1e-6:
        return (
            "too_long",
            f"longer than max_duration_s = {settings.max_duration_s:g}; cut it with start and end, or raise the limit",
        )
    side = min(probe.width, probe.height)
    if side < settings.min_side_px:
        return "too_small", f"{probe.width}x{probe.height} as displayed, the least side is min_side_px = {settings.min_side_px}"
    if probe.n_frames < 3:
        return "no_distinct_frames", f"the clip has {plural(probe.n_frames, 'frame')}, three distinct ones are needed"
    return None


def _told(cuts: list[float]) -> str:
    times = ", ".join(f"{time:.2f}" for time in cuts[:5]) + (" ..." if len(cuts) > 5 else "")
    return f"scene cut at {times} s: give start and end of one shot, or set frames.several_shots to flag"


def _flags(decoded: Decoded, probe: Probe, cut: bool, settings: FramesSettings) -> list[Flag]:
    found: dict[Flag, bool] = {
        "still": liveliness(decoded.frames) < settings.still_threshold,
        "damaged": probe.damaged or decoded.seen.damaged,
        "portrait": probe.height > probe.width,
        "long": probe.duration_s > settings.long_s,
        "several_shots": cut,
        "hdr": probe.hdr or decoded.seen.hdr,
        "interlaced": probe.interlaced or decoded.seen.interlaced,
    }
    return [flag for flag, holds in found.items() if holds]


def liveliness(frames: list[np.ndarray]) -> float:
    """How much the liveliest hundredth of the picture changes between frames, 0-1; a frozen picture has below 0.01."""
    import cv2

    small = [cv2.resize(frame, (64, 36), interpolation=cv2.INTER_AREA).astype(np.float32) / 255 for frame in frames]
    changes = [np.abs(a - b).mean(axis=2) for a, b in pairwise(small)]  # (36, 64)
    return max(float(np.percentile(change, LIVELY_SHARE)) for change in changes)


def _frames_of_record(decoded: Decoded, settings: FramesSettings, even: bool) -> list[Frame]:
    return [
        Frame(
            percent=percent,
            index=index,
            time_s=time_s,
            jpeg=encode_jpeg(even_size(rgb) if even else rgb, settings.jpeg_quality),
        )
        for percent, index, time_s, rgb in zip(settings.percents, decoded.indices, decoded.pts_s, decoded.frames, strict=True)
    ]


def _donor_indices(probe: Probe, record: list[int], n: int) -> list[int]:
    """Of `n` frames evenly between the first and the last of record those that are none of these."""
    first, last = probe.times_s[record[0]], probe.times_s[record[-1]]
    times_s = np.linspace(first, last, n + 3)  # with those of record among them, at the default percents
    return [index for index in dict.fromkeys(indices_at(probe, times_s.tolist())) if index not in record]


def _donors(decoded: Decoded, follower: Follower, n_record: int, even: bool) -> list[Donor]:
    points = follower.points_to(MIDDLE, even)
    return [
        Donor(time_s=time_s, jpeg=encode_jpeg(_at_most(even_size(rgb) if even else rgb), DONOR_QUALITY, "4:2:0"), points=own)
        for time_s, rgb, own in zip(decoded.pts_s[n_record:], decoded.frames[n_record:], points, strict=True)
    ]


def _at_most(rgb: np.ndarray) -> np.ndarray:
    """The picture, scaled to MOST_DONOR_PX if it has more pixels."""
    import cv2

    scale = (MOST_DONOR_PX / (rgb.shape[0] * rgb.shape[1])) ** 0.5
    if scale >= 1:
        return rgb
    size = round(rgb.shape[1] * scale), round(rgb.shape[0] * scale)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))


def even_size(pixels: np.ndarray) -> np.ndarray:
    """Without the last row or column of an odd size, as the re-encoded cut is: 4:2:0 video has even sizes."""
    return pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]


def encode_jpeg(rgb: np.ndarray, quality: int, subsampling: str = "4:4:4") -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG, colours at full resolution unless `subsampling` says less; the same bytes for the same
    pixels.
    """
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "JPEG", quality=quality, subsampling=subsampling)
    return out.getvalue()
