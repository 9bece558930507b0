"""How many workers each pool needs, for a time or for a number of cards.

In: rates, and pools whose numbers of workers do not count. Out: the pools with workers such that all are done in time, or that
the cards are used up, the other pools just keeping up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from materia.base.errors import UserError
from pipeline.capacity.rates import Rates
from pipeline.config import PoolSettings

_BUSY = 0.95
"""Share of the time for which workers of the slowest pool have work, which the engine keeps (simulation.py)."""


def for_hours(pools: Sequence[PoolSettings], rates: Rates, rows: int, hours: float) -> list[PoolSettings]:
    """Pools that are done with so many rows in so many hours. Raises UserError if models alone take longer to load."""
    left_s = hours * 3600 - rates.setup_s
    if left_s <= 0:
        raise UserError(f"--hours {hours:g}: models alone take {rates.setup_s:.0f} s to load")
    return _keeping_up(pools, rates, rows / left_s)


def for_cards(pools: Sequence[PoolSettings], rates: Rates, cards: int) -> list[PoolSettings]:
    """Pools that use so many cards, as evenly as possible; those without cards keep up. Raises UserError for too few."""
    if not any(pool.num_gpus for pool in pools):
        raise UserError("--gpus: no pool of this configuration books a card; plan with --hours, or give one for cards")
    sized = [_with_workers(pool, 1) for pool in pools]
    if (least := _cards(sized)) > cards:
        raise UserError(f"--gpus {cards}: one worker of each pool books {least:g} cards")
    while True:
        slowest = min(
            (number for number, pool in enumerate(sized) if pool.num_gpus and rates.of(pool.stages).seconds),
            key=lambda number: sized[number].workers / rates.of(sized[number].stages).seconds,
        )
        more = [*sized]
        more[slowest] = _with_workers(sized[slowest], sized[slowest].workers + 1)
        if _cards(more) > cards + 1e-9:
            break
        sized = more
    pace = min(pool.workers / taken for pool in sized if pool.num_gpus and (taken := rates.of(pool.stages).seconds))
    kept_up = _keeping_up(pools, rates, pace * _BUSY)
    return [pool if pool.num_gpus else other for pool, other in zip(sized, kept_up, strict=True)]


def _keeping_up(pools: Sequence[PoolSettings], rates: Rates, clips_per_s: float) -> list[PoolSettings]:
    return [_with_workers(pool, max(1, math.ceil(clips_per_s * rates.of(pool.stages).seconds / _BUSY))) for pool in pools]


def _cards(pools: Sequence[PoolSettings]) -> float:
    return sum(pool.workers * pool.num_gpus for pool in pools)


def _with_workers(pool: PoolSettings, workers: int) -> PoolSettings:
    return pool.model_copy(update={"workers": workers})
