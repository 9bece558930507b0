"""A video of an object store is fetched once, for all that a process does with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import msgspec
import pytest
from clips import make_clip, read_number
from fsspec.implementations.memory import MemoryFileSystem

from stages.cut import Cut
from stages.frames import Frames
from stages.records import Clip, Sample
from stages.settings import CutSettings, FramesSettings
from stages.video import frames_at, local_copy, source


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("remote") / "clip.mp4", 30)


class Counting(MemoryFileSystem):
    """Remembers which files were fetched."""

    protocol = "counting"
    fetched: ClassVar[list[str]] = []

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        Counting.fetched.append(rpath.rsplit("/", 1)[-1])
        super().get_file(rpath, lpath, **options)


@pytest.fixture
def remote(clip: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a folder with a.mp4, b.mp4 and c.mp4."""
    fsspec.register_implementation("counting", Counting, clobber=True)
    monkeypatch.setattr(Counting, "fetched", [])
    folder = f"counting://{uuid.uuid4().hex}"
    for name in "abc":
        fsspec.filesystem("counting").pipe_file(f"{folder}/{name}.mp4", clip.read_bytes())
    return folder


def test_a_remote_video_is_fetched_once_for_all_stages_and_all_its_ranges(remote: str) -> None:
    clips = [Clip(row=row, key=f"k{row}", source_id="a", uri="a.mp4", caption="") for row in range(2)]
    ranges = [(0.0, 0.5), (0.4, 1.0)]
    samples = [
        Sample(clip=msgspec.structs.replace(clip, address=f"{remote}/a.mp4", start_s=start, end_s=end))
        for clip, (start, end) in zip(clips, ranges, strict=True)
    ]
    for stage in (Frames(FramesSettings(min_duration_s=0.1, several_shots="ignore")), Cut(CutSettings())):
        samples = stage.process(samples)
    assert [sample.media is not None for sample in samples] == [True, True]
    assert Counting.fetched == ["a.mp4"]


def test_stages_side_by_side_wait_for_one_download(remote: str) -> None:
    def look(_: int) -> int:
        with local_copy(f"{remote}/a.mp4") as copy:
            return read_number(frames_at(copy, [0.5]).frames[0])

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(look, range(8))) == {12}
    assert Counting.fetched == ["a.mp4"]


def test_downloads_are_given_up_when_they_need_too_much_room(remote: str, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "KEPT_BYTES", 2 * clip.stat().st_size)
    with local_copy(f"{remote}/a.mp4") as in_use:
        for name in "bcbcb":
            with local_copy(f"{remote}/{name}.mp4"):
                pass
        assert in_use.read_bytes() == clip.read_bytes()
    with local_copy(f"{remote}/b.mp4"):
        pass
    assert Counting.fetched == ["a.mp4", "b.mp4", "c.mp4", "b.mp4", "c.mp4", "b.mp4"]


def test_the_download_of_a_killed_process_leaves_nothing_behind(tmp_path: Path, clip: Path) -> None:
    code = """if True:
        import fsspec, os, signal, sys
        from stages.video import local_copy
        fsspec.filesystem("memory").pipe_file("/a.mp4", open(sys.argv[1], "rb").read())
        with local_copy("memory://a.mp4") as copy:
            assert copy.stat().st_size
            os.kill(os.getpid(), signal.SIGKILL)
        """
    killed = subprocess.run([sys.executable, "-c", code, str(clip)], check=False, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []
