"""Which videos may be opened: real paths below the allowed roots, allowed schemes, regular files; nothing else is touched."""

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import yaml

from materia.base import retries
from pipeline.sources import access
from pipeline.sources.settings import SourceSettings
from stages.records import Clip, Rejection

REPOSITORY = Path(__file__).resolve().parents[2]


def find(uri: str, root: Path | str, **settings: object) -> Clip | Rejection:
    clip = Clip(row=0, key="k", source_id=uri, uri=access.relative(uri, str(root)), caption="A dog.")
    return access.resolve(clip, str(root), SourceSettings(**settings))


def reason(uri: str, root: Path | str, **settings: object) -> str:
    found = find(uri, root, **settings)
    if isinstance(found, Clip):
        return "ok"
    assert found.stage == "source" and len(found.message) < 400
    found.message.encode()
    return found.reason


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """videos/a.mp4 is allowed; secret/b.mp4 beside it is not."""
    for name in ("videos/a.mp4", "secret/b.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"video")
    return tmp_path / "videos"


@pytest.mark.parametrize(
    "name",
    ["~", "~root", "%2e%2e", "a b#?&'\".mp4", "-rf.mp4", "a\\b.mp4", "12:30.mp4", "concat:a.mp4", "é⚽\n.mp4", "$(x).mp4"],
)
def test_odd_names_of_files_are_files(root, name):
    (root / name).write_bytes(b"video")
    found = find(name, root)
    assert isinstance(found, Clip) and found.address == str(root / name)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("b.mp4", "not_found"),
        ("a.mp4/b.mp4", "not_found"),
        ("a\0.mp4", "not_found"),
        ("x" * 300 + ".mp4", "not_found"),
        ("x/" * 3000 + "a.mp4", "not_found"),
        ("~/a.mp4", "not_found"),
        ("%61.mp4", "not_found"),
        ("sub\\a.mp4", "not_found"),
        ("12:30.mp4", "not_found"),
        (".", "not_a_file"),
        ("../secret/b.mp4", "outside_root"),
        ("../missing.mp4", "outside_root"),
        ("../videos2/a.mp4", "outside_root"),
        ("/etc/hostname", "outside_root"),
        ("//etc/hostname", "outside_root"),
        ("/dev/zero", "outside_root"),
        ("file:///etc/hostname", "outside_root"),
        ("FILE:///etc/hostname", "outside_root"),
        ("http://127.0.0.1:9/a.mp4", "outside_root"),
        ("rtsp://127.0.0.1/a", "outside_root"),
        ("memory://a.mp4", "outside_root"),
        ("concat:a.mp4|/etc/hostname", "outside_root"),
        ("subfile,,start,0,end,9,,:/etc/hostname", "not_found"),
        ("data:video/mp4;base64,AAAA", "outside_root"),
        ("simplecache::http://127.0.0.1/a.mp4", "outside_root"),
        ("a.mp4::file:///etc/hostname", "outside_root"),
    ],
)
def test_what_is_not_a_file_below_the_root_is_rejected(root, uri, expected):
    assert reason(uri, root) == expected


def test_messages_name_the_scheme_and_the_setting(root):
    assert "scheme 'http' is not allowed; source.schemes allows file" in find("http://host/a.mp4", root).message
    assert "'concat' is not in source.schemes" in find("concat:x|y", root).message
    assert "source.allowed_roots" in find("/etc/hostname", root).message


def allowed(message):
    """The settings that a message says to set."""
    _, override = shlex.split(message[message.index("--set") :])
    return yaml.safe_load(override.removeprefix("source.allowed_roots="))


@pytest.mark.parametrize("name", ["../secret/b.mp4", "{folder}/secret/b.mp4", "link.mp4", "up/b.mp4"])
@pytest.mark.parametrize("present", [None, ["."], [".", "../videos2"]])
def test_what_lies_outside_is_allowed_by_the_setting_that_the_message_gives(root, name, present):
    (root / "link.mp4").symlink_to("../secret/b.mp4")
    (root / "up").symlink_to("../secret")
    name = name.format(folder=root.parent)
    denied = find(name, root, allowed_roots=present)
    secret = root.parent / "secret"
    assert denied.reason == "outside_root" and repr(str(secret / "b.mp4")) in denied.message
    assert f"{', '.join(present or ['.'])}, {secret}]" in denied.message
    assert allowed(denied.message) == [*(present or ["."]), str(secret)]
    assert reason(name, root, allowed_roots=allowed(denied.message)) == "ok"
    assert reason("a.mp4", root, allowed_roots=allowed(denied.message)) == "ok"


def test_a_folder_with_an_odd_name_is_allowed_by_the_setting_that_the_message_gives(root):
    odd = root.parent / "it's [a], \n#1: \\é"
    odd.mkdir()
    (odd / "c.mp4").write_bytes(b"video")
    message = find(f"../{odd.name}/c.mp4", root).message
    assert "\n" not in message
    assert reason(f"../{odd.name}/c.mp4", root, allowed_roots=allowed(message)) == "ok"


def test_a_remote_folder_is_allowed_by_the_setting_that_the_message_gives():
    fsspec.filesystem("memory").pipe_file("/wider/secret/b.mp4", b"video")
    denied = find("memory://wider/secret/b.mp4", "memory://wider/videos", schemes=["memory"])
    assert allowed(denied.message) == [".", "memory://wider/secret"]
    assert reason("../secret/b.mp4", "memory://wider/videos", schemes=["memory"], allowed_roots=allowed(denied.message)) == "ok"


