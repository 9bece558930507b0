"""Measure stage 1 on labelled captions: `python -m tools.eval_entities MANIFEST [--config C] [--set K=V] [--json] [--verbose]`.

Backends with the same weights are compared by running it once for each, e.g. `--set entities.backend=vllm`.
In: a JSONL manifest with caption, visible_subjects, visible_objects, plural_words. Out: micro precision, recall and F1 of the
subject and object words over all rows, whatever the later rules said, beside the plain noun-phrase baseline (every head noun of
the caption); and words that are no span of their caption, which must be none. Words are equal when their head nouns are,
case-folded, one to one; plural labels are ignored.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from materia.base.backends import BackendError
from materia.base.settings_file import ConfigError
from pipeline.config import load_config
from stages.entities import Entities
from stages.entities.nouns import nouns
from stages.records import Clip, Row, Sample
from stages.settings import EntitiesSettings


@dataclass
class Score:
    """Counts over all captions, and the heads missed and invented in each."""

    right: int = 0
    missed: dict[str, list[str]] = field(default_factory=dict)
    invented: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, said: list[str], label: dict[str, Any]) -> None:
        """Match the heads said against the labels of one caption."""
        ignored = {head(word) for word in label.get("plural_words", [])}
        left = [head(word) for word in label["visible_subjects"] + label["visible_objects"]]
        extra = []
        for word in said:
            if word in left:
                left.remove(word)
                self.right += 1
            elif word not in ignored:
                extra.append(word)
        self.missed[name], self.invented[name] = left, extra

    def summary(self) -> dict[str, float]:
        """Precision, recall and F1, micro over all captions."""
        said = self.right + sum(map(len, self.invented.values()))
        labelled = self.right + sum(map(len, self.missed.values()))
        precision, recall = self.right / max(1, said), self.right / max(1, labelled)
        return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / max(1e-9, precision + recall)}


def head(phrase: str) -> str:
    """The last word, case-folded."""
    return phrase.rsplit(maxsplit=1)[-1].casefold()


def words_of(row: Row) -> list[dict[str, Any]]:
    """Entities of a sample, or those that a rejection found."""
    if isinstance(row, Sample):
        return [{"word": entity.word, "category": entity.category} for entity in row.entities]
    return list(row.found.get("entities", []))


def outside(caption: str, row: Row) -> list[str]:
    """Words of a row that do not stand in its caption where it says they do."""
    if isinstance(row, Sample):
        found = [(entity.word, entity.spans) for entity in row.entities]
    else:
        found = [(entity["word"], entity["spans"]) for entity in row.found.get("entities", [])]
    return [word for word, spans in found if not spans or any(caption[a:b].casefold() != word.casefold() for a, b in spans)]


def measure(labels: list[dict[str, Any]], settings: EntitiesSettings) -> dict[str, Any]:
    """Run the stage and the baseline over labelled rows."""
    stage = Entities(settings)
    if missing := stage.missing():
        raise SystemExit("\n".join(f"missing {item.what}: run `{item.fix}`" for item in missing))
    stage.setup()
    try:
        return _measure(labels, stage)
    finally:
        stage.close()


def _measure(labels: list[dict[str, Any]], stage: Entities) -> dict[str, Any]:
    samples = [
        Sample(clip=Clip(row=i, key=f"row{i}", source_id="", uri="", caption=label["caption"]))
        for i, label in enumerate(labels)
    ]
    stage.process(samples[:1])  # the shared part of the prompt is computed once, outside the timing
    begin, cpu = time.perf_counter(), time.process_time()
    rows = stage.process(samples)
    wall_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    ours, baseline = Score(), Score()
    for label, row in zip(labels, rows, strict=True):
        name = str(label["id"])
        ours.add(name, [head(word["word"]) for word in words_of(row) if word["category"] != "background"], label)
        baseline.add(name, [noun.head for noun in nouns(label["caption"])], label)
    return {
        "captions": len(labels),
        "ours": ours.summary(),
        "noun_phrases": baseline.summary(),
        "outside_caption": [word for label, row in zip(labels, rows, strict=True) for word in outside(label["caption"], row)],
        "wall_s_per_caption": wall_s / len(labels),
        "cpu_s_per_caption": cpu_s / len(labels),
        "rows": [
            {
                "id": label["id"],
                "words": words_of(row),
                "reason": None if isinstance(row, Sample) else row.reason,
                "missed": ours.missed[str(label["id"])],
                "invented": ours.invented[str(label["id"])],
            }
            for label, row in zip(labels, rows, strict=True)
        ],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--config", type=Path, default=Path("configs/local.yaml"), help="YAML whose `entities` are measured")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as of `materia run`; repeatable")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--verbose", action="store_true", help="print the words of every caption")
    arguments = parser.parse_args()
    labels = [json.loads(line) for line in arguments.manifest.read_text().splitlines() if line.strip()]
    try:
        report = measure(labels, load_config(arguments.config, tuple(arguments.set)).entities)
    except (ConfigError, BackendError) as error:
        raise SystemExit(str(error)) from None
    if arguments.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    if arguments.verbose:
        for row in report["rows"]:
            words = ", ".join(f"{word['word']} ({word['category']})" for word in row["words"])
            print(f"{row['id']}: {words}; missed {row['missed']}, invented {row['invented']}, {row['reason'] or 'kept'}")
    for name in ("ours", "noun_phrases"):
        print(f"{name:14}" + "  ".join(f"{key} {value:.3f}" for key, value in report[name].items()))
    print(f"words outside their captions: {len(report['outside_caption'])} {report['outside_caption'][:10]}")
    print(
        f"{report['wall_s_per_caption']:.3f} s wall, {report['cpu_s_per_caption']:.3f} s CPU a caption ({report['captions']})"
    )


if __name__ == "__main__":
    main()
