"""What nobody foresaw: a rejection that is the same in every run, a traceback, and a full disk that is nobody's fault."""

import errno
import sqlite3
import tempfile
from pathlib import Path

import pytest

from materia.base.errors import disk_trouble, explain
from stages import notices
from stages.records import Clip, Sample
from stages.unexpected import internal_error


@pytest.fixture
def sample():
    return Sample(clip=Clip(row=7, key="k", source_id="s", uri="a.mp4", caption="a dog"))


def caught(action):
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def raise_from(outer, inner):
    try:
        raise inner
    except Exception as error:
        raise outer from error


def test_the_message_is_the_same_in_every_run_and_the_traceback_is_kept_once(sample, capsys):
    def fail():
        with tempfile.TemporaryDirectory(prefix="materia-") as folder:
            Path(folder, "cut.mp4").read_bytes()

    told = {internal_error(sample, "cut", caught(fail)).message for _ in range(2)}
    assert told == {"FileNotFoundError: [Errno 2] No such file or directory: 'TMPDIR/...'"}
    assert internal_error(sample, "cut", ValueError(f"{object()}")).message == "ValueError: <object object at 0x...>"
    notices.drain_traces()
    error = caught(lambda: {}["missing"])
    for _ in range(3):
        internal_error(sample, "cut", error, "the encoder failed")
    (trace,) = notices.drain_traces()
    assert trace.startswith("row 7, cut: Traceback (most recent call last):") and trace.rstrip().endswith("KeyError: 'missing'")
    assert trace in capsys.readouterr().err
    assert notices.drain_traces() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_or_read_only_disk_is_no_clips_fault(sample, number, wrapped):
    trouble = OSError(number, "whatever")
    error = caught(lambda: raise_from(RuntimeError("cannot encode"), trouble)) if wrapped else trouble
    with pytest.raises(OSError) as raised:
        internal_error(sample, "cut", error)
    assert raised.value.errno == number
    assert explain(raised.value)[1] == 5


def test_a_full_disk_is_known_in_the_words_of_libraries(tmp_path):
    with sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None) as full:
        full.execute("PRAGMA max_page_count = 2")
        full.execute("CREATE TABLE t (x)")
        error = caught(lambda: full.execute("INSERT INTO t VALUES (?)", ("x" * 100_000,)))
    assert disk_trouble(error).errno == errno.ENOSPC

    import av

    def encode():
        with av.open("/dev/full", "w", format="mp4") as output:
            stream = output.add_stream("mpeg4")
            stream.width = stream.height = 16
            for _ in range(3):
                output.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
            output.mux(stream.encode(None))

    assert disk_trouble(caught(encode)).errno == errno.ENOSPC
    assert disk_trouble(FileNotFoundError(errno.ENOENT, "no")) is None
    assert disk_trouble(KeyError("x")) is None


def test_a_file_of_a_random_name_is_told_by_its_folder():
    random = OSError(errno.ENOSPC, "No space left on device", f"{tempfile.gettempdir()}/materia-x8s_3d/a.mp4")
    assert explain(random)[0].startswith(f"{tempfile.gettempdir()} (TMPDIR): No space left on device; ")
