"""The face of Prima Materia for scripts and notebooks: `materia.open_dataset("out/")`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from materia.dataset.reader import Dataset

__all__ = ["open_dataset"]


def open_dataset(out: str, where: str | None = None) -> Dataset:
    """The samples that `materia run` wrote to a folder or fsspec address; `where`: only those that an expression admits.

        dataset = materia.open_dataset("out/", where="subjects >= 2")
        sample = dataset[0]
        sample.document.caption, sample.frames, sample.references, sample.masks, sample.background, sample.clip()

    See materia/dataset/reader.py. Raises materia.dataset.layout.OutputError for what cannot be read.
    """
    from materia.dataset.reader import Dataset

    return Dataset(out, where)
