"""`materia precompute`: encode the samples of the shards once, into sibling shards that training reads instead of pixels.

In: shards and a training configuration. Out: a cache (trainer/data/cache.py says what it holds). Processes read and decode
ahead, this one encodes and writes. A shard counts once its index is there; the same command goes on with the others. Equal
input gives equal tars. With a filter only the samples that it admits are encoded.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from materia.base import storage
from materia.base.storage_settings import use_storage
from materia.base.terminal import plural
from materia.dataset.documents import Document
from materia.dataset.reader import Dataset
from materia.dataset.writer import Tar, parquet_bytes
from stages.video import VideoError, frames_at, in_memory, open_video
from trainer.config import BucketSettings, TrainConfig
from trainer.data.cache import (
    INDEX,
    REJECTS,
    OtherCacheError,
    array_name,
    differing,
    fingerprint,
    read_fingerprint,
    sibling,
    size_name,
)
from trainer.data.encode import encode_images, encode_texts, encode_videos
from trainer.data.items import BACKGROUND, Drawable, cover, reference_pixels, window_times
from trainer.data.loader import ahead, long_enough
from trainer.data.samples import open_samples
from trainer.data.streaming import shards_of
from trainer.distributed import join, leave
from trainer.encoders import Encoders, build_encoders
from trainer.run.progress import PLAIN_EVERY_S, Say, tell

SAMPLES_AT_ONCE = 8
"""Samples whose captions, references and clips are encoded together."""


class Summary(NamedTuple):
    """This process's share of a finished cache."""

    samples: int
    rejected: int
    bytes: int


@dataclass
class Pixels:
    """A sample, decoded: `clips` bucket -> (windows, T, H, W, 3); `references` member -> (variants, S, S, 3); all uint8 RGB."""

    document: Document
    clips: dict[str, np.ndarray]
    references: dict[str, np.ndarray]


class Unreadable(NamedTuple):
    """A sample that cannot be decoded: a row of REJECTS."""

    key: str
    reason: str
    message: str


def precompute(config: TrainConfig, *, shards: str, output: str, say: Say = tell) -> Summary:
    """Encode samples of `shards`, all or those that data.where admits, into the cache `output`, or go on where that was
    interrupted; `say` tells the outcome.

    Under torchrun each process takes its share of the shards. Raises OtherCacheError for a cache of other shards, another
    filter or configuration, OutputError for shards that cannot be read or of which nothing is left, FilterError for a filter
    that is not understood, TrainError for encoders that are not there.
    """
    use_storage(config.storage)
    samples, total = open_samples(shards, config.data.where)
    encoders = build_encoders(config.encoders)
    world = join(config.run)
    try:
        _claim(output, fingerprint(config, encoders, samples))
        if world.ranks == 1:
            storage.clean_temporaries(output)
        mine = shards_of(samples, np.arange(len(samples)))[world.rank :: world.ranks]
        todo = [(shard, numbers) for shard, numbers in mine if not _is_done(output, shard)]
        if config.data.where is not None:
            say(f"encoding {len(samples):,} of {total:,} samples, those that --where {config.data.where!r} admits")
        if todo:
            encoders.setup(str(world.device))
        with closing(_decoded(config, samples, [number for _, numbers in todo for number in numbers.tolist()], say)) as decoded:
            for shard, numbers in todo:
                _write_shard(output, shard, islice(decoded, len(numbers)), encoders)
    finally:
        leave(world)
    summary = _summary(output, [shard for shard, _ in mine])
    say(f"{output}: {plural(summary.samples, 'sample')} in {plural(len(mine), 'shard')}, {summary.bytes / 1e6:,.1f} MB")
    if summary.rejected:
        say(f"{plural(summary.rejected, 'sample')} could not be decoded and left out of training, see {output}/rejects")
    return summary


def _claim(output: str, wanted: dict[str, Any]) -> None:
    """Write cache.json, or require that it says the same."""
    found = read_fingerprint(output)
    if found is None:
        storage.atomic_write(storage.join(output, "cache.json"), json.dumps(wanted, indent=2).encode() + b"\n")
    elif names := differing(found, wanted):
        raise OtherCacheError(f"{output} was made with another {', '.join(names)}; choose another --output")


def _is_done(output: str, shard: str) -> bool:
    return all(storage.exists(storage.join(output, name)) for name in (shard, sibling(shard, "index")))


def _write_shard(output: str, shard: str, decoded: Iterator[Pixels | Unreadable], encoders: Encoders) -> None:
    """Encode and write a shard, its rejects, and last its index, which makes it count."""
    rows: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    with storage.staged(storage.join(output, shard)) as staging:
        tar = Tar(staging.file)
        while batch := list(islice(decoded, SAMPLES_AT_ONCE)):
            rejects += [sample._asdict() for sample in batch if isinstance(sample, Unreadable)]
            good = [sample for sample in batch if isinstance(sample, Pixels)]
            for sample, arrays in zip(good, _encode(good, encoders) if good else [], strict=True):
                key = sample.document.key
                members = [_add(tar, key, name, array) for name, array in arrays.items()]
                rows.append({"key": key, "shard": shard, "document": _drawable(sample.document), "members": members})
        tar.finish()
        staging.publish()
    for folder, records, schema in (("rejects", rejects, REJECTS), ("index", rows, INDEX)):
        storage.atomic_write(storage.join(output, sibling(shard, folder)), parquet_bytes(records, schema))


