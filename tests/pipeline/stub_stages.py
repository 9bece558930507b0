"""Stages of constant answers that misbehave on command: a caption like "a dog [segfault]" takes its worker down.

They decode nothing, so a "video" may be any file and a test of the engine takes milliseconds a row.
"""

import ctypes
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from materia.base import retries
from materia.base.weights.files import Missing
from pipeline.config import Config
from stages.batching import Batches
from stages.records import (
    Background,
    EntityWord,
    Frame,
    Instance,
    MaskRle,
    Row,
    Sample,
    StageName,
    VideoInfo,
    reject,
)
from stages.specs import STAGE_ORDER

SIDE = 16
STUB_SECONDS = "STUB_SECONDS"
"""Environment variable: how long the stub of the frames takes for a row."""

STUB_BYTES = "STUB_BYTES"
"""Environment variable: how large the clip is that the stub of the frames cuts out; from about 100 kB on, Ray keeps what there
is of a slice where it was made, instead of with the driver."""

BROKEN = "STUB_BROKEN"
"""Environment variable: every row crashes its worker."""

DOWN = "STUB_DOWN"
"""Environment variable: a file; as long as it is there, the server that the stub of the entities asks is down."""

BLIP = "STUB_BLIP"
"""Environment variable: a file; as long as it is there, rows with "[blip]" in the caption fail for reasons that may pass."""

NO_ROOM = "STUB_NO_ROOM"
"""Environment variable: a file; as long as it is there, a row with "[writes]" in its caption meets a full disk."""

HOLDS = "STUB_HOLDS"
"""Environment variable: how many clips the card of the stub of the boxes holds at once."""

TRACES = "STUB_TRACES"
"""Environment variable: a folder in which stubs of the frames say where they run, which process they started, and that they
were closed. That process outlives its parent, if nobody ends it."""

HELPER = ["sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1; done"]
"""In a session of its own, as the engine of a language model may be, and deaf to polite signals."""

GATES = "STUB_GATES"
"""Environment variable: a folder. A row with "[gate]" in its caption writes its process into KEY.here, and waits
for KEY.open."""

NODE = "STUB_NODE"
"""Environment variable of a node of a test cluster: its name."""


class OutOfMemoryError(RuntimeError):
    """Of a card, as torch calls it."""


def picture(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE, 4 if kind == "PNG" else 3), 128, np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


