"""`materia plan`: what clips cost is measured with the real workers, and what follows from it is right."""

import json

import msgspec
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from jobs import STUBS, make_config, make_manifest

from materia.base.errors import UserError
from materia.cli.main import main
from pipeline.capacity.forecast import forecast
from pipeline.capacity.measure import measure
from pipeline.capacity.rates import Rates, StageRate, read_rates
from pipeline.capacity.simulation import SimulatedPool, simulate
from pipeline.capacity.sizing import for_cards, for_hours
from pipeline.cluster.settings import Prices
from pipeline.config import Config, load_config
from stages.specs import STAGE_ORDER

CARD_STAGES = ("localise", "link", "segment", "faces", "background")
SECONDS = dict.fromkeys(STAGE_ORDER, 0.0) | {"entities": 0.02, "frames": 0.08, "localise": 0.04, "segment": 0.06, "cut": 0.05}


def rates_of(seconds, **more):
    return Rates(stages={stage: StageRate(took, took) for stage, took in seconds.items()}, **more)


def config_of(*workers, cards=0.0, of_chunk=100):
    stages = [("entities",), ("frames",), CARD_STAGES, ("cut",)]
    pools = [{"stages": these, "workers": count, "num_cpus": 1.0} for these, count in zip(stages, workers, strict=True)]
    pools[2]["num_gpus"] = cards
    engine = {"rows_per_chunk": of_chunk, "rows_per_slice": 10, "pools": pools}
    return Config.model_validate({"device": "cuda" if cards else "cpu", "entities": {"device": "cpu"}, "engine": engine})


def test_the_slowest_pool_makes_the_pace_and_what_would_help_most_is_told_first():
    rates = rates_of(SECONDS, kept=0.5, bytes_in=2e6, bytes_out=1e6, setup_s=36.0)
    found = forecast(config_of(1, 2, 1, 1, cards=0.5), rates, 36_000)
    assert found.bottleneck == "the pool of localise, link, segment, faces, background"
    assert found.clips_per_s == 10 and found.hours == pytest.approx(1.01)
    assert [pool.busy for pool in found.pools] == pytest.approx([0.2, 0.4, 1.0, 0.5])
    assert (found.shards, found.samples, found.cards, found.clips_per_card_hour) == (360, 18_000, 0.5, 72_000)
    assert (found.bytes_in, found.bytes_out) == (2 * 72 * 10**9, 36 * 10**9)
    assert found.requests == {"GET": 75_600, "HEAD": 72_000, "PUT": 360 * 6, "LIST": 360}
    assert [(change.what, change.clips_per_s) for change in found.changes] == [
        ("1 more worker for localise, link, segment, faces, background", 20.0),
        ("segment in half the time", pytest.approx(1 / 0.07)),
        ("localise in half the time", pytest.approx(1 / 0.08)),
    ]


def test_one_machine_does_no_more_than_its_cores():
    found = forecast(config_of(8, 8, 8, 8), rates_of(SECONDS), 1000, cores=2)
    assert found.bottleneck == "this machine's 2 cores" and found.clips_per_s == 8
    assert found.changes[0].what == "4 cores instead of 2"


def test_money_is_of_what_is_booked():
    prices = Prices(card_hour=2.0, cpu_hour=0.1, thousand_reads=0.0004, thousand_writes=0.005)
    found = forecast(config_of(1, 2, 1, 1, cards=0.5), rates_of(SECONDS), 3_600_000, prices=prices)
    assert found.hours == 100
    assert found.money == {"cards": 100.0, "CPUs": 50.0, "requests": round(0.0004 * 14_760 + 0.005 * (6 + 1) * 36, 2)}


seconds = st.fixed_dictionaries({stage: st.sampled_from([0.0, 0.003, 0.05, 0.4, 7.0]) for stage in STAGE_ORDER}).filter(
    lambda found: any(found[stage] for stage in CARD_STAGES)
)


@given(seconds=seconds, rows=st.integers(1, 10**9), hours=st.sampled_from([0.5, 48, 1000]))
def test_workers_for_a_time_are_enough_and_none_is_too_many(seconds, rows, hours):
    rates = rates_of(seconds, setup_s=60)
    sized = for_hours(config_of(9, 9, 9, 9).engine.pools, rates, rows, hours)
    need = rows / (hours * 3600 - 60)
    for pool in sized:
        taken = sum(seconds[stage] for stage in pool.stages)
        assert pool.workers >= need * taken
        assert pool.workers == 1 or (pool.workers - 1) * 0.95 < need * taken * (1 + 1e-9)


