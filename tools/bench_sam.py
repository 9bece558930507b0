"""What a further box of a frame costs in SAM, as a share of its embedding: `python -m tools.bench_sam [--architecture vit_b]`.

Random weights of the real architecture, one frame of 1280 x 720, masks in full resolution, one CPU thread, CPU time. The best
of several runs; floor: under 0.05. Needs the packages of `make gpu`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import numpy as np

from stages.records import Box
from stages.segment.sam import Sam
from stages.segment.sam_build import ARCHITECTURES

FLOOR = 0.05
MORE_BOXES = 8


@click.command()
@click.option("--architecture", type=click.Choice(ARCHITECTURES), default="vit_b")
@click.option("--runs", default=2, help="the best of them counts")
def main(architecture: str, runs: int) -> None:
    """Print the times and whether the floor holds."""
    embedding_s, box_s = measure(architecture, runs)
    share = box_s / embedding_s
    print(f"SAM {architecture}: embedding {embedding_s * 1e3:.0f} ms, further box {box_s * 1e3:.1f} ms, {share:.2%} of it")
    raise SystemExit(0 if share < FLOOR else 1)


def measure(architecture: str, runs: int) -> tuple[float, float]:
    """CPU seconds of one frame's embedding, and of each box after its first with its mask in full resolution."""
    frame = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        sam = Sam(_random_weights(architecture, Path(folder)), architecture=architecture)
        sam.setup("cpu", 1)
        one, many = ([_seconds(sam, frame, n) for _ in range(runs)] for n in (1, 1 + MORE_BOXES))
    embedding_s = min(embedding for embedding, _ in one + many)
    return embedding_s, (min(rest for _, rest in many) - min(rest for _, rest in one)) / MORE_BOXES


def _seconds(sam: Sam, frame: np.ndarray, n_boxes: int) -> tuple[float, float]:
    """CPU seconds of the image encoder, and of all else."""
    corners = [(40.0 * n, 30.0 * n, 600.0 + 60 * n, 400.0 + 30 * n) for n in range(n_boxes)]
    boxes = [Box(word=f"word {n}", category="object", frame=0, box_xyxy_px=c, score=1.0) for n, c in enumerate(corners)]
    times: list[float] = []
    encoder = sam.model.image_encoder
    hooks = [
        encoder.register_forward_pre_hook(lambda *_: times.append(time.process_time())),
        encoder.register_forward_hook(lambda *_: times.append(time.process_time())),
    ]
    start = time.process_time()
    sam.segment([frame], [boxes])
    total = time.process_time() - start
    for hook in hooks:
        hook.remove()
    return times[1] - times[0], total - (times[1] - times[0])


def _random_weights(architecture: str, folder: Path) -> str:
    import torch
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    path = folder / f"{architecture}.pth"
    torch.save(sam_model_registry[architecture]().state_dict(), path)
    return str(path)


if __name__ == "__main__":
    main()
