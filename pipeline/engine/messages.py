"""What the processes of a job say to each other, all msgpack, never pickle.

Driver to worker: `JobSpec`, then `Work`, which goes from pool to pool; each tells the driver `Done`, the last one with a
`Report`. Worker to its child (pipeline/engine/child.py): `Hello`, then a `Batch` at a time. Child to worker: `Ready` or
`SetupFailed`, then a `Started` before each stage and one `Answer` for each batch, as frames: a 4-byte big-endian length, and
the message.
"""

from __future__ import annotations

import os
import platform
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO, Literal

import msgspec

from materia.base.errors import NoWayIn
from materia.base.retries import Asked
from materia.dataset.documents import Provenance
from stages.records import Rejection, Row, Sample, StageName
from stages.specs import ENGINE_REASONS, STAGE_ORDER

_LENGTH = struct.Struct(">I")


class Hello(msgspec.Struct):
    """First request: what to build. `stage_factory` is an import path to a `StageFactory`.

    `import_path` is where the driver finds modules; the environment of the child, not the request, hands it on.
    `rows_at_once`: see `run_side_by_side`.
    """

    config_json: bytes
    stages: list[StageName]
    stage_factory: str
    import_path: list[str]
    rows_at_once: int | None = None


class Batch(msgspec.Struct):
    """A request: samples to run through the stages together, in manifest order."""

    samples: list[Sample]


class Ready(msgspec.Struct, tag=True):
    """All stages are set up. For the run's log: where, on which cards (CUDA_VISIBLE_DEVICES), with which backends and packages.

    `models`: stage -> "backend on device"; `packages`: imported top-level module -> version of its distribution.
    """

    stages: list[StageName]
    node: str
    cards: str
    models: dict[StageName, str]
    setup_s: float
    packages: dict[str, str] = {}


class SetupFailed(msgspec.Struct, tag=True):
    """A stage could not be built or set up; the process ends after saying so."""

    message: str


class Started(msgspec.Struct, tag=True):
    """A stage begins with the batch; tells a supervisor where a child died."""

    stage: StageName


class Span(msgspec.Struct, array_like=True):
    """A batch of so many rows was with a stage, from `began_s` (Unix time) on, in the child of a `worker`, "NODE PID"."""

    stage: StageName
    began_s: float
    seconds: float
    rows: int
    worker: str = ""


class Answer(msgspec.Struct, tag=True):
    """One row for each sample of the batch, in order, what each stage had when, and what the models had to say.

    `traces`: tracebacks of errors that nobody foresaw. `asked`: of storages, by the child.
    """

    rows: list[Row]
    spans: list[Span]
    notices: list[str] = []
    traces: list[str] = []
    asked: Asked = Asked()


class Obstacle(msgspec.Struct, tag=True):
    """What is no clip's fault and stops the job (materia.base.errors.lasting_trouble); the batch is not done.

    Of a disk: OSError's `number` and file name. Of a storage that lets nobody in: what it says, and of which address.
    """

    place: str | None
    number: int = 0
    said: str = ""
    expired: bool = False

    @classmethod
    def of(cls, error: OSError) -> Obstacle:
        """As it travels."""
        if isinstance(error, NoWayIn):
            return cls(error.address, said=str(error), expired=error.expired)
        return cls(error.filename, error.errno or 0)

    @property
    def error(self) -> OSError:
        """As it was raised."""
        if not self.said:
            return OSError(self.number, os.strerror(self.number), self.place)
        closed = NoWayIn(self.said, self.expired)
        closed.address = self.place or ""
        return closed


class Waiting(msgspec.Struct, tag=True):
    """A storage does not answer, and is asked again: the time allowed begins anew."""


Reply = Ready | SetupFailed | Started | Waiting | Answer | Obstacle
_REPLIES = msgspec.msgpack.Decoder(Reply)
_ENCODER = msgspec.msgpack.Encoder()


def pack_frame(message: msgspec.Struct) -> bytearray:
    """One message as it goes through the pipe; at most 4 GiB."""
    frame = bytearray(_LENGTH.size)
    _ENCODER.encode_into(message, frame, _LENGTH.size)  # not copied once more: it may hold hundreds of megabytes
    _LENGTH.pack_into(frame, 0, len(frame) - _LENGTH.size)
    return frame


def unpack_frames(received: bytearray) -> Iterator[Reply]:
    """Take the complete replies off the front of what a child has sent so far."""
    while len(received) >= _LENGTH.size:
        end = _LENGTH.size + _LENGTH.unpack_from(received)[0]
        if len(received) < end:
            return
        with memoryview(received) as view:
            reply = _REPLIES.decode(view[_LENGTH.size : end])
        del received[:end]
        yield reply


def read_frame(stream: BinaryIO) -> bytes | None:
    """The payload of the next frame; None when the other side has closed the pipe."""
    head = stream.read(_LENGTH.size)
    return stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else None


class JobSpec(msgspec.Struct, frozen=True):
    """What every worker must know. `stage_factory` and `import_path`: see pipeline/engine/child.py, Hello.

    `fence`: the number of this start (materia/base/leases.py); `retry`: chunks that have a record are built again.
    """

    config_json: bytes
    out: str
    provenance: Provenance
    stage_factory: str
    import_path: list[str]
    fence: int = 0
    retry: bool = False


Cause = Literal["out_of_memory", "preempted", "clip", "killed"]


class Trouble(msgspec.Struct):
    """Why a worker's process ended before its time: it went beyond its memory (or a row did not fit its card: then it went on);
    it or its node was told to leave; a clip ends it whenever it comes; or it was killed from outside, and nobody knows why.
    `rows`: what it was working at, if that is known. `number`: of what an actor's next process tells, with each slice that it
    works at, because Ray may repeat a slice whose report was heard before; counted once. "" otherwise.
    """

    cause: Cause
    stages: list[StageName]
    node: str
    rows: list[int] = []
    message: str = ""
    number: str = ""


class Work(msgspec.Struct):
    """A slice on its way. `failure` says why the job cannot go on, and `exit_code` how it ends then."""

    chunk: int
    slice: int
    rows: list[Row] = []
    spans: list[Span] = []
    wall_s: float = 0.0
    notes: list[str] = []
    notices: list[str] = []
    ready: list[Ready] = []
    troubles: list[Trouble] = []
    asked: Asked = Asked()
    failure: str = ""
    exit_code: int = 1


class Report(msgspec.Struct):
    """What the driver hears of a finished slice; or, in `failure`, why the job must stop, with `exit_code`.

    `rejected` counts reason codes, `spans` is what each stage had when, `wall_s` what the slice took in all pools without
    waiting for its turn, `notes` tell of children that died, `example` is the message of a row that the engine, not the method,
    rejected, `notices` are what models had to say (stages/notices.py), `ready` the workers that began with this slice,
    `troubles` why some ended at it, `asked` what workers asked storages. `reached`: the last of the stages (by their order, 0:
    source) that did its work for some row; `down`: one whose server or store failed for every row that it was given; `node`:
    where the last pool's worker was.
    """

    chunk: int
    slice: int
    rows: int
    kept: int
    rejected: dict[str, int]
    spans: list[Span]
    wall_s: float
    notes: list[str]
    example: str
    failure: str
    exit_code: int = 1
    notices: list[str] = []
    ready: list[Ready] = []
    troubles: list[Trouble] = []
    reached: int = -1
    down: int | None = None
    node: str = ""
    asked: Asked = Asked()

    @property
    def seconds(self) -> dict[StageName, float]:
        """Of workers, by stage."""
        return seconds_of(self.spans)


class Done(msgspec.Struct):
    """What the driver hears when a worker on a node is done with a slice of which there are so many bytes now; `report` if the
    last pool is, or if the job cannot go on."""

    bytes: int
    node: str
    report: Report | None = None


def report(work: Work) -> Report:
    """What the driver needs to know of a finished slice."""
    rejections = [row for row in work.rows if not isinstance(row, Sample)]
    reached = max((_worked(row) for row in work.rows), default=-1)
    failed = [_order(row) for row in rejections if row.reason == "transient_exhausted"]
    return Report(
        chunk=work.chunk,
        slice=work.slice,
        rows=len(work.rows),
        kept=len(work.rows) - len(rejections),
        rejected=dict(Counter(row.reason for row in rejections)),
        spans=work.spans,
        wall_s=work.wall_s,
        notes=work.notes,
        example=next((f"row {row.row}: {row.message}" for row in rejections if row.reason in ENGINE_REASONS), ""),
        failure=work.failure,
        exit_code=work.exit_code,
        notices=work.notices,
        ready=work.ready,
        troubles=work.troubles,
        reached=reached,
        down=next((stage for stage in failed if stage > reached), None),
        node=platform.node(),
        asked=work.asked,
    )


def seconds_of(spans: Iterable[Span]) -> dict[StageName, float]:
    """Sums by stage."""
    seconds: dict[StageName, float] = {}
    for span in spans:
        seconds[span.stage] = seconds.get(span.stage, 0.0) + span.seconds
    return seconds


def _order(row: Rejection) -> int:
    """The place of its stage on a clip's way, 0: source."""
    return ("source", *STAGE_ORDER).index(row.stage)


def _worked(row: Row) -> int:
    """The last stage that did its work for a row."""
    return len(STAGE_ORDER) if isinstance(row, Sample) else _order(row) - (row.reason in ENGINE_REASONS)


def failures(rejected: Mapping[str, int]) -> Counter[str]:
    """Of counted reasons, those that the engine gave and not the method."""
    return Counter({reason: rejected[reason] for reason in ENGINE_REASONS if rejected.get(reason)})


def mostly_failed(reported: Report) -> bool:
    """Whether most rows of a slice failed in the engine: a sign that something else than these clips is wrong."""
    return 2 * failures(reported.rejected).total() > reported.rows
