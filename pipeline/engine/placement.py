"""Whether a cluster holds all pools at once, asked before a job starts: Ray would wait for ever and say nothing.

In: pools, and the nodes as Ray lists them. Out: nothing, or an `UnschedulableError` that names the pool, what its workers need
and what there is. Workers are placed one by one, the most demanding pools first, so that a yes is true: a placement was found.
Cards are counted one by one too, because Ray never puts a worker on halves of two cards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pipeline.config import PoolSettings
from stages.specs import STAGE_ORDER

COMMIT_CPUS = 0.1
"""CPUs booked by a task that commits a chunk on a cluster, anywhere; mostly it waits."""

_EPSILON = 1e-6


class UnschedulableError(RuntimeError):
    """The cluster cannot hold all pools at once."""


@dataclass
class Node:
    """What a node still has: `free` CPUs and custom resources by name, `cards` the free share of each GPU; and its labels."""

    free: dict[str, float]
    cards: list[float]
    labels: dict[str, str]


def nodes_of(listed: Iterable[Mapping[str, Any]]) -> list[Node]:
    """Nodes that are alive, from what `ray.nodes()` gives."""
    alive = [node for node in listed if node["Alive"]]
    return [Node(dict(node["Resources"]), [1.0] * int(node["Resources"].get("GPU", 0)), dict(node["Labels"])) for node in alive]


def check_placement(pools: Sequence[PoolSettings], nodes: Sequence[Node]) -> None:
    """Find a place for every worker and for a commit. Raises UnschedulableError."""
    room = deepcopy(nodes)
    for pool in sorted(pools, key=_most_demanding_first):
        # Ray, too, keeps workers without a card off the nodes that have some
        suitable = sorted((node for node in room if _matches(node, pool.labels)), key=lambda node: len(node.cards))
        for placed in range(pool.workers):
            if not any(_take(node, pool.num_cpus, pool.num_gpus, pool.resources) for node in suitable):
                raise UnschedulableError(_refusal(pool, placed, [node for node in nodes if _matches(node, pool.labels)]))
    if not any(_take(node, COMMIT_CPUS, 0, {}) for node in room):
        raise UnschedulableError(
            f"engine.pools book all of Ray: {_sum(nodes)}; {COMMIT_CPUS:g} CPUs must stay free for commits: lower workers or"
            " num_cpus"
        )


def nodes_needed(pools: Sequence[PoolSettings], shapes: Sequence[Node]) -> list[int]:
    """How many nodes of each shape hold all pools and a commit at once; a worker goes to the first shape that takes it.

    Raises UnschedulableError if a worker fits no shape, empty as it is.
    """
    room: list[Node] = []
    needed = [0] * len(shapes)
    commit = PoolSettings(stages=STAGE_ORDER, num_cpus=COMMIT_CPUS)
    for pool in [*sorted(pools, key=_most_demanding_first), commit]:
        for _ in range(pool.workers):
            if any(_matches(node, pool.labels) and _take(node, pool.num_cpus, pool.num_gpus, pool.resources) for node in room):
                continue
            for number, shape in enumerate(shapes):
                node = deepcopy(shape)
                if _matches(node, pool.labels) and _take(node, pool.num_cpus, pool.num_gpus, pool.resources):
                    needed[number] += 1
                    room.append(node)
                    break
            else:
                raise UnschedulableError(_refusal(pool, 0, [shape for shape in shapes if _matches(shape, pool.labels)]))
    return needed


def _most_demanding_first(pool: PoolSettings) -> tuple[bool, bool, float, float]:
    return not pool.labels, not pool.resources, -pool.num_gpus, -pool.num_cpus


def _matches(node: Node, labels: Mapping[str, str]) -> bool:
    """Ray's label selectors: "a", "!a", "in(a, b)", "!in(a, b)"; a node without the label has no value."""
    for name, selector in labels.items():
        listed = re.fullmatch(r"in\((.*)\)", selector.removeprefix("!"))
        values = re.split(r",\s*", listed[1]) if listed else [selector.removeprefix("!")]
        if (node.labels.get(name) in values) == selector.startswith("!"):
            return False
    return True


def _take(node: Node, cpus: float, gpus: float, resources: Mapping[str, float]) -> bool:
    """Book a worker on a node, if it has room."""
    wanted = {"CPU": cpus, **resources}
    cards = _cards(node.cards, gpus)
    if cards is None or any(node.free.get(name, 0.0) + _EPSILON < amount for name, amount in wanted.items()):
        return False
    for name, amount in wanted.items():
        node.free[name] = node.free.get(name, 0.0) - amount
    for card in cards:
        node.cards[card] -= min(gpus, 1.0)
    return True


def _cards(free: list[float], gpus: float) -> list[int] | None:
    """Numbers of the cards that a worker would get: the fullest with room for its part of one, or whole ones."""
    share = min(gpus, 1.0)
    fullest_first = sorted((left, card) for card, left in enumerate(free) if left + _EPSILON >= share)
    count = 1 if 0 < gpus < 1 else int(gpus)
    return [card for _, card in fullest_first[:count]] if len(fullest_first) >= count else None


def _refusal(pool: PoolSettings, placed: int, suitable: Sequence[Node]) -> str:
    labels = ",".join(f"{name}={value}" for name, value in pool.labels.items())
    books = {"CPUs": pool.num_cpus, "GPUs": pool.num_gpus, **pool.resources}
    needs = ", ".join(f"{amount:g} {name}" for name, amount in books.items() if amount)
    worker = f"a worker for {', '.join(pool.stages)} books {needs}" + (f" on a node with labels {labels}" if labels else "")
    if not suitable:
        return f"engine.pools: {worker}, but no node of the cluster has them; start one with `ray start --labels`"
    return (
        f"engine.pools: {worker}; of {pool.workers} such workers {placed} find room beside the other pools. Ray has"
        f" {_sum(suitable)} on {len(suitable)} node(s){' with these labels' if labels else ''}; lower workers or their needs,"
        " add nodes, or give the --ray-address of a larger cluster"
    )


def _sum(nodes: Sequence[Node]) -> str:
    """What nodes have together, e.g. "8 CPUs, 2 GPUs, 4 clip_io"."""
    internal = re.compile(r"node:|memory$|object_store_memory$|accelerator_type:|GPU$|CPU$")
    names = sorted({name for node in nodes for name in node.free if not internal.match(name)})
    totals = {
        "CPUs": sum(node.free.get("CPU", 0.0) for node in nodes),
        "GPUs": sum(sum(node.cards) for node in nodes),
        **{name: sum(node.free.get(name, 0.0) for node in nodes) for name in names},
    }
    return ", ".join(f"{amount:g} {name}" for name, amount in totals.items())
