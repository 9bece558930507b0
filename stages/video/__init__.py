"""Opening, probing and decoding videos: the one way in which everything here decodes.

In: the address of a video and times in seconds. Out: what the video truly is (`probe`) and its pictures as displayed
(`frames_at`). Nothing that a header says is believed: counts, times and durations come from the packets, or from decoding where
packets cannot be trusted. PyAV decodes everything; decord serves where it is right, which `decode.py` decides.
"""

from stages.video.decode import Decoded, Watcher, frames_at
from stages.video.probe import OpenVideo, Probe, open_video, probe
from stages.video.source import VideoError, in_memory, local_copy

__all__ = [
    "Decoded",
    "OpenVideo",
    "Probe",
    "VideoError",
    "Watcher",
    "frames_at",
    "in_memory",
    "local_copy",
    "open_video",
    "probe",
]
