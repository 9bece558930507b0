"""The samples that training draws from: those of one output or of several, as far as the filter admits them.

In: addresses of outputs, and a filter. Out: one `Dataset`, in which numbers run on from an output to the next. A key that two
outputs have is of two samples. Sources of each output's items - a cache is of one output - become one for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from materia.base import storage
from materia.dataset.layout import OutputError
from materia.dataset.reader import Dataset
from materia.dataset.schema import INDEX
from trainer.data.batch import EncodedItem, Item
from trainer.data.items import Source
from trainer.errors import TrainError

Addresses = str | Sequence[str]
"""One, or several."""


SIMPLE = ("key", "source_id", "shard", "duration_s", "fps")
READ = (*SIMPLE, "members")
"""Columns of the index that training reads."""


class JoinedDataset(Dataset):
    """Several datasets in a row. Its index has the columns that all of theirs have, such as those that training reads.

    In it `shard` is the address of a tar, because paths in two outputs may be the same.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = list(parts)
        self.starts = starts_of(self.parts)
        self.out = ", ".join(part.out for part in parts)
        tables = [_with_addresses(part) for part in parts]
        first, *others = [{field.name: field.type for field in table.schema} for table in tables]
        common = [name for name, kind in first.items() if all(other.get(name) == kind for other in others)]
        self.index = pa.concat_tables([table.select(common) for table in tables], promote_options="default")
        self.source_sha256 = _sha256(part.source_sha256 for part in parts)
        self.chosen_by_layers = any(part.chosen_by_layers for part in parts)

    def admitted(self, expression: str) -> np.ndarray:
        """As of one dataset; each part asks its own layers."""
        return np.concatenate([part.admitted(expression) for part in self.parts])

    def where(self, expression: str) -> Dataset:
        """As of one dataset; a part of which nothing is left is left out."""
        kept = [part.where(expression) for part in self.parts if part.admitted(expression).any()]
        if not kept:
            advice = f"materia stats {self.parts[0].out}"
            raise OutputError(f"--where {expression!r} admits none of the {len(self)} samples of {self.out}; {advice}")
        return _joined(kept)

    @property
    def sha256(self) -> str:
        """Of all parts', in their order: equal if and only if the same samples have the same numbers."""
        return _sha256(part.sha256 for part in self.parts)

    def read(self, number: int, names: Iterable[str]) -> dict[str, bytes]:
        """As of the dataset that has the sample."""
        part, place = _find(self.starts, number)
        return self.parts[part].read(place, names)

    def address(self, number: int) -> str:
        """The tar that holds a sample."""
        return str(self.index["shard"][number])

    def close(self) -> None:
        """Close the shards that were opened."""
        for part in self.parts:
            part.close()


class JoinedSource:
    """Items of several parts in a row, each of the source of the part that has the sample."""

    def __init__(self, sources: Sequence[Source], parts: Sequence[Dataset]) -> None:
        self.sources = list(sources)
        self.starts = starts_of(parts)

    def read(self, step: int, slot: int, number: int, bucket: int) -> Item | EncodedItem:
        """As `Source`."""
        part, place = _find(self.starts, number)
        return self.sources[part].read(step, slot, place, bucket)


def addresses(given: Addresses) -> tuple[str, ...]:
    """One address or several, as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given)


def open_samples(shards: Addresses, where: str | None) -> tuple[Dataset, int]:
    """Samples of one output or several that a filter admits, and of how many.

    Raises OutputError for an output that cannot be read and a filter that admits nothing, FilterError for one that is not
    understood, TrainError for two outputs with the same samples.
    """
    parts = [Dataset(out) for out in addresses(shards)]
    first: dict[str, str] = {}
    for part in parts:
        if part.source_sha256 in first:
            raise TrainError(f"--shards {part.out} has the same samples as {first[part.source_sha256]}; give them once")
        first[part.source_sha256] = part.out
    for part in parts:
        _require_columns(part)
    samples = _joined(parts)
    return (samples if where is None else samples.where(where)), len(samples)


def parts_of(samples: Dataset) -> list[Dataset]:
    """The dataset of each output."""
    return samples.parts if isinstance(samples, JoinedDataset) else [samples]


def starts_of(parts: Sequence[Dataset]) -> np.ndarray:
    """The number of each part's first sample, (parts,) int64."""
    counts = np.array([len(part) for part in parts], np.int64)
    starts: np.ndarray = np.cumsum(counts) - counts
    return starts


def _joined(parts: list[Dataset]) -> Dataset:
    return parts[0] if len(parts) == 1 else JoinedDataset(parts)


def _require_columns(part: Dataset) -> None:
    there = {field.name: field.type for field in part.index.schema}
    if wrong := [name for name in READ if name not in there or (name in SIMPLE and there[name] != INDEX.field(name).type)]:
        raise OutputError(
            f"the index of {part.out} has no column {', '.join(wrong)} as training reads it, it is of another version;"
            f" build {part.out} anew, or look at: materia validate {part.out}"
        )


def _with_addresses(part: Dataset) -> pa.Table:
    column = part.index.schema.get_field_index("shard")
    shards = [storage.join(part.out, shard) for shard in part.index["shard"].to_pylist()]
    return part.index.set_column(column, "shard", pa.array(shards, pa.string()))


def _find(starts: np.ndarray, number: int) -> tuple[int, int]:
    """(part, place in it) of a sample's number."""
    part = int(np.searchsorted(starts, number, side="right")) - 1
    return part, number - int(starts[part])


def _sha256(hashes: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()
