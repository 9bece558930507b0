"""Nodes of Ray for tests, with nothing that only people need: no terminal's logs, no autoscaler, no workers in advance."""

from collections.abc import Mapping
from typing import Any


def add_node(cluster: Any, env_vars: Mapping[str, str] | None = None, **settings: Any) -> Any:
    """To a `ray.cluster_utils.Cluster`; the first one is its head. Drivers that join would start a worker a CPU in advance."""
    bare = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True, "object_store_memory": 80 * 2**20}
    env_vars = {"RAY_prestart_worker_first_driver": "0", **(env_vars or {})}
    return cluster.add_node(**(bare | settings), env_vars=env_vars)
