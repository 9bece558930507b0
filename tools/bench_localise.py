"""What GroundingDINO costs outside its forward pass, on one core: milliseconds of CPU time per 720p frame.

    python -m tools.bench_localise [--frames 12]

Tokenising, spans, resizing, normalising, bringing outputs back and the word-to-box rule are the real ones; the network is
replaced by fixed outputs of its shape. The limit is 60 ms per frame.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from stages.localise import best_boxes
from stages.localise.grounding import Grounding
from stages.localise.pictures import normalise
from stages.localise.prompt import DetectorPrompt, load_tokenizer

WORDS = ["woman", "red hat", "long brown hair", "green-capped bottle", "dog", "hot dog", "mask", "coat"]


def tokenizer_folder(folder: Path) -> Path:
    """A folder with a BERT tokenizer that spells words in letters: more tokens than a real one makes."""
    letters = "abcdefghijklmnopqrstuvwxyz-"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return folder


def milliseconds_per_frame(n_frames: int) -> float:
    """Mean over the frames, three of each clip, after one clip to warm up."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(tokenizer_folder(Path(folder)))
    rng = np.random.Generator(np.random.PCG64(0))
    boxes, logits = torch.rand(8, 900, 4), torch.randn(8, 900, 256)

    def run(pictures: list[np.ndarray], prompts: list[DetectorPrompt]) -> tuple[np.ndarray, np.ndarray]:
        normalise(pictures, "cpu")
        n_tokens = max(len(prompt.ids) for prompt in prompts)
        outputs = torch.cat([boxes[: len(pictures)], logits[: len(pictures), :, :n_tokens].sigmoid()], dim=2).numpy()
        return outputs[..., :4], outputs[..., 4:]

    grounding = Grounding(batch_size=6, max_words_per_prompt=20, short_side_px=800, long_side_px=1333, dtype="float32")
    frames = [rng.integers(0, 255, (720, 1280, 3), np.uint8) for _ in range(n_frames)]
    words = [[*WORDS, f"thing {index // 3}"] for index in range(n_frames)]
    grounding.detect(frames[:3], words[:3], tokenizer, run)
    start = time.process_time()
    for found in grounding.detect(frames, words, tokenizer, run):
        best_boxes(found.scores)
    return (time.process_time() - start) / n_frames * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=12, help="720p frames, three a clip")
    args = parser.parse_args()
    sys.stdout.write(
        f"GroundingDINO outside its forward pass: {milliseconds_per_frame(args.frames):.1f} ms of CPU time per 720p frame\n"
    )


if __name__ == "__main__":
    main()
