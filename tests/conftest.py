"""For all tests: the order of files, threads, and one small Ray cluster for each process of pytest (-n 3: three of them)."""

import gc
import os
import secrets

import hypothesis
import pytest
import warm
from bare_nodes import add_node

hypothesis.settings.register_profile("no deadline", deadline=None)  # a busy machine is no fault, and a first example imports
hypothesis.settings.load_profile("no deadline")
# A session that Ray starts itself turns tokens on for its whole process, which clusters without then refuse: all have them.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # processes of `-n 3` have the same
os.environ.setdefault("OMP_NUM_THREADS", "1")  # other processes run tests on the other cores; before torch is imported
gc.disable()  # what all the modules of tests import stays


def pytest_configure(config):
    """Processes of `-n 2` share the servers of warm.py."""
    if not hasattr(config, "workerinput"):
        servers = warm.serving()
        servers.__enter__()
        config.add_cleanup(lambda: servers.__exit__(None, None, None))


@pytest.fixture(scope="module")
def bucket():
    """The address of an empty bucket in an S3 server of our own."""
    from s3_server import s3_bucket

    with s3_bucket() as address:
        yield address


def pytest_collection_modifyitems(items):
    """Files with long tests come first, or the last process would still be at one when the others have ended."""
    long = {item.path for item in items if item.get_closest_marker("ray") or item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def ray_address():
    """Of a cluster that jobs may join, as a user's would. It outlives them, and ends with this process, even a killed one."""
    import materia.base.ray_session  # noqa: F401  # first, because it sets Ray's environment

    # isort: split
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        add_node(cluster, num_cpus=4)
        yield cluster.address
    finally:
        cluster.shutdown()
