"""How long a job takes, what it moves, and what it costs: arithmetic over what a clip costs (rates.py) and pools of workers.

A pool's pace is its workers over the seconds of one of them for a clip, the job's that of the slowest pool, and never more than
the CPUs of the machine can do, where all is on one. simulation.py says how far from that the engine stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pipeline.capacity.rates import Rates, StageRate
from pipeline.cluster.settings import Prices
from pipeline.config import Config
from pipeline.pools import Pool, pools_of
from stages.records import StageName

_PART_BYTES = 50 * 10**6
_PARTS_FROM_BYTES = 100 * 10**6  # a larger shard goes to a store in parts
_TABLES = 3  # of a chunk: index, instances, rejects
_RECORDS = 2  # a commit record; ledger and lease
_READS = 2  # of a clip: to look at it, and to cut it
_LOOKS = 2  # HEADs of a clip
_TELLING = 0.01  # a change that brings less is not told of


class PoolForecast(msgspec.Struct, frozen=True):
    """`seconds`: of a worker for a clip; `busy`: the share of the time for which the workers have work; `cpus`, `cards`: booked
    by all of them; `busy_cpus`: that they keep busy."""

    stages: list[StageName]
    workers: int
    seconds: float
    clips_per_s: float
    busy: float
    cpus: float
    cards: float
    busy_cpus: float


class Change(msgspec.Struct, frozen=True):
    """Something that could be otherwise, and the pace then."""

    what: str
    clips_per_s: float


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """Of a job of `rows` clips. `bottleneck`: in words. `requests`: to the store, by kind. `bytes_in`: each clip is read twice.
    `money`: by what it is paid for; empty without prices. `changes`: those that would bring most, the best first."""

    rows: int
    pools: list[PoolForecast]
    bottleneck: str
    clips_per_s: float
    hours: float
    clips_per_card_hour: float | None
    cards: float
    cpus: float
    shards: int
    samples: int
    bytes_in: int
    bytes_out: int
    requests: dict[str, int]
    money: dict[str, float]
    currency: str
    changes: list[Change]
    rates: Rates


def forecast(config: Config, rates: Rates, rows: int, *, cores: int | None = None, prices: Prices | None = None) -> Forecast:
    """Of the pools as configured. `cores`: of the machine that runs all of them; None: a cluster that has what they need."""
    pools = pools_of(config.engine.pools)
    pace, bottleneck = _pace(pools, rates, cores)
    found = [_pool(pool, rates, pace) for pool in pools]
    cards, cpus = sum(pool.cards for pool in found), sum(pool.cpus for pool in found)
    seconds = rates.setup_s + rows / pace
    hours = seconds / 3600
    shards = -(-rows // config.engine.rows_per_chunk)
    bytes_in, bytes_out = round(_READS * rows * rates.bytes_in), round(rows * rates.bytes_out)
    requests = _requests(config, rates, rows, shards)
    return Forecast(
        rows=rows,
        pools=found,
        bottleneck=bottleneck,
        clips_per_s=round(pace, 4),
        hours=round(hours, 4),
        clips_per_card_hour=round(pace * 3600 / cards, 1) if cards else None,
        cards=cards,
        cpus=cpus,
        shards=shards,
        samples=round(rows * rates.kept),
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        requests=requests,
        money=_money(prices, hours, cards, cpus, requests) if prices else {},
        currency=prices.currency if prices else "",
        changes=_changes(pools, rates, cores, pace),
        rates=rates,
    )


def _pace(pools: Sequence[Pool], rates: Rates, cores: int | None) -> tuple[float, str]:
    """Clips a second, and what bounds them."""
    taken = [(pool, seconds) for pool in pools if (seconds := rates.of(pool.stages).seconds)]
    bounds = [(pool.workers / seconds, f"the pool of {', '.join(pool.stages)}") for pool, seconds in taken]
    if cores is not None and (cpu_s := rates.of(rates.stages).cpu_s):
        bounds.append((cores / cpu_s, f"this machine's {cores} cores"))
    return min(bounds, default=(float("inf"), "nothing"))


def _pool(pool: Pool, rates: Rates, pace: float) -> PoolForecast:
    taken = rates.of(pool.stages)
    own = pool.workers / taken.seconds if taken.seconds else float("inf")
    return PoolForecast(
        stages=pool.stages,
        workers=pool.workers,
        seconds=round(taken.seconds, 6),
        clips_per_s=round(own, 4),
        busy=round(pace / own, 4),
        cpus=round(pool.workers * pool.cpus, 3),
        cards=round(pool.workers * pool.cards, 3),
        busy_cpus=round(pace * taken.cpu_s, 2),
    )


def _requests(config: Config, rates: Rates, rows: int, shards: int) -> dict[str, int]:
    """As `python -m tools.count_requests` counts them, see docs/bounds.md."""
    slices = -(-rows // config.engine.rows_per_slice)
    of_shard = rows * rates.bytes_out / shards if shards else 0.0
    parts = 1 if of_shard <= _PARTS_FROM_BYTES else 2 + round(of_shard / _PART_BYTES)
    return {"GET": _READS * rows + slices, "HEAD": _LOOKS * rows, "PUT": shards * (parts + _TABLES + _RECORDS), "LIST": shards}


def _money(prices: Prices, hours: float, cards: float, cpus: float, requests: dict[str, int]) -> dict[str, float]:
    reads = requests["GET"] + requests["HEAD"]
    writes = requests["PUT"] + requests["LIST"]
    return {
        "cards": round(hours * cards * prices.card_hour, 2),
        "CPUs": round(hours * cpus * prices.cpu_hour, 2),
        "requests": round((reads * prices.thousand_reads + writes * prices.thousand_writes) / 1000, 2),
    }


def _changes(pools: Sequence[Pool], rates: Rates, cores: int | None, pace: float) -> list[Change]:
    """What one thing more, or one stage in half the time, would bring."""
    found = []
    for number, pool in enumerate(pools):
        more = max(1, pool.workers // 4)
        others = [*pools]
        others[number] = msgspec.structs.replace(pool, workers=pool.workers + more)
        words = f"{more} more {'worker' if more == 1 else 'workers'} for {', '.join(pool.stages)}"
        found.append(Change(words, _pace(others, rates, cores)[0]))
    for stage, rate in rates.stages.items():
        half = rates.stages | {stage: StageRate(rate.seconds / 2, rate.cpu_s / 2)}
        quicker = msgspec.structs.replace(rates, stages=half)
        found.append(Change(f"{stage} in half the time", _pace(pools, quicker, cores)[0]))
    if cores is not None:
        found.append(Change(f"{2 * cores} cores instead of {cores}", _pace(pools, rates, 2 * cores)[0]))
    found = [change for change in found if change.clips_per_s > (1 + _TELLING) * pace]
    return sorted(found, key=lambda change: -change.clips_per_s)[:4]
