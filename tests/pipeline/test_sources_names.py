"""Videos whose names differ from the manifest in Unicode normal form only: found, and nowhere but below the allowed roots."""

import os
import unicodedata
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from materia.base import storage
from pipeline.sources import access
from pipeline.sources.settings import SourceSettings
from stages.records import Clip, Rejection

FORMS = ("NFC", "NFD")


def find(uri: str, root: Path | str, **settings: object) -> Clip | Rejection:
    clip = Clip(row=0, key="k", source_id=uri, uri=access.relative(uri, str(root)), caption="A dog.")
    found = access.resolve(clip, str(root), SourceSettings(**settings))
    assert isinstance(found, Rejection) or found.uri == clip.uri  # recorded as the manifest has it
    return found


def form(form: str, text: str) -> str:
    return unicodedata.normalize(form, text)


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"video")
    return path


NAMES = ["café.mp4", "Ünïcödé/señorita.mp4", "한국어/영상.mp4", "a/Ångström/ệ/ǖ.mp4", "日本/が ギ.mp4", "plain/é.mp4"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("written", "there"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_in_another_normal_form_is_found_in_any_folder(tmp_path, name, written, there):
    path = write(tmp_path / form(there, name))
    for uri in (form(written, name), f"{tmp_path}/{form(written, name)}", f"./{form(written, name)}"):
        found = find(uri, tmp_path)
        assert isinstance(found, Clip) and found.address == str(path)


accented = st.text("eao\u0301\u0308\u0323é가ệ\u212b", min_size=1, max_size=6).map(lambda text: "x" + text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(accented, accented, st.sampled_from(FORMS), st.sampled_from(FORMS), st.integers())
def test_mixed_forms_are_found_too(tmp_path, folder, name, folder_form, name_form, seed):
    root = tmp_path / str(abs(seed))
    assume(not root.exists())
    path = write(root / form(folder_form, folder) / f"{form(name_form, name)}.mp4")
    found = find(f"{folder}/{name}.mp4", root)
    assert isinstance(found, Clip) and found.address == str(path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("written", "there"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_remote_names_in_another_normal_form_are_found(name, written, there):
    root = f"names/{written}/{NAMES.index(name)}"  # listings of stores are remembered
    fsspec.filesystem("memory").pipe_file(f"/{root}/{form(there, name)}", b"video")
    found = find(form(written, name), f"memory://{root}", schemes=["memory"])
    assert isinstance(found, Clip) and found.address == f"memory://{root}/{form(there, name)}"


def test_a_file_of_exactly_the_name_comes_first(tmp_path):
    paths = [write(tmp_path / form(each, "é.mp4")) for each in FORMS]
    assert [find(path.name, tmp_path).address for path in paths] == [str(path) for path in paths]


def test_a_file_that_comes_later_is_found(tmp_path):
    write(tmp_path / form("NFD", "é.mp4"))
    assert find("ü.mp4", tmp_path).reason == "not_found"
    write(tmp_path / form("NFD", "ü.mp4"))
    os.utime(tmp_path, ns=(1, 1))  # clocks of file systems are coarse
    assert isinstance(find("ü.mp4", tmp_path), Clip)


@pytest.mark.parametrize("uri", ["ö.mp4", "é/é.mp4", "e.mp4", "É.mp4", "é" * 300 + ".mp4", "é.mp4/é", "\udce9.mp4"])
def test_what_is_not_there_in_any_form_is_not_found(tmp_path, uri):
    write(tmp_path / form("NFD", "é.mp4"))
    found = find(uri, tmp_path)
    assert isinstance(found, Rejection) and found.reason == "not_found"
    found.message.encode()


def test_another_form_of_a_link_is_judged_by_where_it_leads(tmp_path):
    root = tmp_path / "videos"
    write(root / "a.mp4")
    secret = write(tmp_path / "secret" / form("NFD", "é.mp4"))
    (root / form("NFD", "ö.mp4")).symlink_to(secret)
    (root / form("NFD", "ü.mp4")).symlink_to(root / "a.mp4")
    (root / form("NFD", "ä")).symlink_to(secret.parent)
    (root / "plain").symlink_to(secret.parent)
    os.mkfifo(root / form("NFD", "pipé.mp4"))
    assert find("ü.mp4", root).address == str(root / "a.mp4")
    assert {uri: find(uri, root).reason for uri in ("ö.mp4", "ä/é.mp4", "plain/é.mp4", "../secret/é.mp4", "pipé.mp4")} == {
        "ö.mp4": "outside_root",
        "ä/é.mp4": "outside_root",
        "plain/é.mp4": "outside_root",
        "../secret/é.mp4": "outside_root",
        "pipé.mp4": "not_a_file",
    }


def test_no_folder_outside_the_roots_is_listed(tmp_path, monkeypatch):
    root = tmp_path / "videos"
    write(root / "a.mp4")
    write(tmp_path / "secret" / form("NFD", "é.mp4"))
    (root / form("NFD", "ä")).symlink_to(tmp_path / "secret")
    (root / "plain").symlink_to(tmp_path / "secret")
    listed: list[str] = []
    listdir = storage.listdir
    monkeypatch.setattr(storage, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    for uri in ("ä/é.mp4", "plain/é.mp4", "../secret/é.mp4", f"{tmp_path}/secret/é.mp4", "/étc/é.mp4", "ö/../../é.mp4"):
        find(uri, root)
    assert set(listed) <= {str(root)}


def test_a_sibling_whose_name_is_the_same_text_is_another_folder(tmp_path):
    root = tmp_path / form("NFC", "é")
    write(root / "a.mp4")
    write(tmp_path / form("NFD", "é") / "a.mp4")
    assert find(f"{tmp_path}/{form('NFD', 'é')}/a.mp4", root).reason == "outside_root"
    assert find(f"../{form('NFD', 'é')}/a.mp4", root).reason == "outside_root"
    other = tmp_path / "other" / form("NFC", "é")
    write(other / "a.mp4")
    assert find(f"{tmp_path}/other/{form('NFD', 'é')}/a.mp4", other).address == str(other / "a.mp4")


def test_each_folder_is_listed_once_for_many_missing_names(tmp_path, monkeypatch):
    write(tmp_path / form("NFD", "é.mp4"))
    listed: list[str] = []
    listdir = storage.listdir
    monkeypatch.setattr(storage, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    for n in range(20):
        assert find(f"ö{n}.mp4", tmp_path).reason == "not_found"
    assert listed == [str(tmp_path)]
