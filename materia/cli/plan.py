"""`materia plan`: how long a job will take, on how many workers, and what it costs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from materia.cli.shared import Command, config_option, guarded, json_option, print_table, set_option

if TYPE_CHECKING:
    from pipeline.capacity.forecast import Forecast, PoolForecast
    from pipeline.capacity.rates import Rates
    from pipeline.config import Config

EXAMPLES = """\b
Examples:
  materia plan --config local --input clips.jsonl
  materia plan --config gpu --input clips.jsonl --json > rates.json        # on one GPU node
  materia plan --config cluster --rates rates.json --rows 100000000 --gpus 64 --write my-cluster.yaml
  materia plan --config cluster --rates rates.json --rows 100000000 --hours 48 --cluster cluster.yaml
"""


@click.command(cls=Command, epilog=EXAMPLES)
@config_option("local")
@click.option("--input", "input_address", help="As of `materia run`; some of its clips are measured on this machine.")
@click.option("--clips", type=click.IntRange(1), default=64, show_default=True, help="How many of them, spread evenly.")
@click.option(
    "--rates",
    "rates_path",
    type=click.Path(),
    metavar="FILE",
    help="What stages take: JSON of a plan, or of the GPU check.",
)
@click.option("--rows", type=click.IntRange(1), help="Of the whole job; default: those of --input.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="Choose workers such that it is done in this time.")
@click.option("--gpus", type=click.IntRange(1), help="Choose workers such that they use so many cards.")
@click.option("--cluster", "cluster_path", type=click.Path(), metavar="FILE", help="YAML: its section `prices:` gives money.")
@click.option("--write", "write_path", type=click.Path(), metavar="FILE", help="Write a configuration with these workers.")
@set_option
@json_option
def plan(
    config_path: str,
    input_address: str | None,
    clips: int,
    rates_path: str | None,
    rows: int | None,
    hours: float | None,
    gpus: int | None,
    cluster_path: str | None,
    write_path: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """How long a job will take, on how many workers, what it moves, what it costs, and what would change that most.

    Stages are measured on some clips of --input, on this machine; what --rates knows of a stage counts instead.
    """
    if hours is not None and gpus is not None:
        raise click.UsageError("--hours and --gpus: one follows from the other")
    if input_address is None and (rates_path is None or rows is None):
        raise click.UsageError("--input is missing; or give --rates of all stages, and --rows")
    import msgspec

    from pipeline.capacity.forecast import forecast
    from pipeline.cluster.settings import load_prices
    from pipeline.config import load_config

    config = guarded(lambda: load_config(config_path, overrides))
    prices = guarded(lambda: None if cluster_path is None else load_prices(cluster_path))
    rates, counted = guarded(lambda: _rates(config, input_address, clips, rates_path, rows))
    total = rows or counted
    sized = guarded(lambda: _sized(config, rates, total, hours, gpus))
    found = forecast(sized, rates, total, cores=_cores(sized, rates_path, hours, gpus), prices=prices)
    if write_path is not None:
        guarded(lambda: _write(Path(write_path), sized))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        _print(found)


def _rates(config: Config, input_address: str | None, clips: int, path: str | None, rows: int | None) -> tuple[Rates, int]:
    """Measured, read, or both; and the rows of the input, 0 if it was not counted."""
    from materia.base.errors import UserError
    from pipeline.capacity.measure import measure
    from pipeline.capacity.rates import read_rates

    known = read_rates(path) if path is not None else None
    if known is not None and not known.lacking() and rows is not None:
        return known, 0
    if input_address is None:
        assert known is not None
        raise UserError(f"{path} does not tell what {', '.join(known.lacking())} take; give --input, to measure them here")
    first_rows = None if rows is None else max(clips, min(rows, 100 * clips))
    measured, counted = measure(
        config, input_address, clips, first_rows=first_rows, cards=_cards(config), tell=lambda text: click.echo(text, err=True)
    )
    return (measured if known is None else measured.with_others(known)), counted


def _cards(config: Config) -> int:
    """Of this machine, as far as torch sees them; it is not asked if no pool wants one."""
    if not any(pool.num_gpus for pool in config.engine.pools):
        return 0
    try:
        import torch
    except ImportError:
        return 0
    return int(torch.cuda.device_count())


def _cores(config: Config, rates_path: str | None, hours: float | None, gpus: int | None) -> int | None:
    """Of this machine, if the job as configured would run on it; None: on a cluster."""
    cores = os.cpu_count() or 1
    booked = sum(pool.workers * pool.num_cpus for pool in config.engine.pools)
    return cores if rates_path is None and hours is None and gpus is None and booked <= cores else None


def _sized(config: Config, rates: Rates, rows: int, hours: float | None, gpus: int | None) -> Config:
    from pipeline.capacity.sizing import for_cards, for_hours

    pools = config.engine.pools
    if hours is not None:
        pools = tuple(for_hours(pools, rates, rows, hours))
    elif gpus is not None:
        pools = tuple(for_cards(pools, rates, gpus))
    return config.model_copy(update={"engine": config.engine.model_copy(update={"pools": pools})})


def _write(path: Path, config: Config) -> None:
    import yaml

    from materia.base.errors import UserError

    ours = "# Written by `materia plan`"
    if path.exists() and not path.read_text(encoding="utf-8").startswith(ours):
        raise UserError(f"--write: {path} is there already, and not ours; choose another name")
    head = f"{ours}; the number of workers follows from what clips take.\n"
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    path.write_text(head + text, encoding="utf-8")


def _print(found: Forecast) -> None:
    from materia.base.terminal import duration

    columns = ["stages", "workers", "CPUs", "cards", "s of a worker, a clip", "clips/s", "busy"]
    print_table(columns, (_cells(pool) for pool in found.pools))
    per_card = f", {found.clips_per_card_hour:,.0f} a card and hour" if found.clips_per_card_hour else ""
    requests = ", ".join(f"{kind} {count:,}" for kind, count in found.requests.items())
    lines = [
        f"\n{found.rows:,} rows in {duration(3600 * found.hours)}, {found.clips_per_s:.4g} clips/s{per_card}",
        f"bounded by {found.bottleneck}",
        f"{found.samples:,} samples in {found.shards:,} {'shard' if found.shards == 1 else 'shards'}",
        f"reads {_bytes(found.bytes_in)}, writes {_bytes(found.bytes_out)}; requests to a store: {requests}",
    ]
    if found.money:
        paid = ", ".join(f"{what} {amount:,.2f}" for what, amount in found.money.items())
        lines.append(f"costs {sum(found.money.values()):,.2f} {found.currency}: {paid}")
    if found.changes:
        lines.append("what would change it most:")
        lines += [f"  {change.what}: {change.clips_per_s:.4g} clips/s" for change in found.changes]
    else:
        lines.append("the pools keep step: no single change would bring more than 1 %")
    click.echo("\n".join(lines))


def _cells(pool: PoolForecast) -> list[str]:
    return [
        ", ".join(pool.stages),
        f"{pool.workers:,}",
        f"{pool.cpus:g}",
        f"{pool.cards:g}",
        f"{pool.seconds:.4g}",
        f"{pool.clips_per_s:.4g}",
        f"{100 * pool.busy:.0f} %",
    ]


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"
