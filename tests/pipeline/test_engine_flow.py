"""The books of the runner on Ray, held against a simulation: every slice arrives, nothing starves, what waits is bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.capacity.simulation import SimulatedPool, simulate

OF_CHUNK = 16
WORKERS = (2, 6, 2, 3)
FEW = 2 * sum(WORKERS) + sum(WORKERS[1:-1])
"""Slices on their way that nobody can do without: one and the next for each worker, and what is being made meanwhile."""


pools = st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0.1, 1.0, 10.0]), st.integers(0, 100)), min_size=1, max_size=4)


@given(pools=pools, bound=st.sampled_from([0, 50, 1000, 10**6]), commit_s=st.sampled_from([0.0, 3.0, 100.0]), data=st.data())
def test_every_slice_arrives_once_however_small_the_bound_and_whatever_is_lost(pools, bound, commit_s, data):
    n_slices = data.draw(st.integers(0, 70))
    lost = data.draw(st.sets(st.integers(0, 70), max_size=5))
    made_of = [SimulatedPool(*pool) for pool in pools]
    simulated = simulate(made_of, n_slices, slices_per_chunk=OF_CHUNK, bound=bound, commit_s=commit_s, loses=lost)
    assert sorted(simulated.finished) == list(range(n_slices))


@pytest.mark.parametrize("seconds", [(0.1, 0.2, 4.0, 0.3), (0.1, 9.0, 2.0, 0.3), (0.1, 6.0, 2.0, 3.9)])
@pytest.mark.parametrize("bound_slices", [20, 40, 1000])
def test_the_slowest_pool_is_never_idle_and_what_waits_is_bounded(seconds, bound_slices):
    """Language model, decoding, card, cutting, as configs/cluster.yaml spreads them; a slice is 64 MB once it is decoded."""
    size = 64
    pools = [SimulatedPool(*pool) for pool in zip(WORKERS, seconds, [0, size, size, size], strict=True)]
    simulated = simulate(pools, 640, slices_per_chunk=OF_CHUNK, bound=bound_slices * size, commit_s=2.0)
    slowest = max(range(4), key=lambda pool: seconds[pool] / WORKERS[pool])
    assert simulated.busy[slowest] >= 0.95
    assert simulated.wall_s == pytest.approx(640 * seconds[slowest] / WORKERS[slowest], rel=0.06)
    assert simulated.most_held <= max(bound_slices, FEW + 2 * OF_CHUNK) * size
    assert simulated.most_held <= (FEW + 4 * OF_CHUNK) * size  # without any bound


def test_a_store_that_takes_chunks_slowly_holds_the_job_back():
    pools = [SimulatedPool(2, 0.1, 10), SimulatedPool(2, 0.1, 10)]
    simulated = simulate(pools, 30 * OF_CHUNK, slices_per_chunk=OF_CHUNK, bound=10**9, commit_s=100.0)
    assert simulated.most_held <= (6 * OF_CHUNK + 8) * 10


def test_a_driver_that_takes_as_long_for_a_slice_as_its_workers_holds_them_back():
    simulated = simulate([SimulatedPool(100, 1.0)], 2000, slices_per_chunk=OF_CHUNK, driver_s=0.02)
    assert simulated.wall_s == pytest.approx(2000 * 0.02, rel=0.1)
    assert simulated.busy[0] == pytest.approx(0.5, rel=0.1)