@given(seconds=seconds, cards=st.integers(1, 500), share=st.sampled_from([0.25, 0.5, 1.0]))
def test_workers_for_so_many_cards_use_them_up_and_the_other_pools_keep_up(seconds, cards, share):
    config = config_of(1, 1, 1, 1, cards=share)
    sized = for_cards(config.engine.pools, rates_of(seconds), cards)
    assert cards - share < sum(pool.workers * pool.num_gpus for pool in sized) <= cards
    paces = [pool.workers / taken for pool in sized if (taken := sum(seconds[stage] for stage in pool.stages))]
    assert min(paces) >= 0.95 * sized[2].workers / sum(seconds[stage] for stage in CARD_STAGES)


def test_what_cannot_be_sized_says_why():
    with pytest.raises(UserError, match="no pool of this configuration books a card"):
        for_cards(config_of(1, 1, 1, 1).engine.pools, rates_of(SECONDS), 8)
    with pytest.raises(UserError, match="one worker of each pool books 4 cards"):
        for_cards(config_of(1, 1, 1, 1, cards=4).engine.pools, rates_of(SECONDS), 2)
    with pytest.raises(UserError, match="models alone take 7200 s to load"):
        for_hours(config_of(1, 1, 1, 1).engine.pools, rates_of(SECONDS, setup_s=7200), 10, 1)


def test_the_engine_in_simulated_time_keeps_the_pace_that_is_planned():
    pools = config_of(12, 41, 51, 25).engine.pools
    planned = forecast(config_of(12, 41, 51, 25), rates_of(SECONDS), 1).clips_per_s
    taken = [sum(SECONDS[stage] for stage in pool.stages) for pool in pools]
    simulated = simulate(
        [SimulatedPool(pool.workers, 10 * took) for pool, took in zip(pools, taken, strict=True)], 6000, slices_per_chunk=10
    )
    assert 10 * 6000 / simulated.wall_s == pytest.approx(planned, rel=0.05)
    assert max(simulated.busy) >= 0.95


def test_rates_are_read_from_a_plan_and_the_networks_of_a_card_from_the_check(tmp_path):
    rates = rates_of({"entities": 0.5, "localise": 9.0}, kept=0.7)
    plan = tmp_path / "plan.json"
    plan.write_bytes(msgspec.json.encode({"rows": 1, "rates": rates}))
    assert read_rates(plan).kept == 0.7 and read_rates(plan).stages == rates.stages
    rows = [
        {"network": "GroundingDINO Swin-T", "dtype": "float32", "whole_ms": 80.0},
        {"network": "GroundingDINO Swin-T", "dtype": "bfloat16", "whole_ms": 40.0},
        {"network": "SAM vit_b", "whole_ms": 30.0},
        {"network": "big-LaMa", "whole_ms": 25.0},
    ]
    check = tmp_path / "results.json"
    check.write_text(json.dumps({"steps": [{"name": "card", "rows": []}, {"name": "networks", "rows": rows}]}))
    found = {stage: rate.seconds for stage, rate in read_rates(check).stages.items()}
    assert found == {"localise": 0.12, "segment": 0.09, "background": 0.025}
    both = read_rates(plan).with_others(read_rates(check))
    assert both.of(["localise", "entities"]).seconds == 0.62
    assert both.origin["segment"].endswith("results.json") and "frames" in both.lacking()


@pytest.mark.parametrize("text", ["{}", "[]", "no", '{"steps": []}', '{"stages": {"sing": {"seconds": 1}}}', '{"stages": 3}'])
def test_a_file_that_has_no_rates_is_one_line(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UserError, match=r"r\.json"):
        read_rates(tmp_path / "r.json")


def test_networks_have_the_names_by_which_the_check_calls_them():
    """tools/gpu_check needs torch and its packages to be imported; its words are looked up."""
    from pathlib import Path

    text = Path("tools/gpu_check/networks.py").read_text()
    for name in ("GroundingDINO Swin-T", "SAM ViT", "big-LaMa"):
        assert f'"{name}' in text, name


