"""One model over several processes: who takes part, how the model is laid over them, and how its state comes together again.

In: the environment that torchrun or Ray Train made, and a VideoDiT. Out: a module with the same forward, as it is (alone),
replicated (DDP) or sharded (FSDP2), with bf16 arithmetic and activation checkpointing put on from outside; the model knows of
none of it. State is exchanged as tensors by the plain model's parameter names, full and on the CPU of rank 0, so that a
checkpoint fits any number of ranks and either layout. Calls of a sharded module are collective: every rank makes the same ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from trainer.config import RunSettings
from trainer.errors import TrainError
from trainer.model.dit import VideoDiT

_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


class World(NamedTuple):
    """This process among those that train together; `local_rank` counts on its machine. `owned`: `join` made the group."""

    rank: int
    ranks: int
    local_rank: int
    device: torch.device
    owned: bool = False


def join(run: RunSettings) -> World:
    """Take part in what the surroundings offer: a process group that is there (Ray Train), torchrun's variables, or be alone.

    Sets the number of CPU threads and the current card too. Raises TrainError if the device asked for is not there.
    """
    if run.threads:
        torch.set_num_threads(run.threads)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = _device(run.device, local_rank)
    owned = not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if owned:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if not dist.is_initialized():
        return World(0, 1, 0, device)
    return World(dist.get_rank(), dist.get_world_size(), local_rank, device, owned)


def leave(world: World) -> None:
    """End the process group, if `join` made it."""
    if world.owned:
        dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise TrainError(f"run.device is {name!r}; give auto, cuda or cpu")
    if not torch.cuda.is_available():
        raise TrainError("run.device is cuda, but PyTorch sees no card here; set run.device=cpu or see nvidia-smi")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())  # a launcher may show each process only its own card
    torch.cuda.set_device(device)
    return device


def parallelise(model: VideoDiT, world: World, run: RunSettings) -> nn.Module:
    """The model on its device, over the ranks as `run.parallel` says; `forward` is the same, in float32.

    Every rank must come with the same weights. Make the optimiser and the average afterwards. The gradient is the mean of the
    ranks' gradients, so a rank's loss must be its share of the global mean times `world.ranks`. Parameters that no clip of a
    batch reached (no images) have no gradient alone and with DDP, and one of zeros with FSDP2.
    """
    if run.checkpoint_activations:
        for block in model.blocks:
            _set_forward(block, partial(checkpoint, block.forward, use_reentrant=False))
    if run.compile:
        for block in model.blocks:
            block.compile()
    if run.precision == "bfloat16":
        _set_forward(model, partial(_in_bfloat16, model.forward, world.device.type))
    if world.ranks == 1:
        return model.to(world.device)
    return replicate(model, world) if run.parallel == "ddp" else shard(model, world, run)


def replicate(model: VideoDiT, world: World) -> nn.Module:
    """The whole model on every rank (DDP)."""
    # One rank's clips may have images where another's have none; the ranks must agree on what was used.
    return DistributedDataParallel(model.to(world.device), find_unused_parameters=True, gradient_as_bucket_view=True)


def shard(model: VideoDiT, world: World, run: RunSettings) -> nn.Module:
    """Each rank holds its part of every block, and of the rest (FSDP2)."""
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(world.device.type, (world.ranks,)),
        "mp_policy": _POLICIES[run.precision],
        # The root as well: what stays gathered would be stale when weights are changed between two forwards without gradient.
        "reshard_after_forward": True,
    }
    for block in model.blocks:
        fully_shard(block, **settings)
    sharded = fully_shard(model, **settings)
    sharded.set_reduce_scatter_unused_params(True)  # else ranks with and without images would wait for each other
    return sharded


# Autocast decides which operations are in bf16, as in the other layouts; the policy sends half the bytes and sums in float32.
_POLICIES = {
    "float32": MixedPrecisionPolicy(),
    "bfloat16": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False),
}


def _set_forward(module: nn.Module, forward: Any) -> None:
    """On the instance, so that names of parameters and the class stay as they are, and hooks stay outside."""
    module.forward = forward


def _in_bfloat16(forward: Any, device_type: str, *args: Any, **kwargs: Any) -> Tensor:
    with torch.autocast(device_type, torch.bfloat16):
        velocity: Tensor = forward(*args, **kwargs)
    return velocity.float()


def plain(module: nn.Module) -> VideoDiT:
    """The VideoDiT inside of what `parallelise` gave; with FSDP2 it is the module itself."""
    model: VideoDiT = module.module if isinstance(module, DistributedDataParallel) else module
    return model


def accumulating(module: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Around forward and backward of a micro-batch: ranks need not exchange gradients before the `last` one of a step.

    With FSDP2 they do each time: gradients that wait are not sharded, and would take the memory that sharding saves.
    """
    if isinstance(module, DistributedDataParallel) and not last:
        waiting: AbstractContextManager[None] = module.no_sync()
        return waiting
    return nullcontext()


