"""An S3 server of our own, as tests of object stores talk to."""

import logging
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest

SECRET = "a-key-that-nobody-may-read"


@contextmanager
def s3_server() -> Iterator[str]:
    """Its address; it has the bucket `bucket`."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    urllib.request.urlopen(f"{address}/moto-api/reset", data=b"").close()  # moto keeps what another server of this process held
    fsspec.filesystem("s3", endpoint_url=address, key="k", secret=SECRET).mkdir("bucket")
    yield address
    server.stop()


@contextmanager
def s3_bucket() -> Iterator[str]:
    """The address of an empty bucket that this process, and those that it starts, reach without being told more."""
    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": SECRET}.items():
            patch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # it remembers another server
        yield "s3://bucket"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
