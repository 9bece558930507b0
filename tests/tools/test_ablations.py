"""The ablations' table: of runs that are finished, each over its seeds, and paired with the full method's."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("skimage")

from materia.benchmark.evaluation import ClipScore
from tools import ablations


def finish(folder: Path, variant: str, seed: int, distances: list[float]) -> None:
    """A run as it leaves its files, whose clips with foreign references are 50 away."""
    clips = [
        ClipScore(str(place), ["cat", "owl"], [far, far], [50, 50], [0.9, 0.9], [0.8, 0.8], [far < 10, False], far < 10, 0.5)
        for place, far in enumerate(distances)
    ]
    (folder / f"scores-{variant}-{seed}.json").write_text(json.dumps({"clips": [asdict(clip) for clip in clips]}))
    (folder / f"minutes-{variant}-{seed}.json").write_text("3.5")


def test_a_variant_is_compared_with_the_full_method_seed_by_seed(tmp_path: Path) -> None:
    finish(tmp_path, "full", 0, [4, 8])
    finish(tmp_path, "full", 1, [40, 80])  # no mixed run has this seed
    finish(tmp_path, "mixed", 0, [6, 12])
    results = ablations.collect(tmp_path)
    assert list(results) == ["full", "mixed"]
    assert results["full"]["all"]["distance"].value == 33
    assert results["full"]["minus_full"] == {}
    difference = results["mixed"]["minus_full"]
    assert (difference["margin"].value, difference["found"].value, difference["assigned"].value) == (-3, -0.25, -0.5)
    assert (difference["distance"].low, difference["distance"].high) == (2, 4)
    assert (
        ablations.table(results).splitlines()[-1].startswith("| a third of the references swapped, minus full method | 3.000 [")
    )


def test_every_world_that_a_variant_wants_can_be_made() -> None:
    assert {variant.world for variant in ablations.VARIANTS} == set(ablations.WORLDS)