def attention_kernels(run: RunSettings) -> AbstractContextManager[None]:
    """Around forward and backward: the kernel of `run.attention` is tried first, then the others in PyTorch's order.

    All stay allowed, because not every kernel takes every mask, width and device.
    """
    if run.attention == "auto":
        return nullcontext()
    first = _KERNELS[run.attention]
    kernels: AbstractContextManager[None] = sdpa_kernel(
        [first, *(kernel for kernel in _KERNELS.values() if kernel is not first)], set_priority=True
    )
    return kernels


def clip_gradients(module: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients so that their norm over all parameters and ranks is at most `max_norm`; gives the norm before, ()."""
    norm = nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    whole: Tensor = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return whole


def mean_over_ranks(tensor: Tensor, world: World) -> Tensor:
    """The mean of every rank's `tensor`; one tensor of all numbers is one exchange."""
    if world.ranks == 1:
        return tensor
    total = tensor.detach().clone().to(world.device)
    dist.all_reduce(total)
    return total / world.ranks


def any_rank(flag: bool, world: World) -> bool:
    """Whether it is so on some rank; the same answer on all."""
    return bool(mean_over_ranks(torch.tensor(float(flag)), world) > 0)


def from_all_ranks(keys: list[str], world: World) -> list[list[str]]:
    """Every rank's list, in the order of ranks; the same answer on all. For rare occasions: it is slow."""
    if world.ranks == 1:
        return [keys]
    found: list[list[str]] = [[] for _ in range(world.ranks)]
    dist.all_gather_object(found, keys)
    return found


def weights(module: nn.Module) -> dict[str, Tensor]:
    """This rank's part of the weights, by the plain model's names; the tensors themselves, detached."""
    return {name: parameter.detach() for name, parameter in plain(module).named_parameters()}


def average_of(module: nn.Module) -> dict[str, Tensor]:
    """An average of the weights that starts as they are; each rank keeps its part."""
    return {name: weight.clone() for name, weight in weights(module).items()}


def update_average(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) weights, in place."""
    get_ema_multi_avg_fn(decay)(list(average.values()), list(weights(module).values()), None)


@contextmanager
def averaged(module: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """The module has the averaged weights for a while; they change places, which takes the memory of one parameter."""
    _swap(weights(module), average)
    try:
        yield
    finally:
        _swap(weights(module), average)


def _swap(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
    for name, one in some.items():
        kept = one.clone()
        one.copy_(others[name])
        others[name].copy_(kept)


def moments(module: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    """This rank's part of the optimiser's state as "parameter/what", e.g. "patch_in.weight/exp_avg".

    A parameter that has had no gradient yet has no state.
    """
    states = {name: optimiser.state.get(parameter, {}) for name, parameter in plain(module).named_parameters()}
    return {f"{name}/{what}": value for name, state in states.items() for what, value in state.items()}


def full_state(parts: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the CPU of rank 0 (own copies), {} on the others, of a module's weights, an average or `moments`.

    One tensor after the other, so a card needs room for the largest only. Every rank must call it.
    """
    if isinstance(parts, nn.Module):
        parts = weights(parts)
    keep = not dist.is_initialized() or dist.get_rank() == 0
    whole = {}
    for name, part in parts.items():
        full = part.full_tensor() if isinstance(part, DTensor) else part
        if keep:
            whole[name] = full.detach().to("cpu", copy=True)
    return whole


def load_state(parts: nn.Module | Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy whole tensors, given on every rank, into a module's weights or an average; each rank takes its part.

    Raises TrainError if names or shapes are those of another model.
    """
    if isinstance(parts, nn.Module):
        parts = weights(parts)
    if unknown := sorted(parts.keys() ^ state.keys()):
        raise TrainError(f"these weights are of another model: only one of both has {unknown[0]}; give model.* of that run")
    for name, part in parts.items():
        part.copy_(_part_of(state[name], part, name))


def load_moments(module: nn.Module, optimiser: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Give the optimiser the state that `full_state(moments(...))` was, on every rank. Raises TrainError as `load_state`."""
    parameters = dict(plain(module).named_parameters())
    optimiser.state.clear()
    for key, value in state.items():
        name, _, what = key.rpartition("/")
        if name not in parameters:
            raise TrainError(f"this optimiser state is of another model: {name} is not in this one; give model.* of that run")
        # Numbers, such as the count of steps, stay on the CPU as AdamW made them.
        whole = value.clone() if value.ndim == 0 else _part_of(value, parameters[name], name).clone()
        optimiser.state[parameters[name]][what] = whole


def _part_of(whole: Tensor, like: Tensor, name: str) -> Tensor:
    """This rank's part of a whole tensor, laid out as `like`; nothing is sent."""
    if whole.shape != like.shape:
        shapes = f"{tuple(whole.shape)} instead of {tuple(like.shape)}"
        raise TrainError(f"these weights are of another model: {name} is {shapes}; give model.* of that run")
    if not isinstance(like, DTensor):
        return whole.to(like.device)
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
