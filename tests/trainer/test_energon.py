"""Interoperability: Megatron-Energon reads the shards as `materia run` wrote them, nothing converted."""

import sys
from pathlib import Path
from typing import Any

import warm
from samples import make_output

from materia.dataset.reader import Dataset


def test_energon_prepares_and_reads_the_shards_as_they_are(tmp_path: Path) -> None:
    make_output(tmp_path / "out", tmp_path / "clips", ["srs", "ss"])
    out = str(tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "shards").iterdir()}
    options = ["--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset"]
    energon = [sys.executable, "-c", "from megatron.energon.cli.main import main; main()"]
    warm.run([*energon, "prepare", *options, out], "heavy").check_returncode()

    samples = Dataset(out)
    expected = {samples.key(number): samples.read(number, samples.members(number)) for number in range(len(samples))}
    assert _read_with_energon(out) == expected
    assert {path: path.read_bytes() for path in before} == before


def _read_with_energon(out: str) -> dict[str, dict[str, bytes]]:
    """Key -> members of every sample, through energon's own data set and loader."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        edataclass,
        get_loader,
        get_train_dataset,
        stateless,
    )

    @edataclass
    class Members(Sample):
        members: dict[str, bytes]

    @stateless
    def cook(crude: dict[str, Any]) -> Members:
        members = {name: data for name, data in crude.items() if not name.startswith("__")}
        return Members(**basic_sample_keys(crude), members=members)

    class Encoder(DefaultTaskEncoder):
        cookers = (Cooker(cook),)
        decoder = None  # bytes as they are

    dataset = get_train_dataset(
        out,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        task_encoder=Encoder(),
        repeat=False,
    )
    return {sample.__key__: sample.members for sample in get_loader(dataset)}
