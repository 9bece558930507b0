"""What a file is that cannot be opened as a video, by its first bytes; of an MP4, by which of its parts are there.

In: a path. Out: a sentence for a rejection, which shows nothing of the file's content. Only asked when opening failed.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from materia.base.terminal import plural

READ = "mp4, mov, mkv, webm, avi, ts, mpg, flv, wmv, gif"
HEAD_BYTES = 4096
"""Looked at of a file; libmagic needs no more for the kinds below."""
MOST_BOXES = 10_000
"""Of an MP4 that are walked over: a hostile file may have one every 8 bytes."""

_CONTAINERS = {
    rb"\x1aE\xdf\xa3": "a Matroska or WebM file",
    rb"RIFF....AVI ": "an AVI file",
    rb"FLV\x01": "an FLV file",
    rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "a WMV or ASF file",
    rb"\x00\x00\x01[\xb3\xba]": "an MPEG file",
    rb"GIF8[79]a": "a GIF",
    rb"(?:....)?G.{187}(?:....)?G": "an MPEG transport stream",
}
"""First bytes of what is read here."""
_OTHERS = {
    rb"\xff\xd8\xff": "a JPEG picture",
    rb"\x89PNG": "a PNG picture",
    rb"RIFF....WEBP": "a WebP picture",
    rb"....ftyp(?:avi[fs]|hei[cfmsx]|hev[cx]|mi[af]1|msf1)": "a HEIF or AVIF picture",
    rb"(?:II\*\0|MM\0\*)": "a TIFF picture",
    rb"RIFF....WAVE": "WAVE audio",
    rb"(?:ID3|\xff[\xf2\xf3\xfa\xfb])": "MP3 audio",
    rb"fLaC": "FLAC audio",
    rb"OggS": "an Ogg file",
    rb"%PDF-": "a PDF",
    rb"PK\x03\x04": "a ZIP archive",
    rb"\x1f\x8b": "a gzip archive",
    rb"7z\xbc\xaf": "a 7z archive",
    rb"Rar!": "a RAR archive",
    rb"\x28\xb5\x2f\xfd": "a Zstandard archive",
    rb".{257}ustar": "a tar archive",
    rb"PAR1": "a Parquet file",
    rb"version https://git-lfs": "a Git LFS pointer, which `git lfs pull` replaces by the file",
    rb"#EXTM3U": "a playlist",
    rb"(?i)(?:\xef\xbb\xbf)?\s*<(?:.{0,2000}<)?(?:!doctype\s+html|html|head|body|script)\b": "an HTML page, as an error or"
    " log-in page is",
    rb"(?:\xef\xbb\xbf)?\s*<[?!a-zA-Z]": "an XML document, as a server's error message may be",
    rb"(?:\xef\xbb\xbf)?\s*[{\[]\s*[\"{\[]": "JSON, as a server's error message may be",
}
"""First bytes of what is often found under a video's name."""
_FIRST_BOXES = rb"....(?:ftyp|styp|moov|moof|mdat|free|skip|wide|pnot|sidx|uuid)"


def told(path: str) -> str:
    """What the file is, for a rejection of one that no demuxer opens. Raises OSError."""
    with Path(path).open("rb") as file:
        head = file.read(HEAD_BYTES)
        if kind := _match(_OTHERS, head):
            return f"not a video: it begins like {kind}"
        if problem := _mp4_problem(file, head):
            return problem
    if kind := _match({**_CONTAINERS, _FIRST_BOXES: "an MP4"}, head):
        return f"{kind} that cannot be opened: it is cut off or damaged"
    if len(head) < 8:
        return f"not a video: the file has only {plural(len(head), 'byte')}"
    if not head.strip(b"\0"):
        return "not a video: it begins with nothing but zeros, as a file whose space was reserved and never written"
    if _is_text(head):
        return "not a video: it is plain text"
    return f"no video container that is read here ({READ}), or one that is damaged at its beginning"


def mp4_problem(path: str) -> str | None:
    """What an MP4 or MOV lacks; None if its parts are all there, or if it is none. Raises OSError."""
    with Path(path).open("rb") as file:
        return _mp4_problem(file, file.read(HEAD_BYTES))


def _match(kinds: dict[bytes, str], head: bytes) -> str | None:
    return next((kind for pattern, kind in kinds.items() if re.match(pattern, head, re.DOTALL)), None)


def _mp4_problem(file: BinaryIO, head: bytes) -> str | None:
    if not re.match(_FIRST_BOXES, head, re.DOTALL):
        return None
    kind = "a MOV" if head[4:12] == b"ftypqt  " or head[4:8] in (b"wide", b"pnot") else "an MP4"
    size = file.seek(0, os.SEEK_END)
    ends = dict(_boxes(file, size))
    if b"moov" not in ends:
        return f"{kind} whose index (moov) is missing: the file is cut off or was not finished"
    if ends[b"moov"] > size:
        return f"{kind} whose index (moov) is cut off, at {size} bytes"
    return f"{kind} that is cut off, at {size} bytes" if max(ends.values()) > size else None


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Name of each box of a file of `size` bytes and where it ends by its header, up to the first that is no box
    [ISO/IEC 14496-12: 4.2]."""
    start = 0
    for _ in range(MOST_BOXES):
        file.seek(start)
        header = file.read(16)
        length, name = int.from_bytes(header[:4]), header[4:8]
        if len(header) < 8 or not re.fullmatch(rb"[ -~\xa9]{4}", name):
            return
        if length == 1:
            length = int.from_bytes(header[8:])
        end = start + length if length else size
        yield name, end
        if not start + 8 <= end < size:
            return
        start = end


def _is_text(head: bytes) -> bool:
    """Whether it reads as UTF-8, or as UTF-16 with its mark, without control characters."""
    encoding = "utf-16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return not re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", text)
