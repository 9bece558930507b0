"""Makes pq.mp4, hlg.mp4 and, beside each, the SDR pictures that the ffmpeg program makes of it. Run: make_hdr.py FFMPEG

FFMPEG is a build with zscale (libzimg), which PyAV's has not. The pictures cover hues, saturations and brightness up to the
brightest that the transfer can say. Made with ffmpeg 9.0.2.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "stages"))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from clips import make_clip  # noqa: E402
from PIL import Image  # noqa: E402

TO_SDR = (
    "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,zscale=t=bt709:m=bt709:r=tv,format=yuv444p,"
    "scale=in_color_matrix=bt709:in_range=tv,format=rgb24"
)
WIDTH, HEIGHT, FRAMES = 96, 72, 30


def colours(number: int) -> np.ndarray:
    """(H, W, 3) uint16 RGB."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / np.array([HEIGHT, WIDTH])[:, None, None]
    hue = (x * 360 + 5 * number) % 360
    value = np.where(y < 0.5, 0.15 + 0.6 * np.abs(np.sin(3 * x + number / 10)), 0.1 + 0.9 * y * np.abs(np.cos(5 * x)))
    hsv = np.stack([hue, np.clip(1.2 - np.abs(y - 0.5) * 2.2, 0, 1), value], axis=-1).astype(np.float32)
    return (np.clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), 0, 1) * 65535).astype(np.uint16)


if __name__ == "__main__":
    for name, transfer in (("pq", 16), ("hlg", 18)):
        clip = make_clip(
            HERE / f"{name}.mp4",
            size=(WIDTH, HEIGHT),
            pix_fmt="yuv420p10le",
            pictures=map(colours, range(FRAMES)),
            colors=(9, 9, transfer),
            options={"preset": "slow", "crf": "10"},
        )
        command = [sys.argv[1], "-v", "error", "-i", str(clip), "-vf", TO_SDR, "-f", "rawvideo", "-"]
        pixels = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)
        frames = pixels.reshape(FRAMES, HEIGHT, WIDTH, 3)
        Image.fromarray(np.concatenate(frames[::14])).save(HERE / f"{name}.png")  # frames 0, 14, 28, one below the other
