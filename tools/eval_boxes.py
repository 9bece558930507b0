"""How well boxes are found: `python -m tools.eval_boxes MANIFEST [--json]`.

In: a JSONL manifest whose rows have `video`, `caption`, the words that are seen (`visible_subjects`, `visible_objects`) and, to
measure by, `boxes`: {word: [x1, y1, x2, y2]} in pixels of the middle frame (or {word: [box, ...]}, [{word, box_xyxy}, ...]).
Out: of the labelled boxes whose word the detector's classes know, the share that our box of that word meets with IoU 0.5 on
the middle frame; how many words get a box in each frame. Words come from the labels: this measures the boxes alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from stages.boxes import iou
from stages.frames import Frames
from stages.localise import Localise
from stages.localise.vocabulary import classes_of
from stages.records import Category, Clip, EntityWord, Rejection, Sample
from stages.settings import FramesSettings, LocaliseSettings

IOU = 0.5
MIDDLE = 1


def labelled_boxes(row: dict[str, Any]) -> dict[str, np.ndarray]:
    """Word -> (K, 4) boxes of the middle frame, from any of the three ways to write them."""
    boxes: dict[str, list[list[float]]] = {}
    raw = row.get("boxes") or {}
    pairs = raw.items() if isinstance(raw, dict) else [(item["word"], item["box_xyxy"]) for item in raw]
    for word, value in pairs:
        boxes.setdefault(word, []).extend(value if isinstance(value[0], list) else [value])
    return {word: np.array(value, np.float32) for word, value in boxes.items()}


def sample_of(number: int, row: dict[str, Any], folder: Path) -> Sample:
    """A sample as it leaves the entity stage, with the labels' words."""
    caption = row["caption"]
    words: dict[str, Category] = dict.fromkeys([*row.get("visible_objects", []), *labelled_boxes(row)], "object")
    words |= dict.fromkeys(row.get("visible_subjects", []), "subject")
    entities = []
    for word, category in words.items():
        start = max(0, caption.casefold().find(word.casefold()))
        entities.append(EntityWord(word=word, category=category, spans=[(start, start + len(word))]))
    name = str(row.get("id", number))
    clip = Clip(row=number, key=name, source_id=name, uri=row["video"], address=str(folder / row["video"]), caption=caption)
    return Sample(clip=clip, entities=entities)


def evaluate(manifest: Path) -> dict[str, Any]:
    """Counts over a manifest; clips whose frames are rejected count as misses."""
    frames, localise = Frames(FramesSettings(several_shots="flag")), Localise(LocaliseSettings())
    frames.setup()
    localise.setup()
    counts = {"clips": 0, "words": 0, "mapped": 0, "labelled": 0, "boxed": 0, "met": 0}
    per_frame, missed = [0, 0, 0], []
    for index, line in enumerate(manifest.read_text("utf-8").splitlines()):
        row = json.loads(line)
        sample = sample_of(index, row, manifest.parent)
        decoded = frames.process([sample])[0]
        if not isinstance(decoded, Rejection):
            localise.process([sample])
        found = {(box.word, box.frame): box.box_xyxy_px for box in sample.boxes}
        labels = labelled_boxes(row)
        counts["clips"] += 1
        counts["words"] += len(sample.entities)
        for entity in sample.entities:
            if not classes_of(entity.word, entity.category):
                continue
            counts["mapped"] += 1
            for number_of_frame in range(3):
                per_frame[number_of_frame] += (entity.word, number_of_frame) in found
            if entity.word in labels:
                ours = np.array([found.get((entity.word, MIDDLE), (0, 0, 0, 0))], np.float32)
                best = float(iou(ours, labels[entity.word]).max())
                counts["labelled"] += 1
                counts["boxed"] += (entity.word, MIDDLE) in found
                counts["met"] += best >= IOU
                if best < IOU:
                    missed.append(f"{sample.clip.key}: {entity.word} (IoU {best:.2f})")
    localise.close()
    recall = counts["met"] / counts["labelled"] if counts["labelled"] else None
    precision = counts["met"] / counts["boxed"] if counts["boxed"] else None
    return {**counts, "boxed_per_frame": per_frame, "recall": recall, "precision": precision, "missed": missed}


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = evaluate(arguments.manifest)
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{result['clips']} clips, {result['words']} words, {result['mapped']} of them of a class that the detector knows")
    print("of these have a box in frame 0, 1, 2: " + ", ".join(str(n) for n in result["boxed_per_frame"]))
    if result["labelled"]:
        print(f"labelled boxes: {result['labelled']}; met with IoU {IOU}: {result['met']}")
        print(f"recall {result['recall']:.3f}, precision {result['precision'] or 0:.3f}")
        print("missed:\n  " + "\n  ".join(result["missed"]))


if __name__ == "__main__":
    main()
