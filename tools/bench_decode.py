"""How long three frames of a video take: PyAV with seeks, decord, and PyAV watching for scene cuts. One thread, CPU time.

python -m tools.bench_decode VIDEO...
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from stages.video import OpenVideo, VideoError, decode, open_video


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU milliseconds of one call, the best of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times) * 1e3


def row(video: OpenVideo) -> list[float]:
    """Milliseconds of the three ways; decord's is nan where it is not right."""
    duration_s = video.probe.duration_s
    times_s = [duration_s * share for share in (0.05, 0.5, 0.95)]
    wanted = sorted(set(decode.frames_at(video, times_s).indices))
    return [
        cpu_ms(lambda: decode._decode_with_pyav(video, wanted, None)),
        cpu_ms(lambda: decode._decode_with_decord(video, wanted)) if decode._decord_is_right(video) else float("nan"),
        cpu_ms(lambda: decode._decode_with_pyav(video, wanted, decode.Watcher(lambda index, picture: None, (64, 36)))),
    ]


def main(paths: list[str]) -> None:
    """Print a row a video and the means over those that both can decode."""
    print(f"{'video':32} {'PyAV':>8} {'decord':>8} {'watched':>8}   CPU ms for three frames")
    rows = []
    for path in paths:
        try:
            with open_video(path) as video:
                rows.append(row(video))
        except VideoError as error:
            print(f"{Path(path).name[:32]:32} {error}")
            continue
        print(f"{Path(path).name[:32]:32}" + "".join(f" {value:8.0f}" for value in rows[-1]))
    both = [values for values in rows if values[1] == values[1]]
    if both:
        print(
            f"{'mean of ' + str(len(both)):32}"
            + "".join(f" {sum(column) / len(both):8.0f}" for column in zip(*both, strict=True))
        )


if __name__ == "__main__":
    main(sys.argv[1:])
