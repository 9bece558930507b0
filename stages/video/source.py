"""From an address to an open container that can reach nothing else.

In: a local path or an fsspec address. Out: an FFmpeg container over exactly that file. FFmpeg never sees the file's name: it
opens `/dev/fd/N` of a descriptor that we opened, so no name can be taken for a protocol, a pattern or an option, and a file
that is exchanged meanwhile changes nothing. Only the demuxers below may run; none follows references to other files.
"""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from materia.base import storage
from stages.video.signature import told

if TYPE_CHECKING:
    from av.container import InputContainer

DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,gif"
"""FFmpeg's names of the containers that are read. Playlists (hls, dash, concat), image patterns, sdp and lavfi are not here."""
KEPT_BYTES = 4 << 30
"""Of fetched videos that a process keeps; the one that was used last may be larger."""


class VideoError(Exception):
    """A video that cannot be used; `reason` is a reason code of the frames stage (stages.specs.REASONS)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@contextmanager
def local_copy(address: str) -> Iterator[Path]:
    """The video as a local file: itself if `address` is a path, else a download that all stages of the process share.

    Raises OSError: of a file that is not there, or materia.base.storage.StorageFailed after some attempts.
    """
    if "://" not in address:
        yield Path(address)
        return
    with _downloads.borrow(address) as copy:
        yield copy


class _Download:
    """A video that is being fetched, or was: then `file` is open, and has no name any more."""

    def __init__(self) -> None:
        self.fetching = threading.Lock()
        self.users = 0
        self.file: BinaryIO | None = None
        self.n_bytes = 0

    def fetch(self, address: str) -> Path:
        """Fetch it, if that was not yet done. Raises OSError."""
        with self.fetching:
            if self.file is None:
                with storage.local_copy(address) as copy:
                    self.file = copy.open("rb")
                    self.n_bytes = copy.stat().st_size
        return Path(f"/dev/fd/{self.file.fileno()}")


class _Downloads:
    """The videos that were used last, as many as there is room for; their space is free when the process ends, however it ends.

    Stages run one after the other over a slice, and several rows may be ranges of one video: each is fetched once.
    """

    def __init__(self) -> None:
        self._kept: dict[str, _Download] = {}  # the longest unused first
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, address: str) -> Iterator[Path]:
        """The local file of a video, which stays for as long as the block lasts."""
        with self._lock:
            download = self._kept.pop(address) if address in self._kept else _Download()
            self._kept[address] = download
            download.users += 1
        try:
            yield download.fetch(address)
        finally:
            with self._lock:
                download.users -= 1
                self._make_room()

    def _make_room(self) -> None:
        n_bytes = sum(download.n_bytes for download in self._kept.values())
        for address, download in list(self._kept.items())[:-1]:
            if not download.users and (n_bytes > KEPT_BYTES or download.file is None):
                del self._kept[address]
                n_bytes -= download.n_bytes
                if download.file is not None:
                    download.file.close()


_downloads = _Downloads()


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
        raise VideoError("unreadable", told(address)) from error
    with container:
        yield container
