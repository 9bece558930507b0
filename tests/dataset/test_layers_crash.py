"""A layer that is replaced is the old one or the new one, whoever is killed and however many write at a time."""

import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest
import warm
from samples import make_output

from materia.base import storage
from materia.dataset.layers import layers, read_layer, write_layer
from materia.dataset.reader import Dataset
from materia.dataset.validate import validate

# Replaces a layer again and again: all rows of one number, the same in turn; says each once it is acknowledged.
WRITER = """
import sys, pyarrow as pa
from materia.dataset.layers import write_layer
first, out = int(sys.argv[1]), sys.argv[2]
for turn in range(10**9):
    number = first + turn % 3
    table = pa.table({"key": [f"k{row}" for row in range(2000)], "x": [number] * 2000})
    write_layer(out, "s", table, made_by=str(number), version="1")
    print(number, flush=True)
"""


@pytest.fixture
def out(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["s"])
    write_layer(str(tmp_path / "out"), "s", pa.table({"key": ["k0"], "x": [-1]}), made_by="-1", version="1")
    return str(tmp_path / "out")


def start(out, first):
    command = [sys.executable, "-c", WRITER, str(first), out]
    return warm.Program(command, stdout=subprocess.PIPE)


def whole(out):
    """The layer's one number; that of its record, too, if nobody writes."""
    (number,) = set(read_layer(out, "s")["x"].to_pylist())
    return number


@pytest.mark.slow
def test_killed_while_it_replaces_nothing_that_was_acknowledged_is_lost(out):
    for moment in range(8):
        writer = start(out, 10 * moment)
        said = [int(writer.stdout.readline())]
        time.sleep(0.0023 * moment)
        writer.send_signal(signal.SIGKILL)
        said += [int(line) for line in writer.stdout.read().split()]
        assert writer.wait() == -signal.SIGKILL
        after = said[-1] + 1 if said[-1] % 10 < 2 else said[-1] - 2  # what it was at, which may be there, too
        assert whole(out) in (said[-1], after) and layers(out)["s"].made_by == str(whole(out))
    errors = [finding for finding in validate(out).findings if finding.severity == "error"]
    assert not errors, errors
    storage.clean_temporaries(out)


def test_of_two_writers_the_last_wins_and_readers_never_see_half(out):
    writers = [start(out, first) for first in (0, 0)]  # even the same rows
    for writer in writers:
        writer.stdout.readline()
    seen = {whole(out) for _ in range(150)}
    for _ in range(20):
        assert Dataset(out, "s.x is null").layer("s")["x"].to_pylist() == [None]
    for writer in writers:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert seen <= {0, 1, 2} and len(seen) > 1
    assert layers(out)["s"].made_by == str(whole(out))
