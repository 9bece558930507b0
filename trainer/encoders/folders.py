"""Models in folders of transformers and diffusers: what is wrong with one, seen before it is loaded, and loading it.

In: an address of weights and the library's class. Out: a frozen model, or one line. Safetensors only; no code is taken from a
folder; nothing is fetched. Names and shapes are compared with the model that config.json describes, built on the meta device,
so that a run with the wrong folder does not start.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from materia.base.weights.checkpoints import WEIGHT_STEMS, CheckpointError, folder_shapes, mismatch
from materia.base.weights.files import (
    PULL,
    Missing,
    Weights,
    check_address,
    identity_of,
    local_path,
    packages_missing,
    weights_missing,
)
from trainer.errors import TrainError

DTYPES = ("float32", "bfloat16")
FIX = f"correct the path, or fetch it again: {PULL}"


@dataclass(frozen=True)
class Folder:
    """A model in a folder.

    `option`: where the address is configured, e.g. "encoders.image.options.checkpoint"; `address` (materia.base.weights): the
    folder, or that of a whole diffusers pipeline, in which the model is the part `part`. `architecture`: a class of `library`.
    `dtype` of weights and arithmetic is stated, not chosen by the device: what one machine cached fits a run on another.
    Raises ValueError for an address that none can have and for an unknown dtype.
    """

    option: str
    address: str
    library: str
    architecture: str
    part: str = ""
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_address(self.address)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")

    @property
    def weights(self) -> Weights:
        """What is to be fetched."""
        return Weights(self.option, self.address)

    def path(self, part: str | None = None) -> Path:
        """Where the model lies on this machine, or another part of its pipeline."""
        whole = local_path(self.address)
        return whole / (part or self.part) if (whole / "model_index.json").is_file() else whole

    def missing(self) -> list[Missing]:
        """Nothing if the model can be loaded, else what is wrong; reads the headers of the weights."""
        if lacking := packages_missing(self.library, "safetensors", fix="make install") + weights_missing(self.weights):
            return lacking
        try:
            self._check()
        except CheckpointError as error:
            return [Missing(f"{self.option}: {error}", FIX)]
        return []

    def identity(self) -> dict[str, str]:
        """SHA-256 of the model's files, and its dtype; the folder must be here."""
        return {"weights": identity_of(str(self.path())), "dtype": self.dtype}

    def config(self, field: str) -> Any:
        """A field of the model's configuration. Raises TrainError if there is none.

        Out of the file itself where it stands there: training from a cache needs no more of an encoder, and its library takes
        seconds to import.
        """
        require(packages_missing(self.library, fix="make install") + weights_missing(self.weights))
        try:
            return json.loads((self.path() / "config.json").read_text(encoding="utf-8"))[field]
        except (OSError, ValueError, LookupError, TypeError):  # the library knows defaults, or says what is wrong
            with self.one_line():
                return getattr(self._on_meta().config, field)

    def load(self, device: str) -> Any:
        """The model on a device, frozen. Raises TrainError if it is not there or is another model."""
        require(self.missing())
        with self.one_line():
            model, report = self._class().from_pretrained(
                self.path(),
                local_files_only=True,
                use_safetensors=True,
                dtype=getattr(torch, self.dtype),
                output_loading_info=True,
            )
            if absent := sorted(report["missing_keys"]):
                raise ValueError(f"{len(absent)} tensors are missing, e.g. {absent[0]}")
        return model.eval().requires_grad_(False).to(device)

    @contextmanager
    def one_line(self) -> Iterator[None]:
        """What the library says of a folder that it cannot load becomes one line, a TrainError; its progress bars are off."""
        try:
            with _silent(self.library):
                yield
        except Exception as error:  # a folder can be wrong in any way, and the libraries have no common error
            raise TrainError(f"{self.option}: {self.path()} cannot be loaded ({_first_line(error)}); {FIX}") from error

    def _check(self) -> None:
        """Raises CheckpointError unless the safetensors are whole and have the tensors of the architecture.

        The libraries rename some tensors as they load them, so half of the names must be there, and their shapes agree.
        """
        expected, found = self._expected(), folder_shapes(self.path(), WEIGHT_STEMS[self.library])
        by_end = {name[start:]: tensor for name, tensor in found.items() for start in _starts(name)}
        known = {name: by_end[name] for name in expected if name in by_end}
        compared = {name: expected[name] for name in known} if 2 * len(known) > len(expected) else expected
        if fault := mismatch(self.path(), known, compared, self.architecture):
            raise CheckpointError(fault)

    def _expected(self) -> dict[str, Any]:
        """Name -> tensor without memory of the model that config.json describes; of tied tensors the stored ones."""
        try:
            with _silent(self.library):
                model = self._on_meta()
        except Exception as error:  # a configuration can be wrong in any way
            place = self.path() / "config.json"
            raise CheckpointError(f"{place} describes no {self.architecture}: {_first_line(error)}") from error
        tied = getattr(model, "_tied_weights_keys", None) or {}
        return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}

    def _on_meta(self) -> Any:
        """The model without memory."""
        cls, path = self._class(), self.path()
        with torch.device("meta"):
            if self.library == "diffusers":
                return cls.from_config(cls.load_config(path, local_files_only=True))
            return cls(cls.config_class.from_pretrained(path, local_files_only=True))

    def _class(self) -> Any:
        return getattr(importlib.import_module(self.library), self.architecture)


def require(lacking: list[Missing]) -> None:
    """Raises TrainError for what an encoder says is missing."""
    if lacking:
        raise TrainError("; ".join(f"{what}: {fix}" for what, fix in lacking))


def _starts(name: str) -> list[int]:
    """Where a tensor's name may begin: as part of a larger model it has a prefix, e.g. "vision_model."."""
    return [0, *(i + 1 for i, letter in enumerate(name) if letter == ".")]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


@contextmanager
def _silent(library: str) -> Iterator[None]:
    """Without the library's progress bars and remarks, which are as they were afterwards."""
    logging = importlib.import_module(f"{library}.utils.logging")
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