def test_slices_from_the_whole_manifest_are_measured_with_the_real_workers(tmp_path):
    manifest = make_manifest(tmp_path / "clips", ["a dog", "a dog [slow]", "a dog"] * 10)
    config = config_of(2, 1, 2, 1)
    told = []
    rates, rows = measure(config, manifest, 20, stage_factory="test_capacity:sleepers", tell=told.append)
    assert rows == 30 and not rates.lacking()
    frames_s, masks_s = (rates.stages[stage].seconds for stage in ("frames", "segment"))
    assert 0.05 <= frames_s < 0.15 and 1.2 < frames_s / masks_s < 4  # beside other tests
    assert rates.stages["frames"].cpu_s < 0.02
    assert rates.kept == 1.0 and rates.bytes_out > 100 and rates.bytes_in > 0
    assert told[0] == "reading the manifest" and any("20 clips" in text for text in told)


def test_clips_of_which_none_is_kept_tell_nothing_of_later_stages_and_that_is_said(tmp_path):
    manifest = make_manifest(tmp_path / "clips", ["a dog [nothing]"] * 8)
    with pytest.raises(UserError, match=r"none of the 8 clips .* was kept \(no_subject 8\).*--clips"):
        measure(make_config(), manifest, 8, stage_factory=STUBS)


def test_a_machine_without_the_models_is_told_so_in_plain_words(tmp_path, monkeypatch):
    monkeypatch.setenv("MATERIA_CACHE", str(tmp_path))
    manifest = make_manifest(tmp_path / "clips", ["a dog"])
    result = CliRunner().invoke(main, ["plan", "--config", "local", "--input", manifest])
    assert result.exit_code == 2 and "error: this machine lacks what the configuration needs" in result.output


def sleepers(config, names):
    """Stages that take 50 ms a clip where frames are decoded, 20 ms for masks."""
    import time

    from tools.bench_pipeline import Stub

    class Sleeper(Stub):
        def process(self, samples):
            time.sleep({"frames": 0.05, "segment": 0.02}.get(self.name, 0.0) * len(samples))
            return super().process(samples)

    return [Sleeper(name) for name in names]


def test_the_command_plans_from_a_file_chooses_workers_and_writes_a_configuration_that_runs_them(tmp_path):
    (tmp_path / "rates.json").write_bytes(msgspec.json.encode(rates_of(SECONDS, bytes_in=1e6, bytes_out=2e6)))
    (tmp_path / "cluster.yaml").write_text("prices: {card_hour: 3, currency: EUR}\n")
    told = ["plan", "--config", "cluster", "--rates", str(tmp_path / "rates.json"), "--rows", "100000000", "--gpus", "64"]
    more = ["--cluster", str(tmp_path / "cluster.yaml"), "--write", str(tmp_path / "mine.yaml")]
    result = CliRunner().invoke(main, [*told, *more])
    assert result.exit_code == 0, result.output
    assert "EUR: cards" in result.output and "bounded by the pool of" in result.output
    assert "the pools keep step" in result.output
    found = json.loads(CliRunner().invoke(main, [*told, "--json"]).output)
    pools = load_config(tmp_path / "mine.yaml").engine.pools
    assert [pool.workers for pool in pools] == [pool["workers"] for pool in found["pools"]]
    assert 63 <= sum(pool.workers * pool.num_gpus for pool in pools) <= 64
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["localise"]["backend"] == "groundingdino"
    assert CliRunner().invoke(main, [*told, *more]).exit_code == 0  # its own file
    (tmp_path / "mine.yaml").write_text("base: local\n")
    refused = CliRunner().invoke(main, [*told, *more])
    assert refused.exit_code == 2 and "mine.yaml is there already" in refused.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--input is missing; or give --rates of all stages, and --rows"),
        (["--input", "x", "--gpus", "8", "--hours", "2"], "one follows from the other"),
        (["--rates", "r.json", "--rows", "9"], "r.json does not tell what frames, localise, link"),
        (["--input", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--rates", "r.json", "--rows", "9", "--input", "x", "--cluster", "c.yaml"], "c.yaml has no section `prices:`"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.json").write_bytes(msgspec.json.encode(rates_of({"entities": 0.1})))
    (tmp_path / "c.yaml").write_text("ray: {}\n")
    result = CliRunner().invoke(main, ["plan", "--config", "local", *arguments])
    assert result.exit_code == 2 and words in result.output.replace("\n", " ")
