"""Run the experiments of docs/training-results.md and docs/data-quality.md on the synthetic world: what references are worth,
the paper's ablations, and what wrong references cost.

In: nothing; the world is made. Out, in a folder: shards, caches, runs, scores of every clip, results.json, and the table of the
documentation on the screen. Runs follow each other, one thread each, so that CPU minutes mean something; what is finished is
not done again. Every step is a command of `materia`, which is printed.

    python -m tools.ablations ablations/
    python -m tools.ablations ablations/ --variants full mixed
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from materia.base.intervals import Interval
from materia.benchmark import evaluation
from materia.benchmark.evaluation import compare, summarise
from tools.synthetic_world import ROWS_PER_CHUNK

CONFIG = "configs/train/synthetic.yaml"
TRAIN_CLIPS, EVAL_CLIPS = 1200, 192
WORLD_SEED, HELD_OUT_SEED = 0, 2
SEEDS = (0, 1, 2)
MIXED_SHARE = 0.333
"""Of the references of the world `mixed`."""
SAMPLING = ("--steps", "16", "--text-guidance", "0", "--image-guidance", "2")


class Variant(NamedTuple):
    """A row of the table; `cache`: variants of the same name share what `materia precompute` writes; `world`: see `WORLDS`."""

    name: str
    label: str
    cache: str
    overrides: tuple[str, ...] = ()
    world: str = "train"


FULL = Variant("full", "full method", "full")
VARIANTS = (
    FULL,
    Variant("no-word", "no word token", "full", ("model.word_tokens=0",)),
    Variant("no-augmentation", "no augmentation", "plain", ("data.augment=false", "data.variants=1")),
    Variant("last-level", "other image encoder", "last", ("encoders.image.options.blocks=[15]",)),
    Variant("mixed", "a third of the references swapped", "mixed", world="mixed"),
)
"""`last-level`: only the deepest level of the network, which was trained to name classes, as CLIP's tokens are near to text."""
WORLDS: dict[str, tuple[str, ...]] = {"train": (), "mixed": ("--mixed", str(MIXED_SHARE))}
"""What is trained on: the same clips, captions and pictures. All are evaluated on the same held-out world, of which nothing is
swapped."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train and evaluate all variants on all seeds.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variants", nargs="+", choices=[variant.name for variant in VARIANTS])
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="FIELD=VALUE", help="for all runs")
    arguments = parser.parse_args()
    chosen = [variant for variant in VARIANTS if arguments.variants is None or variant.name in arguments.variants]
    folder: Path = arguments.folder
    for name in sorted({variant.world for variant in chosen}):
        _world(folder / name, TRAIN_CLIPS, WORLD_SEED, *WORLDS[name])
    _world(folder / "eval", EVAL_CLIPS, HELD_OUT_SEED, "--held-out")
    for seed in arguments.seeds:
        for variant in chosen:
            run_one(folder, variant, seed, tuple(arguments.overrides))
            results = collect(folder)
            (folder / "results.json").write_text(json.dumps(results, indent=1))
    print(table(results))


def run_one(folder: Path, variant: Variant, seed: int, overrides: Sequence[str]) -> None:
    """Precompute, train and evaluate, as far as that is not done."""
    run, cache = folder / f"run-{variant.name}-{seed}", folder / f"cache-{variant.cache}-{seed}"
    scores = folder / f"scores-{variant.name}-{seed}.json"
    if scores.exists():
        return
    settings = [part for value in (f"seed={seed}", *variant.overrides, *overrides) for part in ("--set", value)]
    shards = ["--config", CONFIG, "--shards", str(folder / variant.world), *settings]
    _materia("precompute", *shards, "--output", str(cache))
    minutes = _materia("train", *shards, "--cache", str(cache), "--output", str(run))
    (folder / f"minutes-{variant.name}-{seed}.json").write_text(json.dumps(minutes))
    _materia("eval", "--synthetic", "--run", str(run), "--shards", str(folder / "eval"), *SAMPLING, "--output", str(scores))


def collect(folder: Path) -> dict[str, Any]:
    """All numbers of the runs that are finished: of each variant over its seeds, and of each run; `minus_full`: by how much a
    variant is above the full method, over the seeds that both have."""
    files = {(variant, seed): folder / f"scores-{variant.name}-{seed}.json" for variant in VARIANTS for seed in SEEDS}
    scores = {run: evaluation.read(str(file)) for run, file in files.items() if file.exists()}
    results: dict[str, Any] = {}
    for variant in dict.fromkeys(variant for variant, _ in scores):
        runs = {seed: scores[variant, seed] for seed in SEEDS if (variant, seed) in scores}
        minutes = {seed: json.loads((folder / f"minutes-{variant.name}-{seed}.json").read_text()) for seed in runs}
        both = [seed for seed in runs if variant != FULL and (FULL, seed) in scores]
        results[variant.name] = {
            "label": variant.label,
            "overrides": variant.overrides,
            "cpu_minutes": minutes,
            "all": summarise(list(runs.values())),
            "runs": {seed: summarise([run]) for seed, run in runs.items()},
            "minus_full": compare([runs[seed] for seed in both], [scores[FULL, seed] for seed in both]) if both else {},
        }
    return results


def table(results: dict[str, Any]) -> str:
    """Markdown: a row for each variant, means over seeds and clips with 95 % intervals, and the same of paired differences."""
    columns = {
        "distance": "colour distance",
        "margin": "margin over shuffled",
        "found": "found among 8",
        "assigned": "two subjects right",
        "similarity": "feature similarity",
        "motion": "motion",
    }
    lines = [f"| | {' | '.join(columns.values())} | CPU minutes |", "|---" * (len(columns) + 2) + "|"]
    for result in results.values():
        cells = [_cell(result["all"], name) for name in columns]
        minutes = ", ".join(f"{minutes:.1f}" for minutes in result["cpu_minutes"].values())
        lines.append(f"| {result['label']} | {' | '.join(cells)} | {minutes} |")
    for result in results.values():
        if result["minus_full"]:
            cells = [_cell(result["minus_full"], name) for name in columns]
            lines.append(f"| {result['label']}, minus {FULL.label} | {' | '.join(cells)} | |")
    return "\n".join(lines)


def _cell(summary: dict[str, Interval], name: str) -> str:
    found = summary[name]
    digits = 1 if abs(found.value) >= 5 else 3
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _world(output: Path, clips: int, seed: int, *more: str) -> None:
    if not (output / "dataset.json").exists() or len(list((output / "commits").glob("*.json"))) * ROWS_PER_CHUNK < clips:
        _run([sys.executable, "-m", "tools.synthetic_world", str(output), "--clips", str(clips), "--seed", str(seed), *more])


def _materia(*arguments: str) -> float:
    return _run([str(Path(sys.executable).with_name("materia")), *arguments])


def _run(command: list[str]) -> float:
    """Run a command on one thread; gives the CPU minutes that it took. Ends the program if it fails."""
    print(
        "$", shlex.join(["materia", *command[1:]] if command[0].endswith("materia") else ["python", *command[1:]]), flush=True
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"failed with exit code {done.returncode}")
    minutes = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60
    print(f"  {minutes:.2f} CPU minutes", flush=True)
    return minutes


if __name__ == "__main__":
    main()
