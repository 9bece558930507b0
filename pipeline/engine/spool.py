"""Finished slices wait until all of their chunk are there, and are committed together.

They wait where they cost the output's store no request: on Ray in its object store (ray_runner.py), else in files without a
name on this machine. Whoever is killed loses them with the chunks that were begun: they are computed again, to the same bytes.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping

from materia.base import leases, retries, storage
from materia.base.storage_settings import use_storage
from materia.dataset.extra import ExtraType
from materia.dataset.writer import write_chunk
from pipeline.config import Config
from pipeline.engine.messages import JobSpec
from pipeline.preflight import RUN, lease_folder
from stages.records import decode_rows

_IN_MEMORY = 1 << 20  # bytes of a chunk up to which no file is opened


def plan_folder(out: str) -> str:
    """Where the plan of an output lies."""
    return storage.join(out, RUN, "plan")


class ChunkLost(Exception):
    """Slices of a chunk went with a node before they were committed; the chunk's are to be run again."""


class Spool:
    """Packed rows of finished slices, a file for each chunk that was begun; beside a local output, whose disk has room."""

    def __init__(self, out: str) -> None:
        folder = storage.local_path(storage.join(out, RUN))
        self._folder = None if folder is None else str(folder)
        self._files: dict[int, tempfile.SpooledTemporaryFile[bytes]] = {}
        self._places: dict[int, dict[int, tuple[int, int]]] = {}  # chunk -> slice -> offset, bytes

    def add(self, chunk: int, number: int, rows: bytes) -> None:
        """Keep a slice, instead of what an earlier run of it left. Raises OSError."""
        if chunk not in self._files:
            self._files[chunk] = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=self._folder)  # noqa: SIM115 - closed by `take`
            self._places[chunk] = {}
        file = self._files[chunk]
        self._places[chunk][number] = file.seek(0, io.SEEK_END), len(rows)
        file.write(rows)

    def take(self, chunk: int) -> Iterator[bytes]:
        """The chunk's slices in order, one at a time; afterwards they are gone."""
        places = self._places.pop(chunk)
        with self._files.pop(chunk) as file:
            for _, (offset, size) in sorted(places.items()):
                file.seek(offset)
                yield file.read(size)


def commit_chunk(job: JobSpec, extra: Mapping[str, ExtraType], chunk: int, slices: Iterable[bytes | memoryview]) -> None:
    """Write the shard, index and rejects of a chunk from its slices, in order, then its commit record. Raises OSError.

    A chunk that has its record is left as it is, and no slice is read: a repeated task may come after the commit.
    """
    use_storage(Config.model_validate_json(job.config_json).storage)  # a task may run in a process that nobody prepared
    retries.be_patient()
    rows = (row for packed in slices for row in decode_rows(packed))
    write_chunk(
        job.out,
        chunk,
        rows,
        provenance=job.provenance,
        extra=extra,
        generation=job.fence if job.retry else 0,
        still_ours=lambda: leases.require(lease_folder(job.out), job.fence),
    )