class Stub:
    """Fills in one stage's part of a sample. `options: {stub: missing|broken|swollen}` makes a lack or an error of set-up."""

    def __init__(self, config: Config, name: StageName) -> None:
        self.name = name
        self.manner = getattr(getattr(config, name, None), "options", {}).get("stub", "")

    def missing(self) -> list[Missing]:
        return [Missing("weights of the stub", "make weights")] if self.manner == "missing" else []

    def identity(self) -> dict[str, str]:
        return {"weights": self.manner, "prompt": "of the stub"}

    def setup(self) -> None:
        if self.manner == "broken":
            sys.stdout.write("loading the stub\n")
            raise RuntimeError("cannot load: weights are damaged")
        if self.manner == "swollen":
            raise OutOfMemoryError("tried to allocate 20 MiB")
        self.jpeg, self.png = picture("JPEG"), picture("PNG")
        self.batches = Batches("localise.options.batch_size", 4)
        if TRACES in os.environ:
            helper = subprocess.Popen(HELPER, start_new_session=True) if self.name == "frames" else None
            self.leave_trace({"helper": helper and helper.pid})

    def leave_trace(self, more: dict) -> None:
        seen = {"stage": self.name, "node": os.environ.get(NODE), "cards": os.environ.get("CUDA_VISIBLE_DEVICES"), **more}
        written = Path(os.environ[TRACES], f"{self.name}-{os.getpid()}.part")
        written.write_text(json.dumps(seen))
        written.rename(written.with_suffix(".json"))

    def close(self) -> None:
        if TRACES in os.environ:
            time.sleep(0.1)  # an engine takes its time
            self.leave_trace({"closed": True})

    def process(self, samples: list[Sample]) -> list[Row]:
        sys.stdout.write("noise must not hurt the protocol\n")
        if self.name == "localise" and HOLDS in os.environ:
            return self.batches.run(samples, self._on_card)
        return [self._row(sample) for sample in samples]

    def _on_card(self, samples: list[Sample]) -> list[Row]:
        if len(samples) > int(os.environ[HOLDS]):
            raise OutOfMemoryError(f"process {os.getpid()} has 24 GiB in use")
        return [self._row(sample) for sample in samples]

    def _row(self, sample: Sample) -> Row:
        if self.name == "entities":
            if "[server returns]" in sample.clip.caption:
                Path(os.environ[DOWN]).unlink(missing_ok=True)
            if "[down]" in sample.clip.caption or Path(os.environ.get(DOWN, "none")).exists():
                return reject(sample, "entities", "transient_exhausted", "the server is down")
            if "[blip]" in sample.clip.caption and Path(os.environ.get(BLIP, "none")).exists():
                return reject(sample, "entities", "transient_exhausted", "the server did not answer")
            if "[nothing]" in sample.clip.caption:
                return reject(sample, "entities", "no_subject", "no subject in the caption")
            sample.entities = [EntityWord(word="dog", category="subject", spans=[(2, 5)])]
        if self.name == "frames":
            misbehave(sample.clip.caption, sample.clip.key)
            sample.source_bytes = np.int64(3) if "[numpy]" in sample.clip.caption else None
            time.sleep(float(os.environ.get(STUB_SECONDS, "0")))
            sample.video = VideoInfo(
                container="mp4", codec="h264", width=SIDE, height=SIDE, rotation=0, sar="1:1", fps=10, duration_s=1, n_frames=10
            )
            sample.media = bytes(int(os.environ[STUB_BYTES])) if STUB_BYTES in os.environ else None
            sample.frames = [Frame(percent=p, index=p // 10, time_s=p / 100, jpeg=self.jpeg) for p in (5, 50, 95)]
        if self.name == "segment":
            box = (2.0, 2.0, 8.0, 8.0)
            sample.instances = [
                Instance(
                    word="dog",
                    category="subject",
                    frame=1,
                    box_xyxy_px=box,
                    detector_score=0.9,
                    mask_score=0.9,
                    png=self.png,
                    mask_rle=MaskRle(size=(SIDE, SIDE), counts="`2"),
                    area_share=0.2,
                    crop_xyxy_px=(2, 2, 8, 8),
                )
            ]
        if self.name == "background":
            sample.background = Background(word=None, method="stub", masked_share=0.2, residual={"dog": 0.1}, png=self.png)
        return sample


def misbehave(caption: str, key: str) -> None:
    """Do what the caption asks for."""
    if "[segfault]" in caption or BROKEN in os.environ:
        ctypes.string_at(0)
    if "[kill]" in caption:
        os.kill(os.getpid(), signal.SIGKILL)
    if "[exit]" in caption:
        sys.stderr.write("goodbye\n")
        os._exit(3)
    if "[hang]" in caption:
        time.sleep(1000)
    if "[gate]" in caption and GATES in os.environ:
        pass_gate(Path(os.environ[GATES], key))
    if "[raise]" in caption:
        raise KeyError("a surprise")
    if "[writes]" in caption and Path(os.environ[NO_ROOM]).exists():
        write_to_a_full_disk()
    if "[breakpoint]" in caption:
        breakpoint()
    if "[store]" in caption:
        wait_for_a_store()
    if "[memory]" in caption:
        hoard = []
        for _ in range(100):
            hoard.append(np.ones(2**24))
            time.sleep(0.1)


def wait_for_a_store() -> None:
    """It is away for two attempts: pauses of 2.5 to 5 s, in a job."""
    answers = iter([OSError("busy"), OSError("busy"), None])

    def ask() -> None:
        if (answer := next(answers)) is not None:
            raise answer

    retries.persistently(ask)


def write_to_a_full_disk() -> None:
    try:
        with Path("/dev/full").open("w") as file:
            file.write("x")
    except OSError as error:
        raise RuntimeError("a library has its own words for it") from error


def pass_gate(gate: Path) -> None:
    while not gate.with_suffix(".open").exists():
        gate.with_suffix(".here").write_text(str(os.getpid()))
        time.sleep(0.02)


def build_stubs(config: Config, names: Iterable[StageName]) -> list[Stub]:
    assert set(names) <= set(STAGE_ORDER)
    return [Stub(config, name) for name in names]
