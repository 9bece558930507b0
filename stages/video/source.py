"""From an address to an open container that can reach nothing else.

In: a local path or an fsspec address. Out: an FFmpeg container over exactly that file. FFmpeg never sees the file's name: it
opens `/dev/fd/N` of a descriptor that we opened, so no name can be taken for a protocol, a pattern or an option, and a file
that is exchanged meanwhile changes nothing. Only the demuxers below may run; none follows references to other files.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from materia.base import storage

if TYPE_CHECKING:
    from av.container import InputContainer

DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,gif"
"""FFmpeg's names of the containers that are read. Playlists (hls, dash, concat), image patterns, sdp and lavfi are not here."""


class VideoError(Exception):
    """A video that cannot be used; `reason` is a reason code of the frames stage (stages.specs.REASONS)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@contextmanager
def local_copy(address: str) -> Iterator[Path]:
    """The video as a local file: itself if `address` is a path, else a temporary download that is removed afterwards.

    Raises OSError: of a file that is not there, or materia.base.storage.StorageFailed after some attempts.
    """
    if "://" not in address:
        yield Path(address)
        return
    with tempfile.TemporaryDirectory(prefix="materia-") as folder:
        copy = Path(folder) / "video"

        def fetch() -> None:
            with storage.open_read(address) as remote, copy.open("wb") as local:
                shutil.copyfileobj(remote, local, 1 << 20)

        storage.persistently(fetch)
        yield copy


@contextmanager
def in_memory(video: bytes) -> Iterator[str]:
    """A video's bytes under a name that `open_video` takes; on Linux they touch no disk."""
    in_ram = hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("video"), "w+b") if in_ram else tempfile.TemporaryFile() as file:
        file.write(video)
        file.flush()
        yield f"/dev/fd/{file.fileno()}"


@contextmanager
def plain_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """A regular file as `/dev/fd/N`, a name without meaning; raises VideoError for anything else (a FIFO would block)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise VideoError("unreadable", f"cannot open the video: {getattr(error, 'strerror', None) or error}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise VideoError("unreadable", "the video is not a regular file")
        if status.st_size == 0:
            raise VideoError("unreadable", "the video file is empty (0 bytes)")
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)


@contextmanager
def open_container(address: str) -> Iterator[InputContainer]:
    """Open what `plain_file` gave with PyAV, whitelists on; raises VideoError if it is no container of `DEMUXERS`."""
    import av

    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    try:
        container = av.open(f"file:{address}", options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise VideoError(
            "unreadable", f"no video container that is read here (mp4, mov, mkv, webm, avi, ts, gif): {why}"
        ) from error
    with container:
        yield container
