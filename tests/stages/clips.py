"""Small test videos made with PyAV, every picture carrying its number in large black and white blocks.

`make_clip` encodes pictures 0..n-1; `read_number` reads the number back from a decoded picture, after lossy coding, scaling or
rotation. The blocks fill the lowest quarter; above them a bright disc moves over a soft gradient, so the clip is one calm shot.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.stream import Disposition

BITS = 10


def picture(number: int, width: int = 192, height: int = 144, night: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB. `night` is another scene, of other colours and another layout."""
    y, x = np.mgrid[0:height, 0:width]
    ramp = x / width * 120
    rgb = np.stack([ramp + 40, 140 - ramp, np.full_like(ramp, 70)], axis=-1)
    if night:
        checks = (x * 6 // width + y * 4 // height) % 2 * 60
        rgb = np.stack([np.full_like(checks, 10), checks, 60 + 2 * checks], axis=-1)
    centre = width * (0.2 + 0.6 * (number % 100) / 100)
    rgb[(x - centre) ** 2 + (y - height * 0.35) ** 2 < (height / 8) ** 2] = 230
    for bit in range(BITS):
        left, right = width * bit // BITS, width * (bit + 1) // BITS
        rgb[height * 3 // 4 :, left:right] = 235 if number >> bit & 1 else 20
    return rgb.astype(np.uint8)


def read_number(rgb: np.ndarray) -> int:
    """The number burnt into a picture that stands upright."""
    height, width = rgb.shape[:2]
    row = rgb[round(height * 0.82) : round(height * 0.94)].mean(axis=(0, 2))
    middles = [round(width * (bit + 0.5) / BITS) for bit in range(BITS)]
    return sum(1 << bit for bit, middle in enumerate(middles) if row[middle - 2 : middle + 3].mean() > 128)


def make_clip(
    path: Path,
    n: int = 60,
    *,
    fps: int = 24,
    size: tuple[int, int] = (192, 144),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    container: str | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    ticks: Sequence[int] | None = None,
    rotation: int = 0,
    sar: Fraction | None = None,
    pictures: Iterable[np.ndarray] | None = None,
    colors: tuple[int, int, int] | None = None,
) -> Path:
    """Encode pictures 0..n-1 (or `pictures`) at `fps`, or at the times `ticks` / `fps` s. `muxer`, `options`: FFmpeg's.

    `pictures` are RGB of 8 or 16 bits. `colors`: what the stream says of its matrix, primaries and transfer (ITU-T H.273).
    """
    if pictures is None:
        pictures = (picture(number, *size) for number in range(n))
    with av.open(str(path), "w", format=container, options=muxer or {}) as output:
        stream = output.add_stream(codec, rate=fps)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt, context.gop_size = *size, pix_fmt, gop
        context.time_base = Fraction(1, fps)
        context.thread_count = 1
        context.options = (
            {"preset": "ultrafast", "bf": "3", "crf": "18"} | (options or {}) if codec == "libx264" else options or {}
        )
        if colors:
            context.colorspace, context.color_primaries, context.color_trc = colors
        if sar:
            context.sample_aspect_ratio = sar
        if rotation:
            stream.set_display_rotation(rotation)
        for number, rgb in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24" if rgb.dtype == np.uint8 else "rgb48le")
            if colors:
                frame = frame.reformat(format=pix_fmt, dst_colorspace=colors[0])
            frame.pts, frame.time_base = ticks[number] if ticks else number, Fraction(1, fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def copy_from(source: Path, target: Path, number: int, shift_to: int | None = None) -> Path:
    """Stream copy from the key frame at or before picture `number`, as `ffmpeg -ss -c copy` cuts.

    With `shift_to`, picture `shift_to` becomes time 0 and what precedes it goes behind an edit list.
    """
    with av.open(str(source)) as given, av.open(str(target), "w") as output:
        stream = given.streams.video[0]
        step = round(1 / stream.average_rate / stream.time_base)
        packets = [packet for packet in given.demux(stream) if packet.size]
        origin = min(packet.pts for packet in packets)
        first = max(i for i, packet in enumerate(packets) if packet.is_keyframe and packet.pts <= origin + number * step)
        zero = origin + (shift_to if shift_to is not None else 0) * step
        copy = output.add_stream_from_template(stream)
        for packet in packets[first:]:
            packet.pts, packet.dts, packet.stream = packet.pts - zero, packet.dts - zero, copy
            output.mux(packet)
    return target


def two_streams(path: Path, default: Path, other: Path, disposition: Disposition | None = None) -> Path:
    """`other` as stream 0 with `disposition`, `default` as stream 1, marked as default."""
    with av.open(str(other)) as first, av.open(str(default)) as second, av.open(str(path), "w") as output:
        copies = [output.add_stream_from_template(given.streams.video[0]) for given in (first, second)]
        copies[0].disposition, copies[1].disposition = disposition or Disposition(0), Disposition.default
        for given, copy in zip((first, second), copies, strict=True):
            for packet in given.demux(video=0):
                if packet.size:
                    packet.stream = copy
                    output.mux(packet)
    return path


def with_matrix(source: Path, target: Path, a: float, b: float, c: float, d: float) -> Path:
    """The MP4 with this display matrix: a stored (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # a version 0 box: 4 bytes of version and flags, 36 before its matrix
    numbers = [round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]
    data[place : place + 36] = struct.pack(">9i", *numbers)
    target.write_bytes(data)
    return target


def filtered(frame: av.VideoFrame, *filters: tuple[str, str]) -> av.VideoFrame:
    """A frame through FFmpeg's filters, (name, arguments) each."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    chain = [graph.add(name, arguments) for name, arguments in filters]
    graph.link_nodes(source, *chain, graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()


def fields_of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """An interlaced picture: even rows of the `first` moment, odd ones of the `second`."""
    woven = first.copy()
    woven[1::2] = second[1::2]
    return woven


def make_interlaced(path: Path, n: int = 40, **arguments: object) -> Path:
    """Pictures that hold two moments each, and say so, the upper rows first; the disc is elsewhere in the second."""
    pictures = [fields_of(picture(8 * i), picture(8 * i + 40)) for i in range(n)]
    codec = str(arguments.get("codec", "libx264"))
    options = {"flags": "+ildct+ilme"} | ({"x264-params": "tff=1:bframes=2"} if codec == "libx264" else {"b": "4M", "top": "1"})
    return make_clip(path, n, pictures=pictures, options=options, **arguments)  # type: ignore[arg-type]


def joined(path: Path, *parts: Path) -> Path:
    """The H.264 of `parts` behind each other in one stream, each with its own headers."""
    if path.suffix != ".ts":
        return copy_from(joined(path.with_suffix(".ts"), *parts), path, 0)
    with av.open(str(path), "w") as output:
        copy, offset = None, 0
        for part in parts:
            with av.open(str(part)) as given:
                stream = given.streams.video[0]
                copy = copy or output.add_stream_from_template(stream)
                length = 0
                annexb = BitStreamFilterContext("h264_mp4toannexb", stream)
                for packet in [*given.demux(stream), None]:
                    for plain in annexb.filter(packet if packet is not None and packet.size else None):
                        length = max(length, plain.pts + plain.duration)
                        plain.pts, plain.dts, plain.stream = plain.pts + offset, plain.dts + offset, copy
                        output.mux(plain)
                offset += length
    return path