def _encode(samples: list[Pixels], encoders: Encoders) -> list[dict[str, np.ndarray]]:
    """The cache's arrays of each sample, by name, in the order in which they are written."""
    texts = encode_texts([sample.document.caption for sample in samples], encoders)
    arrays = [{"text.npy": text.tokens.cpu().numpy(), "offsets.npy": text.offsets.cpu().numpy()} for text in texts]
    for size in sorted({size for sample in samples for size in sample.clips}):
        having = [index for index, sample in enumerate(samples) if size in sample.clips]
        moments = encode_videos(np.concatenate([samples[index].clips[size] for index in having]), encoders)
        for name, values in zip(("mean", "std"), moments, strict=True):
            if values is not None:
                for index, part in zip(having, np.split(values.cpu().numpy(), len(having)), strict=True):
                    arrays[index][f"{name}.{size}.npy"] = part
    named = [(index, member) for index, sample in enumerate(samples) for member in sample.references]
    if named:
        images = encode_images(np.concatenate([samples[index].references[member] for index, member in named]), encoders)
        for (index, member), part in zip(named, np.split(images.cpu().numpy(), len(named)), strict=True):
            arrays[index][array_name(member)] = part
    return arrays


def _add(tar: Tar, key: str, name: str, array: np.ndarray) -> dict[str, Any]:
    """Append an array as .npy; its row of the index."""
    file = io.BytesIO()
    npy.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    data = file.getvalue()
    offset = tar.add(f"{key}.{name}", len(data), [data])
    return {"name": name, "offset": offset, "size": len(data), "dtype": array.dtype.name, "shape": array.shape}


def _drawable(document: Document) -> str:
    return msgspec.json.encode(msgspec.convert(document, Drawable, from_attributes=True)).decode()


class _Decoded:
    """Number of a sample -> its pixels, or why there are none."""

    def __init__(self, samples: Dataset, config: TrainConfig) -> None:
        self.samples = samples
        self.config = config
        self.long_enough = {bucket: np.zeros(len(samples), bool) for bucket in config.data.buckets}
        for bucket, mask in self.long_enough.items():
            mask[long_enough(samples, bucket, config.data.fps)] = True

    def __call__(self, number: int) -> Pixels | Unreadable:
        document = self.samples.document(number)
        pictures = [*(instance.member for instance in document.instances), BACKGROUND]
        members = self.samples.read(number, [document.video.member, *pictures])
        try:
            clips = self._clips(number, document, members.pop(document.video.member))
            return Pixels(document, clips, self._references(document.key, members))
        except VideoError as error:
            return Unreadable(document.key, error.reason, str(error))
        except ValueError as error:
            return Unreadable(document.key, "broken_reference", str(error))

    def _clips(self, number: int, document: Document, clip: bytes) -> dict[str, np.ndarray]:
        """All windows of the buckets that the clip is long enough for; decoded once for all of a height and width."""
        data, clips = self.config.data, {}
        buckets = sorted((bucket for bucket in data.buckets if self.long_enough[bucket][number]), key=_height_width)
        with in_memory(clip) as path, open_video(path) as video:
            for (height, width), group in groupby(buckets, key=_height_width):
                windows = [(bucket, window) for bucket in group for window in range(data.windows)]
                times = [window_times(document, bucket, data, window, self.config.seed) for bucket, window in windows]
                fit = partial(cover, height=height, width=width)
                frames = iter(frames_at(video, [time for window in times for time in window], fit=fit).frames)
                for bucket, same in groupby(windows, key=lambda pair: pair[0]):
                    clips[size_name(bucket)] = np.stack([np.stack(list(islice(frames, bucket.frames))) for _ in same])
        return clips

    def _references(self, key: str, pngs: Mapping[str, bytes]) -> dict[str, np.ndarray]:
        """All variants of every crop, faces too, and of the background."""
        data, seed = self.config.data, self.config.seed
        variants = range(data.variants if data.augment else 1)
        return {
            name: np.stack([reference_pixels(png, key, name, variant, data, seed) for variant in variants])
            for name, png in pngs.items()
        }


def _height_width(bucket: BucketSettings) -> tuple[int, int]:
    return bucket.height, bucket.width


def _summary(output: str, shards: list[str]) -> Summary:
    def rows(shard: str, folder: str) -> int:
        address = storage.join(output, sibling(shard, folder))
        return int(pq.read_metadata(pa.BufferReader(storage.read_bytes(address))).num_rows)

    return Summary(
        samples=sum(rows(shard, "index") for shard in shards),
        rejected=sum(rows(shard, "rejects") for shard in shards),
        bytes=sum(storage.size(storage.join(output, shard)) for shard in shards),
    )


def _decoded(config: TrainConfig, samples: Dataset, numbers: list[int], say: Say) -> Generator[Pixels | Unreadable, None, None]:
    """The samples, while a bar on standard error counts them; where that is no terminal, `say` tells it now and then."""
    console = Console(stderr=True)
    columns = (TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    told = time.monotonic()
    read: Iterator[Pixels | Unreadable] = ahead(_Decoded(samples, config), numbers, config.data.workers)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=len(numbers))
        for done, sample in enumerate(read, 1):
            yield sample
            bar.advance(task)
            if not console.is_terminal and time.monotonic() - told >= PLAIN_EVERY_S:
                told = time.monotonic()
                say(f"encoded {done} of {len(numbers)} samples")
