"""A few training steps of a small model on fixed batches, alone or as one rank of many; run by torchrun, it does all CASES.

torchrun ... lockstep.py FOLDER: rank 0 writes FOLDER/<case>.safetensors, the whole state after STEPS steps, with the losses and
gradient norms. Half of the clips have no images, so that one of two ranks sees none.
"""

import sys
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import torch
from conditions import awake, conditions, latents
from safetensors.torch import load_file, save_file

from trainer import distributed
from trainer.config import RunSettings
from trainer.model.dit import Conditions

CLIPS, STEPS, MORE = 8, 3, 2
START = "start"  # FOLDER/start.safetensors: a state that cases may go on from


class Case(NamedTuple):
    run: RunSettings
    images: bool = True
    resumed: bool = False  # go on from START for MORE steps


def settings(parallel: str, **others: object) -> RunSettings:
    return RunSettings(parallel=parallel, device="cpu", threads=1, **others)


CASES = {
    f"{parallel} {name}": Case(settings(parallel, **others), **how)
    for parallel in ("ddp", "fsdp2")
    for name, others, how in (
        ("plain", {}, {}),
        ("accumulated and checkpointed", {"accumulate": 2, "checkpoint_activations": True}, {}),
        ("bfloat16", {"precision": "bfloat16"}, {}),
        ("without images", {}, {"images": False}),
        ("resumed", {}, {"resumed": True}),
    )
}


def steps(world: distributed.World, case: Case, start: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """The whole state after the steps (rank 0), and "losses" and "norms" of each step."""
    model = distributed.parallelise(awake(0 if start is None else 1).train(), world, case.run)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.99))
    average = distributed.average_of(model)
    if start is not None:
        distributed.load_state(model, part(start, "model"))
        distributed.load_state(average, part(start, "ema"))
        distributed.load_moments(model, optimiser, part(start, "optimiser"))
    numbers = range(STEPS) if start is None else range(STEPS, STEPS + MORE)
    losses, norms = [], []
    for number in numbers:
        loss = torch.zeros(())
        for micro in range(case.run.accumulate):
            last = micro == case.run.accumulate - 1
            with distributed.accumulating(model, last):
                share = micro_loss(model, number, shares(world, case.run.accumulate)[micro], case.images) * world.ranks
                share.backward()
            loss += share.detach()
        norms.append(distributed.clip_gradients(model, 1.0))
        optimiser.step()
        optimiser.zero_grad()
        distributed.update_average(average, model, 0.5)
        losses.append(distributed.mean_over_ranks(loss, world))
    state = {f"model {name}": value for name, value in distributed.full_state(model).items()}
    state |= {f"ema {name}": value for name, value in distributed.full_state(average).items()}
    state |= {f"optimiser {n}": v for n, v in distributed.full_state(distributed.moments(model, optimiser)).items()}
    return state | {"losses": torch.stack(losses), "norms": torch.stack(norms)}


def part(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name} "): value for key, value in state.items() if key.startswith(f"{name} ")}


def shares(world: distributed.World, accumulate: int) -> list[slice]:
    """This rank's clips, cut into micro-batches."""
    clips = CLIPS // world.ranks // accumulate
    first = world.rank * CLIPS // world.ranks
    return [slice(first + micro * clips, first + (micro + 1) * clips) for micro in range(accumulate)]


def micro_loss(model: torch.nn.Module, number: int, share: slice, images: bool) -> torch.Tensor:
    """Of some clips of the step's batch, as their part of its mean."""
    given = conditions(CLIPS, seed=number)
    given.image_mask[: CLIPS // 2] = False
    chosen = Conditions(**{field.name: getattr(given, field.name)[share] for field in fields(given)})
    if not images or not chosen.image_mask.any():  # as `collate` would: no images at all
        chosen.images, chosen.image_mask, chosen.words = (
            one[:, :0] for one in (chosen.images, chosen.image_mask, chosen.words)
        )
    x = latents(CLIPS, seed=number)[share]
    error = model(x, torch.linspace(0.1, 0.9, CLIPS)[share], chosen) - x.flip(1)
    return error.pow(2).flatten(1).mean(1).sum() / CLIPS


def main(folder: Path) -> None:
    start = load_file(folder / f"{START}.safetensors")
    world = distributed.join(settings("ddp"))
    for name, case in CASES.items():
        state = steps(world, case, start if case.resumed else None)
        if world.rank == 0:
            save_file(state, folder / f"{name}.safetensors")
    distributed.leave(world)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
