"""A writer that is killed at any moment leaves nothing that a reader takes for whole, and the next start finishes the job."""

import signal
import sys
from pathlib import Path

import pytest
import warm
from samples import make_output

from materia.base import storage
from materia.dataset.layout import commits, committed
from materia.dataset.validate import validate

ROOT = Path(__file__).resolve().parents[2]
# Kills itself at the N-th event that touches a file of the output, and prints the events if it comes to the end.
WRITER = """
import os, signal, sys
sys.path[:0] = [{root!r}, {here!r}]
from pathlib import Path
from samples import make_output
import materia.base.storage as storage
events = []
def tick(event):
    events.append(event)
    if len(events) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
def hook(event, args):
    if event in ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate") and str(args[0]).startswith({out!r}):
        tick(event)
sys.addaudithook(hook)
fsync = os.fsync
os.fsync = lambda descriptor: (tick("fsync"), fsync(descriptor), tick("fsynced"))  # which raises no audit event
publish = storage.Staged.publish
def ticking(staging, *replaces):
    tick("publish")  # some of it may still be in a buffer
    publish(staging, *replaces)
storage.Staged.publish = ticking
make_output(Path({out!r}), Path({clips!r}), ["sr", "r"])
print("events:", *events)
"""


def write(out, clips, kill_at):
    script = WRITER.format(root=str(ROOT), here=str(Path(__file__).parent), out=str(out), clips=str(clips))
    return warm.run([sys.executable, "-c", script, str(kill_at)])


def contents(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def check_readers_see_only_whole_chunks(out):
    for commit in commits(str(out)):
        for name, file in commit.files.items():
            assert (out / name).stat().st_size == file.bytes
    if (out / "dataset.json").exists() or committed(str(out)):
        errors = [finding.message for finding in validate(str(out)).findings if finding.severity == "error"]
        assert all("not committed" in message for message in errors), errors


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = write(folder / "out", folder / "clips", 10**9)
    assert done.returncode == 0, done.stderr
    return contents(folder / "out"), done.stdout.split("events:")[1].split()


def test_the_writer_is_the_same_in_process_and_in_a_child(undisturbed, tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["sr", "r"])
    assert contents(tmp_path / "out") == undisturbed[0]


def test_killed_anywhere_no_half_chunk_is_seen_and_the_next_start_ends_with_the_same_bytes(undisturbed, tmp_path):
    expected, events = undisturbed
    moments = [number for number, event in enumerate(events, 1) if event == "publish" or number % 9 == 0]
    assert events.count("publish") == 10 and "os.rename" in events and "os.link" in events
    for kill_at in moments:
        out = tmp_path / str(kill_at)
        killed = write(out, tmp_path / "clips", kill_at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        check_readers_see_only_whole_chunks(out)
        storage.clean_temporaries(str(out))
        make_output(out, tmp_path / "clips", ["sr", "r"])
        assert contents(out) == expected


def test_killed_again_and_again_the_job_still_ends(undisturbed, tmp_path):
    out = tmp_path / "out"
    for kill_at in (9, 17, 25):
        write(out, tmp_path / "clips", kill_at)
        check_readers_see_only_whole_chunks(out)
        storage.clean_temporaries(str(out))
    make_output(out, tmp_path / "clips", ["sr", "r"])
    assert contents(out) == undisturbed[0]
