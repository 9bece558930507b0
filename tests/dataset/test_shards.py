"""A chunk is written whole, the same bytes for the same rows, and readable with nothing but webdataset and Pillow."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from PIL import Image
from samples import PROVENANCE, make_dataset, make_output, make_rejection, make_sample

from materia.base import retries
from materia.dataset import layout, writer
from materia.dataset.documents import document_of, encode_document
from materia.dataset.json_schema import json_schema
from materia.dataset.rows import index_row
from materia.dataset.schema import INDEX, INSTANCES, REJECTS
from stages.records import Rejection, decode_rows, encode_rows


def write(out, rows, chunk=0):
    return writer.write_chunk(str(out), chunk, rows, provenance=PROVENANCE)


def read_index(out, chunk=0):
    return pq.read_table(out / "index" / f"{chunk:06d}.parquet").to_pylist()


def read_rejects(out, chunk=0):
    return pq.read_table(out / "rejects" / f"{chunk:06d}.parquet").to_pylist()


def files_of(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_ten_line_script_reads_every_sample(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["sr", "ss"])
    keys = []
    for shard in sorted((tmp_path / "out" / "shards").glob("*.tar")):
        for sample in webdataset.WebDataset(str(shard), shardshuffle=False):
            record = json.loads(sample["json"])
            video = sample[record["video"]["member"]]
            frames = [Image.open(io.BytesIO(sample[frame["member"]])) for frame in record["frames"]]
            for instance in record["instances"]:
                crop, (x0, y0, x1, y1) = Image.open(io.BytesIO(sample[instance["member"]])), instance["crop_xyxy_px"]
                assert crop.mode == "RGBA" and crop.size == (x1 - x0, y1 - y0)
            assert Image.open(io.BytesIO(sample["background.png"])).size == frames[1].size
            assert video == (tmp_path / "clips" / f"{record['key']}.mp4").read_bytes()
            keys.append(sample["__key__"])
    assert keys == ["clip-0000", "clip-0002", "clip-0003"]


def test_offsets_in_the_index_give_the_members_by_pread(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["srs"])
    descriptor = os.open(tmp_path / "out" / "shards" / "000000.tar", os.O_RDONLY)
    rows = read_index(tmp_path / "out")
    for row in rows:
        assert row["shard"] == "shards/000000.tar"
        members = {member["name"]: os.pread(descriptor, member["size"], member["offset"]) for member in row["members"]}
        assert list(members) == ["mp4", "json", "frame0.jpg", "frame1.jpg", "frame2.jpg"] + [
            f"ref{number:02d}.png" for number in range(8)
        ] + ["background.png"]
        assert json.loads(members["json"])["key"] == row["key"]
        assert members["mp4"] == (tmp_path / "clips" / f"{row['key']}.mp4").read_bytes()
        assert sum(map(len, members.values())) == row["bytes"]
    os.close(descriptor)
    assert [row["row"] for row in rows] == [0, 2]


def test_key_json_and_commit_and_dataset_follow_their_schemas(tmp_path):
    out = tmp_path / "out"
    make_output(out, tmp_path / "clips", ["sr"])
    for name, file in (("commit", "commits/000000.json"), ("dataset", "dataset.json")):
        Draft202012Validator(json_schema(name)).validate(json.loads((out / file).read_bytes()))
    document = json.loads(encode_document(document_of(make_sample(tmp_path, 0), PROVENANCE)))
    Draft202012Validator(json_schema("sample")).validate(document)
    assert pq.read_schema(out / "index" / "000000.parquet").equals(INDEX, check_metadata=True)
    assert pq.read_schema(out / "instances" / "000000.parquet").equals(INSTANCES, check_metadata=True)
    assert pq.read_schema(out / "rejects" / "000000.parquet").equals(REJECTS, check_metadata=True)


def test_index_counts_words_with_masks_first_and_leaves_faces_out(tmp_path):
    sample = make_sample(tmp_path, 0)
    sample.entities.insert(0, type(sample.entities[0])(word="chases", category="subject", spans=[(6, 12)]))
    row = index_row(document_of(sample, PROVENANCE), "shards/000000.tar", [], {})
    assert row["subject_words"] == ["dog", "chases"] and row["n_subjects"] == 1
    assert (row["object_words"], row["n_objects"], row["background_words"]) == (["red ball"], 1, ["meadow"])
    assert (row["subject_instances"], row["object_instances"]) == ([3], [2])
    assert (row["n_instances"], row["n_faces"], row["frames_with_subject"]) == (5, 3, 3)
    assert (row["min_detector_score"], row["residual"], row["flags"]) == (0.61, 0.125, ["still"])


def test_equal_rows_give_equal_bytes_wherever_they_passed_through(tmp_path):
    for out in ("a", "b"):
        rows = [make_sample(tmp_path, 0), make_rejection(1), make_sample(tmp_path, 2)]
        write(tmp_path / out, rows if out == "a" else decode_rows(encode_rows(rows)))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_tar_headers_say_nothing_about_the_machine_and_long_keys_fit(tmp_path):
    key = "k" * 120
    write(tmp_path / "out", [make_sample(tmp_path, 0), make_sample(tmp_path, 1, key=key)])
    with tarfile.open(tmp_path / "out" / "shards" / "000000.tar") as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname, m.type) for m in members} == {
        (0, 0, 0, 0o644, "", "", tarfile.REGTYPE)
    }
    assert members[-1].name == f"{key}.background.png"


def test_a_chunk_without_samples_has_a_commit_and_rejects_but_no_tar(tmp_path):
    commit = write(tmp_path, [make_rejection(5), make_rejection(6)])
    assert (commit.rows, commit.samples, commit.rejections, commit.first_row) == (2, 0, 2, 5)
    assert sorted(commit.files) == ["index/000000.parquet", "instances/000000.parquet", "rejects/000000.parquet"]
    assert not (tmp_path / "shards" / "000000.tar").exists()
    assert [row["reason"] for row in read_rejects(tmp_path)] == ["no_subject", "no_subject"]


def test_a_commit_names_size_and_hash_of_every_file(tmp_path):
    commit = write(tmp_path / "out", [make_sample(tmp_path, 0), make_rejection(1)])
    assert list(layout.commits(str(tmp_path / "out"))) == [commit]
    assert layout.committed(str(tmp_path / "out")) == {0}
    for name, file in commit.files.items():
        data = (tmp_path / "out" / name).read_bytes()
        assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_committed_chunk_is_never_written_again(tmp_path):
    commit = write(tmp_path / "out", [make_sample(tmp_path, 0)])
    before = files_of(tmp_path / "out")
    assert write(tmp_path / "out", [make_rejection(0)]) == commit
    assert files_of(tmp_path / "out") == before


def test_missing_or_disordered_rows_are_refused_and_leave_nothing(tmp_path):
    for rows in ([], [make_rejection(0), make_rejection(2)], [make_rejection(1), make_rejection(0)]):
        with pytest.raises(ValueError, match="consecutive"):
            write(tmp_path / "out", rows)
    assert files_of(tmp_path / "out") == {}


def test_a_cut_clip_is_stored_from_its_bytes(tmp_path):
    sample = make_sample(tmp_path, 0)
    sample.media = b"re-encoded"
    Path(sample.clip.address).unlink()
    write(tmp_path / "out", [sample])
    with tarfile.open(tmp_path / "out" / "shards" / "000000.tar") as tar:
        assert tar.extractfile("clip-0000.mp4").read() == b"re-encoded"


def vanish(sample):
    Path(sample.clip.address).unlink()


def become_a_pipe(sample):
    vanish(sample)
    os.mkfifo(sample.clip.address)


def change(sample):
    sample.source_bytes = Path(sample.clip.address).stat().st_size
    Path(sample.clip.address).write_bytes(b"another clip")


def lose_a_stage(sample):
    sample.background = None


def score_nonsense(sample):
    sample.instances[0].detector_score = float("nan")


@pytest.mark.parametrize(
    ("accident", "reason", "words"),
    [
        (vanish, "not_found", "gone"),
        (become_a_pipe, "not_a_file", "regular file"),
        (change, "transient_exhausted", "changed"),
        (lose_a_stage, "internal_error", "background"),
        (score_nonsense, "internal_error", "instances[0].detector_score is nan"),
    ],
)
def test_a_clip_that_cannot_be_stored_is_rejected_and_its_neighbours_are_kept(tmp_path, accident, reason, words):
    rows = [make_sample(tmp_path, 0), make_sample(tmp_path, 1), make_sample(tmp_path, 2)]
    accident(rows[1])
    commit = write(tmp_path / "out", rows)
    (rejected,) = read_rejects(tmp_path / "out")
    assert (commit.samples, rejected["row"], rejected["reason"]) == (2, 1, reason)
    assert words in rejected["message"]
    with tarfile.open(tmp_path / "out" / "shards" / "000000.tar") as tar:
        assert {name.split(".")[0] for name in tar.getnames()} == {"clip-0000", "clip-0002"}


def test_a_clip_that_shrinks_while_it_is_copied_leaves_no_trace_in_the_tar(tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "PAUSES_S", (0.0,) * 3)
    good, shrinking = make_sample(tmp_path, 0), make_sample(tmp_path, 1)

    class Shrinking(io.FileIO):
        def seek(self, offset, whence=0):
            return super().seek(offset, whence) + (500 if whence == io.SEEK_END else 0)

    opened = writer.storage.open_read
    monkeypatch.setattr(writer.storage, "open_read", lambda at: Shrinking(at) if at == shrinking.clip.address else opened(at))
    write(tmp_path / "a", [good, shrinking])
    (rejected,) = read_rejects(tmp_path / "a")
    assert (rejected["stage"], rejected["reason"]) == ("source", "transient_exhausted")
    write(tmp_path / "b", [good, make_rejection(1)])
    assert (tmp_path / "a/shards/000000.tar").read_bytes() == (tmp_path / "b/shards/000000.tar").read_bytes()


def test_a_shard_of_an_interrupted_commit_goes_when_its_clips_have_gone(tmp_path):
    sample = make_sample(tmp_path, 0)
    write(tmp_path / "out", [sample])
    (tmp_path / "out" / "commits" / "000000.json").unlink()
    vanish(sample)
    write(tmp_path / "out", [sample])
    assert not (tmp_path / "out" / "shards" / "000000.tar").exists()


def test_a_rejected_caption_is_shortened_and_broken_text_is_replaced(tmp_path):
    rejection = make_rejection(0, "source", "bad_encoding")
    rejection.caption, rejection.message = "x" * 5000, "byte \udcff"
    write(tmp_path, [rejection])
    (row,) = read_rejects(tmp_path)
    assert len(row["caption"]) == 2000 and row["message"] == "byte ?"
    assert json.loads(row["found"]) == rejection.found


def test_dataset_json_is_written_once_and_never_changed(tmp_path):
    out = str(tmp_path)
    dataset = make_dataset(4, 2, 2)
    layout.write_info(out, dataset)
    layout.write_info(out, dataset)
    assert layout.read_info(out) == dataset
    with pytest.raises(FileExistsError, match="another"):
        layout.write_info(out, make_dataset(5, 2, 3))
    (tmp_path / "dataset.json").write_text('{"schema": 1}')
    with pytest.raises(ValueError, match=r"dataset\.json"):
        layout.read_info(out)


def test_an_object_store_gets_the_same_bytes_as_a_disk(tmp_path):
    import fsspec

    rows = [make_sample(tmp_path, 0), make_rejection(1)]
    write(tmp_path / "out", rows)
    writer.write_chunk("memory://twin", 0, rows, provenance=PROVENANCE)
    store = fsspec.filesystem("memory")
    stored = {name.removeprefix("/twin/"): store.cat_file(name) for name in store.find("/twin")}
    assert stored == files_of(tmp_path / "out")


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(caption=text, extra=st.dictionaries(text, st.one_of(text, st.integers(-(2**53), 2**53), st.none(), st.booleans())))
def test_any_caption_and_any_extra_columns_come_back_verbatim(tmp_path_factory, caption, extra):
    folder = tmp_path_factory.mktemp("any")
    sample = make_sample(folder, 0)
    sample.clip = type(sample.clip)(
        row=0, key="k", source_id=caption, uri="k.mp4", address=sample.clip.address, caption=caption, extra=extra
    )
    write(folder / "out", [sample])
    with tarfile.open(folder / "out" / "shards" / "000000.tar") as tar:
        record = json.loads(tar.extractfile("k.json").read().decode("utf-8"))
    assert (record["caption"], record["source_id"], record["extra"], record["id"]) == (caption, caption, extra, None)
    (row,) = read_index(folder / "out")
    assert row["caption_chars"] == len(caption)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(0, 10**9), kinds=st.text("srv", min_size=1, max_size=6))
def test_every_row_is_in_the_index_or_in_rejects_exactly_once(tmp_path_factory, first, kinds):
    folder = tmp_path_factory.mktemp("law")
    rows = []
    for number, kind in enumerate(kinds):
        rows.append(make_rejection(first + number) if kind == "r" else make_sample(folder, first + number))
        if kind == "v":
            vanish(rows[-1])
    commit = write(folder / "out", rows)
    index, rejects = read_index(folder / "out"), read_rejects(folder / "out")
    assert sorted(row["row"] for row in index + rejects) == list(range(first, first + len(kinds)))
    assert (commit.samples, commit.rejections, commit.rows) == (len(index), len(rejects), len(kinds))
    assert len(index) == kinds.count("s")


def test_rows_are_taken_one_by_one_so_memory_holds_one_sample(tmp_path):
    import weakref

    alive = []

    class Tracked(np.ndarray):
        pass

    def rows():
        for row in range(6):
            sample = make_sample(tmp_path, row)
            token = np.zeros(1).view(Tracked)
            sample.frames[0].__dict__["token"] = token
            alive.append(weakref.ref(token))
            del token
            yield sample
            del sample
            assert sum(ref() is not None for ref in alive) <= 2

    assert write(tmp_path / "out", rows()).samples == 6
    assert isinstance(make_rejection(0), Rejection)
