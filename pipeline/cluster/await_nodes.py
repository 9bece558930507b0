"""`python -m pipeline.cluster.await_nodes HOST:PORT N`: wait until a Ray that is just starting has so many nodes."""

from __future__ import annotations

import sys
import time

from materia.base.errors import UserError
from materia.base.ray_session import start_ray

# isort: split
import ray

_WAIT_S = 600.0


def await_nodes(address: str, count: int) -> None:
    """Raises UserError if they do not come in ten minutes."""
    ends = time.monotonic() + _WAIT_S
    while True:
        try:
            start_ray(address, 0)
            break
        except UserError:
            if time.monotonic() > ends:
                raise
            time.sleep(1)
    while (alive := sum(node["Alive"] for node in ray.nodes())) < count:
        if time.monotonic() > ends:
            raise UserError(f"after {_WAIT_S:.0f} s Ray at {address} has {alive} of {count} nodes")
        time.sleep(1)


if __name__ == "__main__":
    try:
        await_nodes(sys.argv[1], int(sys.argv[2]))
    except UserError as error:
        sys.exit(f"error: {error}")
