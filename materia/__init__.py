"""The face of Prima Materia for scripts and notebooks: `materia.open_dataset("out/")`, and layers of an output."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from materia.dataset.layers import LayerInfo
    from materia.dataset.reader import Dataset

__all__ = ["open_dataset", "read_layer", "write_layer"]


def open_dataset(out: str, where: str | None = None) -> Dataset:
    """The samples that `materia run` wrote to a folder or fsspec address; `where`: only those that an expression admits.

        dataset = materia.open_dataset("out/", where="subjects >= 2")
        sample = dataset[0]
        sample.document.caption, sample.frames, sample.references, sample.masks, sample.background, sample.clip()

    See materia/dataset/reader.py. Raises materia.dataset.layout.OutputError for what cannot be read.
    """
    from materia.dataset.reader import Dataset

    return Dataset(out, where)


def write_layer(out: str, name: str, table: pa.Table, *, made_by: str, version: str) -> LayerInfo:
    """Write what was learnt about samples beside their index, or replace it: scores, marks, embeddings.

        table = pa.table({"key": dataset.index["key"], "aesthetic": scores})
        materia.write_layer("out/", "scores", table, made_by="my model", version="2")
        materia.open_dataset("out/", where="scores.aesthetic > 6")

    See materia/dataset/layers.py. Raises materia.dataset.layers.LayerError for a table that is no layer.
    """
    from materia.dataset.layers import write_layer

    return write_layer(out, name, table, made_by=made_by, version=version)


def read_layer(out: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A layer as it was written, `key` and its columns or some of them; in the order of the samples: `Dataset.layer`.

    See materia/dataset/layers.py. Raises materia.dataset.layout.OutputError for what cannot be read.
    """
    from materia.dataset.layers import read_layer

    return read_layer(out, name, columns)
