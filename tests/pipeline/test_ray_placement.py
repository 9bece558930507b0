"""Pools on a real cluster of unlike nodes: three raylets on this machine, with labels, and with cards that Ray believes in."""

import pytest
from bare_nodes import add_node
from jobs import STUBS, helpers, make_manifest, outcomes, traces, wait_for
from stub_stages import NODE, TRACES

from pipeline.config import Config
from pipeline.job import run_job
from stages.specs import STAGE_ORDER

pytestmark = pytest.mark.ray

VISION = STAGE_ORDER[2:-1]
NODES = {
    "head": {"num_cpus": 2, "resources": {"clip_io": 2}, "labels": {"cards": "none"}},
    "small": {"num_cpus": 2, "num_gpus": 1, "labels": {"cards": "small"}},
    "large": {"num_cpus": 2, "num_gpus": 1, "labels": {"cards": "large"}},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a cluster with one node of each kind, and the folder in which stubs say where they run."""
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("traces")
    started = Cluster()
    try:
        for name, node in NODES.items():
            add_node(started, **node, env_vars={NODE: name, TRACES: str(folder)})
        started.wait_for_nodes()
        yield started.address, folder
    finally:
        started.shutdown()


def config(**entities):
    pools = [
        {"stages": STAGE_ORDER[:1], "num_gpus": 1, "labels": {"cards": "large"}, **entities},
        {"stages": STAGE_ORDER[1:2], "resources": {"clip_io": 1}, "labels": {"cards": "!in(small, large)"}, "workers": 2},
        {"stages": VISION, "num_gpus": 0.5, "labels": {"cards": "small"}, "workers": 2},
        {"stages": STAGE_ORDER[-1:]},
    ]
    pools = [{"num_cpus": 0.1, **pool} for pool in pools]
    return Config.model_validate(
        {"device": "cuda", "engine": {"rows_per_chunk": 4, "rows_per_slice": 2, "min_deadline_s": 5, "pools": pools}}
    )


def run(config, tmp_path, address):
    manifest = make_manifest(tmp_path / "clips", ["a dog"] * 24)
    return run_job(config, input=manifest, output=str(tmp_path / "out"), engine="ray", ray_address=address, stage_factory=STUBS)


def test_workers_run_on_the_nodes_with_their_labels_and_see_the_cards_they_booked(cluster, tmp_path):
    address, folder = cluster
    result = run(config(), tmp_path, address)
    assert result.exit_code == 0, result.message
    assert set(outcomes(tmp_path / "out").values()) == {"sample"}
    wait_for(lambda: not helpers(folder))
    places = {}
    for trace in traces(folder):
        places.setdefault(trace["stage"], []).append((trace["node"], trace["cards"]))
    assert places["entities"] == [("large", "0")]
    assert places["frames"] == [("head", "")] * 2
    assert {stage: places[stage] for stage in VISION} == dict.fromkeys(VISION, [("small", "0")] * 2)  # two share a card
    assert [cards for _, cards in places["cut"]] == [""]
    assert [t["stage"] for t in traces(folder) if not t.get("closed")] == []


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        ({"workers": 2}, "of 2 such workers 1 find room"),
        ({"labels": {"cards": "huge"}}, "labels cards=huge, but no node"),
        ({"resources": {"nvlink": 1}}, "1 nvlink"),
    ],
)
def test_what_the_cluster_cannot_hold_is_refused_at_once(cluster, tmp_path, entities, message):
    result = run(config(**entities), tmp_path, cluster[0])
    assert result.exit_code == 2
    assert message in result.message
    assert "a worker for entities books" in result.message
