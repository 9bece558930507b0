"""Pictures of a clip that became no sample, decoded in a process of their own: `python -m materia.report.clip_frames`.

In: where the clip lies (checked by pipeline/sources/access.py), its range and the shares of its length. Out: small pictures,
or a sentence why there are none. The clip may be the very one that ended a worker: a decoder that crashes or never comes back
costs its own process. That gets the request as JSON on standard input, and answers with msgpack on standard output.
"""

from __future__ import annotations

import io
import subprocess
import sys

import msgspec
import numpy as np
from PIL import Image

TIMEOUT_S = 60.0
"""For fetching and decoding a clip; the frames of one take about a second."""
MAX_SIDE_PX = 1024
"""Of a picture that is handed over: larger than a card shows it."""


class Request(msgspec.Struct):
    """`address`: a local path or an fsspec address. `start_s`, `end_s`: the clip's range in seconds; null: its whole file.

    `percents`: where in it, 0-100. `limit_s`: nothing is read beyond.
    """

    address: str
    start_s: float | None
    end_s: float | None
    percents: list[int]
    limit_s: float


class Picture(msgspec.Struct):
    """`jpeg` shows the frame at `percent` of the clip, seen at `time_s`; `width`, `height`: px before it was made small."""

    percent: int
    time_s: float
    width: int
    height: int
    jpeg: bytes


class Answer(msgspec.Struct):
    """The pictures; none, and `problem` says why."""

    pictures: list[Picture] = []
    problem: str = ""


# Made here: msgspec crashes where threads decode a type for the first time together.
_ANSWERS = msgspec.msgpack.Decoder(Answer)


def clip_frames(request: Request, timeout_s: float = TIMEOUT_S) -> Answer:
    """Decode in another process; never raises for what the clip is. The first frame, if the others cannot be decoded."""
    command = [sys.executable, "-P", "-m", __name__]  # -P: no module beside the user stands in for ours
    try:
        done = subprocess.run(command, input=msgspec.json.encode(request), capture_output=True, check=False, timeout=timeout_s)
        return _ANSWERS.decode(done.stdout)
    except subprocess.TimeoutExpired:
        return Answer(problem=f"its video was not decoded within {timeout_s:g} s")
    except msgspec.MsgspecError:
        return Answer(problem=f"its video ended the process that decoded it (exit status {done.returncode})")


def _decode(request: Request) -> Answer:
    """Raises OSError, VideoError."""
    from stages.video import VideoError, frames_at, local_copy, open_video

    with (
        local_copy(request.address) as path,
        open_video(path, request.start_s, request.end_s, request.limit_s) as video,
    ):
        duration_s = video.probe.duration_s
        try:
            percents = request.percents
            decoded = frames_at(video, [duration_s * percent / 100 for percent in percents])
        except VideoError:
            percents = [0]
            decoded = frames_at(video, [0.0])
    shown = zip(percents, decoded.pts_s, decoded.frames, strict=True)
    return Answer([_picture(percent, time_s, frame) for percent, time_s, frame in shown])


def _picture(percent: int, time_s: float, frame: np.ndarray) -> Picture:
    """`frame`: (H, W, 3) uint8 RGB."""
    image = Image.fromarray(frame)
    width, height = image.size
    image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92, subsampling=0)
    return Picture(percent, time_s, width, height, file.getvalue())


def main() -> None:
    """Answer one request."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    try:
        answer = _decode(request)
    except Exception as error:  # whatever a strange video made a decoder raise: a sentence on its card
        answer = Answer(problem=str(error) or type(error).__name__)
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    main()
