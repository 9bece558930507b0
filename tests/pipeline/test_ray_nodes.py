"""A node that goes takes actors and the results of slices with it; the job goes on elsewhere, and no byte changes."""

import threading

import pytest
from bare_nodes import add_node
from jobs import STUBS, contents, make_config, make_manifest, wait_for
from stub_stages import STUB_SECONDS, TRACES

from pipeline.engine.spool import spooled
from pipeline.job import run_job

pytestmark = pytest.mark.ray

SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 5}
"""When the head sees that a node has gone."""
NODE = {"num_cpus": 1, "resources": {"work": 4}, "env_vars": {STUB_SECONDS: "0.1"}}


def config():
    """Two workers a pool, on nodes that are for work."""
    engine = make_config(workers=2).engine
    pools = [pool.model_copy(update={"resources": {"work": 1}}) for pool in engine.pools]
    return make_config(pools=[pool.model_dump() for pool in pools])


@pytest.fixture
def cluster(monkeypatch):
    import materia.base.ray_session  # noqa: F401  # first, because it sets Ray's environment

    # isort: split
    from ray.cluster_utils import Cluster

    monkeypatch.delenv(TRACES, raising=False)
    started = Cluster()
    try:
        add_node(started, num_cpus=1, _system_config=SOON)  # the head; commits run here
        yield started
    finally:
        started.shutdown()


def test_a_node_that_goes_costs_no_row_and_changes_no_byte(cluster, tmp_path):
    manifest = make_manifest(tmp_path / "clips", ["a dog", "a dog [nothing]", "a dog [raise]", "a dog"] * 12)
    job = {"input": manifest, "stage_factory": STUBS}
    assert run_job(make_config(), output=str(tmp_path / "serial"), engine="inline", **job).exit_code == 0
    out = str(tmp_path / "out")
    going, _ = add_node(cluster, **NODE), add_node(cluster, **NODE)
    cluster.wait_for_nodes()

    def lose_a_node():
        wait_for(lambda: spooled(out))
        cluster.remove_node(going, allow_graceful=False)

    meanwhile = threading.Thread(target=lose_a_node)
    meanwhile.start()
    result = run_job(config(), output=out, engine="ray", ray_address=cluster.address, **job)
    meanwhile.join()
    assert result.exit_code == 0, result.message
    assert contents(tmp_path / "out") == contents(tmp_path / "serial")
