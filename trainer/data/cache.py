"""A cache of encoded samples (precompute.py writes it): what it holds, whether it fits a configuration, and reading it.

    cache.json               what it was made of and with (`fingerprint`); another of them is another cache, but for training
                             another filter may do: if all samples that it admits are there
    shards/000000.tar        KEY.text.npy (L, width), KEY.offsets.npy (L, 2); KEY.mean.8x64x64.npy and KEY.std.8x64x64.npy
                             (windows, C, T, H, W) of each bucket; KEY.refNN.npy, KEY.background.npy (variants, P, width)
    index/000000.parquet     INDEX; written last: a shard without it is not there
    rejects/000000.parquet   REJECTS: samples that cannot be decoded, which training leaves out

In: samples and the cache of their shards. Out: encoded items, the same as from pixels because their draws are the same. All
windows and variants of a member are one array, so an item is a few byte ranges whose places follow from the index alone.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from materia.base import storage
from materia.dataset.layout import OutputError
from materia.dataset.ranges import HEADER_BYTES, RangeReader, is_header_of
from materia.dataset.reader import Dataset
from materia.dataset.tables import parquet_table
from trainer.config import BucketSettings, TrainConfig
from trainer.data.batch import EncodedItem, numpy_rng
from trainer.data.encode import spans_tensor
from trainer.data.items import Drawable, draw
from trainer.encoders import Encoders, build_encoders
from trainer.errors import TrainError

VERSION = 1
CHOSEN_BY_LAYERS = "data.where's layers"
"""The field of the fingerprint that says so."""

_MEMBER = pa.struct(
    [
        ("name", pa.string()),  # of the tar's member, without its leading `KEY.`
        ("offset", pa.int64()),  # of its first byte in the tar; the array's bytes are its last
        ("size", pa.int64()),
        ("dtype", pa.string()),  # numpy's name
        ("shape", pa.list_(pa.int64())),
    ]
)
INDEX = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),  # path of the tar relative to the cache
        ("document", pa.string()),  # KEY.json as far as a draw needs it
        ("members", pa.list_(_MEMBER)),
    ]
)
REJECTS = pa.schema([("key", pa.string()), ("reason", pa.string()), ("message", pa.string())])


class OtherCacheError(TrainError):
    """The cache was made of or with something else."""

    exit_code = 4


def fingerprint(config: TrainConfig, encoders: Encoders, samples: Dataset) -> dict[str, Any]:
    """What decides the content of a cache, JSON-able: the shards' index, the encoders, and fields of the configuration; what
    the filter admits, where that depends on layers.
    """
    data = config.data
    by_layers = {CHOSEN_BY_LAYERS: samples.sha256} if samples.chosen_by_layers else {}
    return {
        "schema": VERSION,
        "shards": samples.source_sha256,
        "seed": config.seed,
        "data.fps": data.fps,
        "data.windows": data.windows,
        "data.variants": data.variants,
        "data.augment": data.augment,
        "data.reference_px": data.reference_px,
        "data.where": data.where,
        **by_layers,
        "data.buckets": sorted(size_name(bucket) for bucket in data.buckets),
        **{f"encoders.{name}": value for name, value in encoders.identity().items()},
    }


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Fields of the fingerprint in which a cache is not what is wanted."""
    return [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]


def read_fingerprint(cache: str) -> dict[str, Any] | None:
    """cache.json; None where there is none. Raises OutputError if it is not understood."""
    address = storage.join(cache, "cache.json")
    try:
        found = json.loads(storage.read_bytes(address))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise OutputError(f"{address} is no description of a cache; remove {cache} and run materia precompute again")
    return found


def size_name(bucket: BucketSettings) -> str:
    """8x64x64: frames, height, width."""
    return f"{bucket.frames}x{bucket.height}x{bucket.width}"


def array_name(member: str) -> str:
    """ref00.png -> ref00.npy."""
    return member.removesuffix(".png") + ".npy"


def sibling(shard: str, folder: str) -> str:
    """shards/000000.tar -> FOLDER/000000.parquet."""
    return f"{folder}/{shard.rpartition('/')[2].removesuffix('.tar')}.parquet"


