"""What another configuration has changed: samples of two outputs side by side by key, those that differ most first.

In: two `Dataset`s of the same clips. Out: a table with a row a key: where the sample is in each of them, and how much the two
differ. Nothing but the two indices is read.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from materia.dataset.reader import Dataset

DIFFERENCES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("before", pa.int64(), metadata={"description": "number of the sample in the first data set; null: not there"}),
        pa.field("after", pa.int64(), metadata={"description": "in the second"}),
        pa.field(
            "words", pa.int32(), False, {"description": "changed among: which words, their instances, flags, what was dropped"}
        ),
        pa.field("score", pa.float64(), False, {"description": "largest change of a score between 0 and 1"}),
    ]
)
_WORDS = ["subject_words", "object_words", "background_words", "subject_instances", "object_instances", "flags", "dropped"]
_SCORES = [
    "min_detector_score",
    "min_mask_score",
    "min_link_score",
    "min_area_share",
    "max_area_share",
    "masked_share",
    "borrowed_share",
    "residual",
    "residual_at_large",
    "background_sharpness",
    "background_quality",
]
_BETWEEN = "\x1f"


def differences(before: Dataset, after: Dataset) -> pa.Table:
    """A row for each key of either, as `DIFFERENCES`; first what only one has, then by `words`, `score` and key.

    A score that only one of the two has counts as a change by 1.
    """
    keys = pa.chunked_array([*before.index["key"].chunks, *after.index["key"].chunks]).unique()
    there = [_places(data.index, keys) for data in (before, after)]
    both = ~(there[0].is_null().to_numpy(False) | there[1].is_null().to_numpy(False))
    words, score = np.zeros(len(keys), np.int32), np.zeros(len(keys))
    old, new = (data.index.take(places.filter(pa.array(both))) for data, places in zip((before, after), there, strict=True))
    common = set(old.column_names) & set(new.column_names)
    words[both] = np.sum([_text(old[name]) != _text(new[name]) for name in _WORDS if name in common], axis=0, dtype=np.int32)
    score[both] = np.max([_change(old[name], new[name]) for name in _SCORES if name in common], axis=0, initial=0.0)
    table = pa.Table.from_arrays([keys, *there, pa.array(words), pa.array(score)], schema=DIFFERENCES)
    order = np.lexsort((keys.to_numpy(False), -score, -words, both))
    return table.take(order)


def _places(index: pa.Table, keys: pa.Array) -> pa.Array:
    return pc.index_in(keys, value_set=index["key"].combine_chunks()).cast(pa.int64())


def _text(column: pa.ChunkedArray) -> np.ndarray:
    """Lists as texts that are equal where these are, (n,)."""
    texts: np.ndarray = pc.binary_join(column.cast(pa.list_(pa.string())), _BETWEEN).to_numpy()
    return texts


def _change(old: pa.ChunkedArray, new: pa.ChunkedArray) -> np.ndarray:
    """(n,) 0 to 1."""
    one, other = (column.cast(pa.float64()).to_numpy() for column in (old, new))
    return np.where(np.isnan(one) != np.isnan(other), 1.0, np.nan_to_num(np.abs(one - other)))
