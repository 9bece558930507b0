"""The books of the runner on Ray, held against a simulation: every slice arrives, nothing starves, what waits is bounded."""

import heapq
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.flow import Flow

OF_CHUNK = 16
WORKERS = (2, 6, 2, 3)
FEW = 2 * sum(WORKERS) + sum(WORKERS[1:-1])
"""Slices on their way that nobody can do without: one and the next for each worker, and what is being made meanwhile."""


@dataclass
class Simulation:
    """Pools of workers that take `seconds` for a slice and make `sizes` bytes of it; chunks are committed one at a time."""

    workers: list[int]
    seconds: list[float]
    sizes: list[int]
    bound: float
    commit_s: float = 0.0
    loses: set[int] = field(default_factory=set)  # slices whose first answer of the last pool is lost
    busy_s: list[float] = field(default_factory=list)
    most_held: float = 0.0
    finished: list[int] = field(default_factory=list)

    def run(self, n_slices: int) -> float:
        """Seconds that all took."""
        flow, left = Flow(self.workers, self.bound), deque(range(n_slices))
        now, events = 0.0, []
        has: dict[tuple[int, int], deque] = {}
        self.busy_s = [0.0] * len(self.workers)
        of_chunk: dict[int, int] = {}
        committer_free = 0.0

        def begin(pool, worker):
            heapq.heappush(events, (now + self.seconds[pool], "done", has[pool, worker][0]))

        while left or flow.on_their_way or flow.committing:
            list(flow.admit(left))
            for task in flow.next(len(left)):
                queue = has.setdefault((task.pool, task.worker), deque())
                queue.append(task)
                if len(queue) == 1:
                    begin(task.pool, task.worker)
            self.most_held = max(self.most_held, flow.held)
            assert events, "nothing happens any more"
            now, kind, what = heapq.heappop(events)
            if kind == "commit":
                flow.committing.discard(what)
                for number in range(what * OF_CHUNK, (what + 1) * OF_CHUNK):
                    flow.forget(number)
                continue
            self.busy_s[what.pool] += self.seconds[what.pool]
            has[what.pool, what.worker].popleft()
            if has[what.pool, what.worker]:
                begin(what.pool, what.worker)
            if what.slice in self.loses:
                self.loses.discard(what.slice)
                flow.lost(what)
                left.appendleft(what.slice)
            elif flow.done(what, self.sizes[what.pool]):
                self.finished.append(what.slice)
                chunk = what.slice // OF_CHUNK
                of_chunk[chunk] = of_chunk.get(chunk, 0) + 1
                if of_chunk[chunk] == min(OF_CHUNK, n_slices - chunk * OF_CHUNK):
                    flow.committing.add(chunk)
                    committer_free = max(now, committer_free) + self.commit_s
                    heapq.heappush(events, (committer_free, "commit", chunk))
        assert flow.held == 0
        return now


pools = st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0.1, 1.0, 10.0]), st.integers(0, 100)), min_size=1, max_size=4)


@given(pools=pools, bound=st.sampled_from([0, 50, 1000, 10**6]), commit_s=st.sampled_from([0.0, 3.0, 100.0]), data=st.data())
def test_every_slice_arrives_once_however_small_the_bound_and_whatever_is_lost(pools, bound, commit_s, data):
    n_slices = data.draw(st.integers(0, 70))
    lost = data.draw(st.sets(st.integers(0, 70), max_size=5))
    simulation = Simulation(*map(list, zip(*pools, strict=True)), bound, commit_s, set(lost))
    simulation.run(n_slices)
    assert sorted(simulation.finished) == list(range(n_slices))


@pytest.mark.parametrize("seconds", [(0.1, 0.2, 4.0, 0.3), (0.1, 9.0, 2.0, 0.3), (0.1, 6.0, 2.0, 3.9)])
@pytest.mark.parametrize("bound_slices", [20, 40, 1000])
def test_the_slowest_pool_is_never_idle_and_what_waits_is_bounded(seconds, bound_slices):
    """Language model, decoding, card, cutting, as configs/cluster.yaml spreads them; a slice is 64 MB once it is decoded."""
    size = 64
    simulation = Simulation(list(WORKERS), list(seconds), [0, size, size, size], bound_slices * size, commit_s=2.0)
    n_slices = 640
    took_s = simulation.run(n_slices)
    slowest = max(range(4), key=lambda pool: seconds[pool] / WORKERS[pool])
    assert simulation.busy_s[slowest] / (took_s * WORKERS[slowest]) >= 0.95
    assert simulation.most_held <= max(bound_slices, FEW + 2 * OF_CHUNK) * size
    assert simulation.most_held <= (FEW + 4 * OF_CHUNK) * size  # without any bound


def test_a_store_that_takes_chunks_slowly_holds_the_job_back():
    simulation = Simulation([2, 2], [0.1, 0.1], [10, 10], bound=10**9, commit_s=100.0)
    simulation.run(30 * OF_CHUNK)
    assert simulation.most_held <= (6 * OF_CHUNK + 8) * 10
