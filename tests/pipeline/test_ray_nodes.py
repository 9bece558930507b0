"""A node that goes takes actors and the results of slices with it; the job goes on elsewhere, and no byte changes."""

import sys
import threading
from collections import deque

import pytest
from bare_nodes import add_node
from jobs import STUBS, contents, make_config, make_manifest, wait_for
from stub_stages import STUB_BYTES, STUB_SECONDS, TRACES

from materia.dataset.documents import Provenance
from materia.dataset.layout import committed
from pipeline.engine.messages import JobSpec
from pipeline.engine.spool import plan_folder
from pipeline.job import run_job
from pipeline.plan import make_plan
from stages.specs import STAGE_ORDER

pytestmark = pytest.mark.ray

SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 5}
"""When the head sees that a node has gone."""
NODE = {
    "num_cpus": 1,
    "resources": {"work": 4},
    "object_store_memory": 80 * 2**20,
    "env_vars": {STUB_SECONDS: "0.1", STUB_BYTES: "200000"},
}


def config():
    """Two workers a pool, on nodes that are for work."""
    engine = make_config(workers=2).engine
    pools = [pool.model_copy(update={"resources": {"work": 1}}) for pool in engine.pools]
    return make_config(pools=[pool.model_dump() for pool in pools], rows_per_chunk=32)


@pytest.fixture(scope="module")
def head():
    import materia.base.ray_session  # noqa: F401  # first, because it sets Ray's environment

    # isort: split
    from ray.cluster_utils import Cluster

    started = Cluster()
    try:
        add_node(started, num_cpus=1, _system_config=SOON)  # the head; commits run here
        yield started
    finally:
        started.shutdown()


@pytest.fixture
def cluster(head, monkeypatch):
    """Only its head; a test adds nodes for work."""
    monkeypatch.delenv(TRACES, raising=False)
    monkeypatch.setenv(STUB_BYTES, NODE["env_vars"][STUB_BYTES])
    yield head
    for node in list(head.worker_nodes):
        head.remove_node(node)


def test_a_node_that_goes_costs_no_row_and_changes_no_byte(cluster, tmp_path):
    manifest = make_manifest(tmp_path / "clips", ["a dog", "a dog [nothing]", "a dog [raise]", "a dog"] * 16)
    job = {"input": manifest, "stage_factory": STUBS}
    assert run_job(config(), output=str(tmp_path / "serial"), engine="inline", **job).exit_code == 0
    timings = tmp_path / "out/_run/timings.jsonl"
    nodes = [add_node(cluster, **NODE) for _ in range(2)]
    cluster.wait_for_nodes()

    def lose_a_node():
        import ray

        wait_for(lambda: timings.exists() and len(timings.read_text().splitlines()) >= 5)  # of the first chunk's 8
        actors = ray._private.state.actors().values()
        at_work = {actor["Address"]["NodeID"] for actor in actors if actor["State"] == "ALIVE"}
        cluster.remove_node(next(node for node in nodes if node.node_id in at_work), allow_graceful=False)

    meanwhile = threading.Thread(target=lose_a_node)
    meanwhile.start()
    result = run_job(config(), output=str(tmp_path / "out"), engine="ray", ray_address=cluster.address, **job)
    meanwhile.join()
    assert result.exit_code == 0, result.message
    assert "preempted" in result.message and "killed" not in result.message
    assert contents(tmp_path / "out") == contents(tmp_path / "serial")


def test_slices_that_went_with_their_node_before_the_commit_are_made_again(cluster, tmp_path):
    from pipeline.engine.ray_runner import RayRunner

    out, settings = str(tmp_path / "out"), config()
    manifest = make_manifest(tmp_path / "clips", ["a dog"] * 8)
    plan = make_plan(manifest, plan_folder(out), settings.source, 8, 4)
    provenance = Provenance("0" * 64, dict.fromkeys(STAGE_ORDER[:-1], "0" * 64))
    job = JobSpec(settings.model_dump_json().encode(), out, provenance, STUBS, [entry for entry in sys.path if entry])
    going = add_node(cluster, **NODE)
    cluster.wait_for_nodes()
    runner = RayRunner(job, plan, settings.engine, cluster.address, tell=lambda text: None)
    try:
        assert sum(report is not None for report in runner.reports(deque([0, 1]))) == 2
        cluster.remove_node(going, allow_graceful=False)
        add_node(cluster, **NODE)
        cluster.wait_for_nodes()
        runner.commit(0).result(timeout=100)
    finally:
        runner.close()
    assert committed(out) == {0}
