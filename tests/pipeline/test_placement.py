"""Which clusters hold which pools, and what is said of those that do not."""

from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import PoolSettings, load_config
from pipeline.engine.placement import Node, UnschedulableError, check_placement, nodes_needed, nodes_of

CLUSTER = Path(__file__).parents[2] / "configs" / "cluster.yaml"


def node(cpus=0.0, cards=0, labels=None, alive=True, **resources):
    """As `ray.nodes()` lists one."""
    listed = {"CPU": cpus, "GPU": float(cards), "memory": 2.0**34, "node:192.0.2.1": 1.0, **resources}
    return {"Alive": alive, "Resources": {name: amount for name, amount in listed.items() if amount}, "Labels": labels or {}}


def pool(workers=1, stages=("frames",), num_cpus=1.0, **settings):
    return PoolSettings(stages=stages, workers=workers, num_cpus=num_cpus, **settings)


def refusal(pools, *nodes):
    with pytest.raises(UnschedulableError) as error:
        check_placement(pools, nodes_of(nodes))
    return str(error.value)


def test_the_cluster_that_the_configuration_describes_holds_its_pools():
    pools = load_config(CLUSTER).engine.pools
    head = node(2, labels={"cards": "none"})
    decoders = [node(16, labels={"cards": "none"}, clip_io=16)] * 2
    small, large = [node(32, 4, {"cards": "small"})] * 2, node(32, 2, {"cards": "large"})
    check_placement(pools, nodes_of([head, *decoders, *small, large]))
    assert "cards=none" in refusal(pools, head, decoders[0], *small, large)
    assert "of 16 such workers 8 find room" in refusal(pools, head, *decoders, small[0], large)
    assert "cards=large, but no node" in refusal(pools, head, *decoders, *small)


def test_a_refusal_names_the_pool_its_needs_and_what_is_there():
    message = refusal(
        [pool(3, ("localise", "segment"), num_gpus=0.5, labels={"cards": "small"})], node(8, 1, {"cards": "small"})
    )
    assert "a worker for localise, segment books 1 CPUs, 0.5 GPUs on a node with labels cards=small" in message
    assert "of 3 such workers 2 find room" in message
    assert "Ray has 8 CPUs, 1 GPUs on 1 node(s) with these labels" in message


@pytest.mark.parametrize(
    ("workers", "num_gpus", "nodes"),
    [
        (3, 0.6, [node(9, 2)]),  # 1.8 of 2 cards, but no card holds two
        (1, 2, [node(9, 1), node(9, 1)]),  # no worker computes on two nodes
        (2, 1, [node(9, 1), node(9, 1, alive=False)]),
        (2, 0, [node(1.5), node(0.9)]),  # nor on the CPUs of two
    ],
)
def test_sums_that_fit_are_not_enough(workers, num_gpus, nodes):
    assert f"of {workers} such workers {workers - 1} find room" in refusal([pool(workers, num_gpus=num_gpus)], *nodes)


def test_custom_resources_are_counted():
    check_placement([pool(4, resources={"clip_io": 0.5})], nodes_of([node(9, clip_io=2)]))
    assert "0.5 clip_io" in refusal([pool(5, resources={"clip_io": 0.5})], node(9, clip_io=2))
    assert "of 1 such workers 0" in refusal([pool(resources={"clip_io": 1})], node(9))


def test_pools_without_labels_leave_room_for_those_with():
    nodes = [node(2, 1, {"cards": "large"}), node(2)]
    check_placement([pool(1), pool(2, labels={"cards": "large"}, num_gpus=0.5)], nodes_of(nodes))


def test_commits_need_a_little_too():
    assert "0.1 CPUs must stay free" in refusal([pool(2)], node(2.05))
    check_placement([pool(2)], nodes_of([node(2), node(0.1)]))


@pytest.mark.parametrize(
    ("selector", "places"),
    [("a", {"a"}), ("!a", {"b", "c", None}), ("in(a, b)", {"a", "b"}), ("in(a,b)", {"a", "b"}), ("!in(a, b)", {"c", None})],
)
def test_labels_are_read_as_ray_reads_them(selector, places):
    def fits(value):
        try:
            check_placement([pool(labels={"zone": selector})], nodes_of([node(2, labels={"zone": value} if value else {})]))
        except UnschedulableError:
            return False
        return True

    assert {value for value in ("a", "b", "c", None) if fits(value)} == places


@given(
    pools=st.lists(
        st.builds(
            pool, st.integers(1, 5), num_cpus=st.sampled_from([0.5, 1, 3]), num_gpus=st.sampled_from([0, 0.3, 0.5, 1, 2])
        ),
        max_size=4,
    ),
    cards=st.lists(st.integers(0, 3), min_size=1, max_size=4),
)
def test_a_yes_never_books_more_than_there_is(pools, cards):
    nodes = [Node({"CPU": 8.0}, [1.0] * number, {}) for number in cards]
    try:
        check_placement(pools, nodes)
    except UnschedulableError:
        return
    assert sum(pool.workers * pool.num_cpus for pool in pools) + 0.2 <= 8 * len(nodes) + 1e-6
    assert sum(pool.workers * pool.num_gpus for pool in pools) <= sum(cards) + 1e-6
    assert nodes == [Node({"CPU": 8.0}, [1.0] * number, {}) for number in cards]


@given(
    pools=st.lists(
        st.builds(
            pool,
            st.integers(1, 9),
            num_cpus=st.sampled_from([0.5, 1, 3]),
            num_gpus=st.sampled_from([0, 0.3, 0.5, 1, 2]),
            labels=st.sampled_from([{}, {"cards": "a"}, {"cards": "!a"}]),
        ),
        max_size=4,
    ),
    shapes=st.lists(
        st.builds(
            Node,
            st.fixed_dictionaries({"CPU": st.sampled_from([2.0, 8.0])}),
            st.sampled_from([[], [1.0], [1.0, 1.0]]),
            st.sampled_from([{}, {"cards": "a"}]),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_nodes_that_are_needed_hold_the_pools(pools, shapes):
    """And are no more than a node for each worker, and one for commits."""
    try:
        needed = nodes_needed(pools, shapes)
    except UnschedulableError:
        assert any(not alone_fits(pool, shape) for pool in pools for shape in shapes)
        return
    check_placement(pools, [deepcopy(shape) for shape, count in zip(shapes, needed, strict=True) for _ in range(count)])
    assert sum(needed) <= sum(pool.workers for pool in pools) + 1


def alone_fits(pool, shape):
    try:
        check_placement([pool.model_copy(update={"workers": 1})], [deepcopy(shape), Node({"CPU": 0.1}, [], {})])
    except UnschedulableError:
        return False
    return True


def test_the_example_needs_what_its_comment_says():
    """Two decoding nodes of 16 cores, two with 4 small cards, one with 2 large ones."""
    shapes = [
        Node({"CPU": 32.0}, [1.0] * 2, {"cards": "large"}),
        Node({"CPU": 32.0}, [1.0] * 4, {"cards": "small"}),
        Node({"CPU": 16.0, "clip_io": 16.0}, [], {"cards": "none"}),
    ]
    assert nodes_needed(load_config(CLUSTER).engine.pools, shapes) == [1, 2, 2]