def test_links_are_judged_by_where_they_lead(root):
    (root / "inside.mp4").symlink_to(root / "a.mp4")
    (root / "outside.mp4").symlink_to(root.parent / "secret/b.mp4")
    (root / "folder").symlink_to(root.parent / "secret")
    (root / "dangling.mp4").symlink_to(root / "missing.mp4")
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    assert find("inside.mp4", root).address == str(root / "a.mp4")
    assert [reason(f"{name}.mp4", root) for name in ("outside", "folder/b", "dangling")] == [
        "outside_root",
        "outside_root",
        "not_found",
    ]
    assert reason("loop.mp4", root) in ("not_found", "not_a_file")


def test_a_root_that_is_itself_a_link_is_followed(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert reason("a.mp4", tmp_path / "link") == "ok"
    assert find(str(root / "a.mp4"), tmp_path / "link").uri == "a.mp4"


def test_folders_pipes_sockets_and_devices_are_not_files(root):
    (root / "folder.mp4").mkdir()
    os.mkfifo(root / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(root / "socket.mp4"))
        assert [reason(f"{kind}.mp4", root) for kind in ("folder", "pipe", "socket")] == ["not_a_file"] * 3
    assert reason("/dev/null", root, allowed_roots=["/dev"]) == "not_a_file"


def test_other_roots_can_be_allowed_by_absolute_or_relative_path(root):
    assert reason("../secret/b.mp4", root, allowed_roots=["../secret"]) == "ok"
    assert reason("../secret/b.mp4", root, allowed_roots=[".", str(root.parent / "secret")]) == "ok"
    assert reason("a.mp4", root, allowed_roots=["../secret"]) == "outside_root"
    assert reason("/etc/hostname", root, allowed_roots=["/"]) == "ok"


def test_remote_videos_are_found_below_their_root_only():
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/access/videos/a.mp4", b"video")
    memory.pipe_file("/access/secret/b.mp4", b"video")
    allowed = {"schemes": ["memory", "file"]}
    root = "memory://access/videos"
    assert find("a.mp4", root, **allowed).address == "memory://access/videos/a.mp4"
    assert reason("../secret/b.mp4", root, **allowed) == "outside_root"
    assert reason("../../../../b.mp4", root, **allowed) == "outside_root"
    assert reason("memory://access/secret/b.mp4", root, **allowed) == "outside_root"
    assert reason("memory://access/secret/b.mp4", root, allowed_roots=["memory://access"], **allowed) == "ok"
    assert reason("missing.mp4", root, **allowed) == "not_found"
    assert reason("memory://access/videos", root, **allowed) == "not_a_file"
    assert reason("/etc/hostname", root, **allowed) == "outside_root"
    assert reason("a.mp4", root) == "outside_root"


class FlakyFileSystem(fsspec.AbstractFileSystem):
    """Storage that does not answer `failures` times."""

    protocol = "flaky"
    cachable = False
    failures = 0

    def info(self, path: str, **_: object) -> dict[str, object]:
        if FlakyFileSystem.failures:
            FlakyFileSystem.failures -= 1
            raise ConnectionError("request 8f3a")
        return {"name": path, "size": 1, "type": "file"}


@pytest.mark.parametrize(("failures", "expected"), [(1, "ok"), (99, "transient_exhausted")])
def test_storage_that_fails_is_asked_again_but_not_for_ever(monkeypatch, failures, expected):
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    monkeypatch.setattr(retries, "PAUSES_S", (0.0,) * 4)
    FlakyFileSystem.failures = failures
    found = find("a.mp4", "flaky://bucket", schemes=["flaky"])
    assert (found.reason if isinstance(found, Rejection) else "ok") == expected
    assert not isinstance(found, Rejection) or "8f3a" not in found.message


TRACED = """
import json, os, sys
opened = []
def remember(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        opened.append(os.fsdecode(args[0]))
sys.addaudithook(remember)
from pipeline.sources.access import resolve
from pipeline.plan import make_plan
from pipeline.sources.settings import SourceSettings
from stages.records import Clip
settings = SourceSettings()
found = []
for name in sys.argv[2:]:
    plan = make_plan(name, sys.argv[1] + "/plan" + str(len(found)), settings, 16, 8)
    for index in range(plan.n_slices):
        rows = [resolve(row, plan.root, settings) if isinstance(row, Clip) else row for row in plan.read(index)]
        for row in rows:
            if isinstance(row, Clip):
                open(row.address, "rb").close()
        found.append([getattr(row, "reason", "ok") for row in rows])
print(json.dumps([found, opened]))
"""


def test_nothing_outside_the_root_is_opened(root):
    outside = root.parent / "secret"
    os.mkfifo(outside / "pipe")  # opening it would hang
    (root / "link.mp4").symlink_to(outside / "b.mp4")
    (root / "link.txt").symlink_to(outside / "pipe")
    (root / "a.json").symlink_to(outside / "b.mp4")
    (root / "folder").symlink_to(outside)
    videos = [
        "a.mp4",
        "link.mp4",
        "folder/b.mp4",
        "folder/pipe",
        "../secret/b.mp4",
        str(outside / "pipe"),
        f"file://{outside}/b.mp4",
    ]
    manifest = root / "m.jsonl"
    manifest.write_text("".join(json.dumps({"video": video, "caption": "A dog."}) + "\n" for video in videos))
    command = [sys.executable, "-c", TRACED, str(root.parent / "out"), str(manifest), str(root)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
    (from_manifest, from_folder), opened = json.loads(result.stdout)
    assert from_manifest == ["ok"] + ["outside_root"] * 6
    assert from_folder == ["outside_root"] * 2
    assert str(root / "a.mp4") in opened
    assert [path for path in opened if path.startswith(str(outside))] == []