class CacheSource:
    """Encoded items of `samples`, out of a cache. Raises TrainError for one that does not fit, OutputError for a broken one."""

    def __init__(self, samples: Dataset, cache: str, config: TrainConfig) -> None:
        self.config = config
        encoders = build_encoders(config.encoders)
        made_for, same = _require_fit(cache, fingerprint(config, encoders, samples), samples)
        self._no_images = torch.zeros(0, encoders.image.tokens, encoders.image.width, dtype=torch.float16)
        self._index = _read_tables(cache, samples, "index", INDEX)
        self._places = _places(samples, self._index)
        left_out = _places(samples, _read_tables(cache, samples, "rejects", REJECTS)) >= 0
        _require_all((self._places >= 0) | left_out, cache, samples, config.data.where, made_for, same)
        self._shards = RangeReader(cache, f"remove {cache} and run materia precompute again")

    def numbers(self) -> np.ndarray:
        """Samples that it has encoded, (n,) int64; the others could not be decoded (rejects/)."""
        return np.flatnonzero(self._places >= 0)

    def read(self, step: int, slot: int, number: int, bucket: int) -> EncodedItem:
        """What `encode` makes of the item of `PixelSource.read` with the same arguments, on the CPU."""
        place = int(self._places[number])
        config, members = self.config, {member["name"]: member for member in self._index["members"][place].as_py()}
        document = msgspec.json.decode(self._index["document"][place].as_py(), type=Drawable)
        drawn = draw(numpy_rng(config.seed, step, slot), document, config.data, config.stage.images)
        size = size_name(config.data.buckets[bucket])
        latents = [(f"{name}.{size}.npy", drawn.window) for name in ("mean", "std") if f"{name}.{size}.npy" in members]
        references = [(array_name(reference.member), reference.variant) for reference in drawn.references]
        wanted = [("text.npy", None), ("offsets.npy", None), *latents, *references]
        arrays = self._arrays(place, [(members[name], row) for name, row in wanted])
        text, offsets, mean = arrays[:3]
        images = arrays[2 + len(latents) :]
        return EncodedItem(
            key=str(self._index["key"][place]),
            slot=slot,
            mean=mean,
            std=arrays[3] if len(latents) > 1 else None,
            text=text,
            offsets=offsets,
            images=torch.stack(images) if images else self._no_images,
            spans=spans_tensor([reference.span for reference in drawn.references]),
        )

    def _arrays(self, place: int, wanted: Sequence[tuple[dict[str, Any], int | None]]) -> list[Tensor]:
        """Members, each whole or one row along its first axis; the first one's header tells whether the tar is the index's."""
        first, key, shard = wanted[0][0], str(self._index["key"][place]), str(self._index["shard"][place])
        ranges, forms = [(first["offset"] - HEADER_BYTES, HEADER_BYTES)], []
        for member, row in wanted:
            dtype, shape = np.dtype(member["dtype"]), member["shape"]
            array_offset = member["offset"] + member["size"] - dtype.itemsize * math.prod(shape)
            if row is not None:
                shape = shape[1:]
            size = dtype.itemsize * math.prod(shape)
            ranges.append((array_offset + (row or 0) * size, size))
            forms.append((dtype, shape))
        header, *parts = self._shards.read(shard, ranges)
        if not is_header_of(header, f"{key}.{first['name']}"):
            raise OutputError(f"{self._shards.root}/{shard} is not the tar that its index describes; {self._shards.advice}")
        return [
            torch.from_numpy(np.frombuffer(data, dtype).reshape(shape).copy())
            for data, (dtype, shape) in zip(parts, forms, strict=True)
        ]


def _require_fit(cache: str, wanted: dict[str, Any], samples: Dataset) -> tuple[str | None, bool]:
    """The filter that the cache was made with, and whether it was to have all that is wanted; its index says what it has."""
    found = read_fingerprint(cache)
    if found is None:
        command = _command(samples, cache, wanted["data.where"])
        raise TrainError(f"{cache} is no cache, it has no cache.json; make one: {command}")
    made_for: str | None = found.get("data.where")
    where, wanted["data.where"] = wanted["data.where"], made_for
    by_layers = wanted.pop(CHOSEN_BY_LAYERS, None)
    if CHOSEN_BY_LAYERS in found:
        wanted[CHOSEN_BY_LAYERS] = found[CHOSEN_BY_LAYERS]
    if set(wanted["data.buckets"]) <= set(found.get("data.buckets", ())):
        wanted["data.buckets"] = found["data.buckets"]  # more than is wanted does no harm
    if names := differing(found, wanted):
        command = _command(samples, "ANOTHER_FOLDER", where)
        raise OtherCacheError(f"{cache} was made with another {', '.join(names)}; make one that fits: {command}")
    return made_for, made_for is None or (made_for, found.get(CHOSEN_BY_LAYERS)) == (where, by_layers)


def _require_all(there: np.ndarray, cache: str, samples: Dataset, where: str | None, made_for: str | None, same: bool) -> None:
    """Raises TrainError naming the first of the samples (N,) that are not there: another filter, or an unfinished cache."""
    missing = np.flatnonzero(~there)
    if not len(missing):
        return
    first = int(missing[0])
    lacks = f"{len(missing):,} of the {len(samples):,} samples to train on are missing, the first is {samples.key(first)}"
    if same:
        shard = sibling(str(samples.index["shard"][first]), "index")
        command = _command(samples, cache, made_for)
        raise TrainError(f"{cache} is not finished: {lacks} ({storage.join(cache, shard)}); go on: {command}")
    command = _command(samples, "ANOTHER_FOLDER", where)
    then = " when its layers had other rows" if made_for == where else ""
    raise TrainError(f"{cache} was made with --where {made_for!r}{then}: {lacks}; make one that fits: {command}")


def _command(samples: Dataset, output: str, where: str | None) -> str:
    chosen = "" if where is None else f" --where {shlex.quote(where)}"
    return f"materia precompute --config THIS_CONFIGURATION --shards {samples.out} --output {output}{chosen}"


def _places(samples: Dataset, table: pa.Table) -> np.ndarray:
    """For each sample its row in a table of the cache, (N,) int32; -1: it is not there."""
    places: np.ndarray = pc.index_in(samples.index["key"], table["key"].combine_chunks()).fill_null(-1).to_numpy()
    return places


def _read_tables(cache: str, samples: Dataset, folder: str, schema: pa.Schema) -> pa.Table:
    """The index or the rejects of the samples' shards, as far as they are written: the index comes last."""
    tables = [schema.empty_table()]
    for shard in samples.index["shard"].unique().to_pylist():
        address = storage.join(cache, sibling(shard, folder))
        try:
            tables.append(parquet_table(storage.read_bytes(address)).cast(schema))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, pa.ArrowException) as error:
            raise OutputError(f"{address} cannot be read: {error}; remove it and run materia precompute again") from error
    return pa.concat_tables(tables)
