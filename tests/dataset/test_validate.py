"""`validate` finds nothing in a good output, something in every bad one, and survives all of them."""

import hashlib
import io
import json
import shutil
import struct
import tarfile
import zlib

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from rich.console import Console
from samples import PROVENANCE, make_dataset, make_output, make_rejection, make_sample

from materia.dataset import layout, writer
from materia.dataset.findings import Validation, render
from materia.dataset.masks import decode_rle
from materia.dataset.sample_checks import Recipe, grow
from materia.dataset.schema import INDEX
from materia.dataset.validate import validate


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    make_output(folder / "out", folder / "clips", ["sr", "rr", "ss"])
    return folder / "out"


@pytest.fixture
def out(good, tmp_path):
    return shutil.copytree(good, tmp_path / "out")


def messages(out):
    return [f"{finding.file}: {finding.message}" for finding in validate(str(out)).findings]


def only(out, words):
    """Every finding is about `words`, and there is one."""
    found = messages(out)
    assert any(words in message for message in found), found
    return found


def rebuilt(out, change, number=0):
    """Rewrite a shard member by member: `change(name, data)` -> data, a TarInfo with data, or None; commit the new hash."""
    path = out / "shards" / f"{number:06d}.tar"
    with tarfile.open(path) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            changed = change(name, data)
            if changed is None:
                continue
            info, content = changed if isinstance(changed, tuple) else (tarfile.TarInfo(name), changed)
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    rehash(out, number)


def rehash(out, number=0):
    path = out / "commits" / f"{number:06d}.json"
    record = json.loads(path.read_bytes())
    for name, file in record["files"].items():
        data = (out / name).read_bytes()
        file.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    path.write_text(json.dumps(record))


def edit_json(out, change, number=0):
    """Change KEY.json of the samples of a shard in place."""

    def rewrite(name, data):
        if not name.endswith(".json"):
            return data
        document = json.loads(data)
        change(document)
        return json.dumps(document, ensure_ascii=False).encode()

    rebuilt(out, rewrite, number)


def test_a_good_output_has_no_findings(out):
    report = validate(str(out))
    assert (report.ok, report.findings) == (True, [])
    assert (report.chunks, report.samples, report.rejections) == (3, 3, 3)


def test_a_missing_output_is_said_so(tmp_path):
    with pytest.raises(layout.OutputError, match="no output"):
        validate(str(tmp_path))


def test_an_output_in_an_object_store_is_checked_the_same_way(tmp_path):
    rows = [make_sample(tmp_path, 0), make_rejection(1)]
    layout.write_info("memory://checked", make_dataset(2, 1, 2))
    writer.write_chunk("memory://checked", 0, rows, provenance=PROVENANCE)
    assert validate("memory://checked").findings == []


def test_one_changed_byte_of_a_clip_is_found(out):
    path = out / "shards" / "000000.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    assert messages(out) == ["shards/000000.tar: has other content than was committed (SHA-256)"]


@pytest.mark.parametrize(
    "name", ["shards/000002.tar", "index/000000.parquet", "instances/000002.parquet", "rejects/000001.parquet"]
)
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "noise", "folder"])
def test_damaged_files_become_findings(out, name, damage):
    path = out / name
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "noise": np.random.default_rng(0).bytes(5000)}[damage])
    only(out, name)


@pytest.mark.parametrize("content", ["", "null", "[" * 100_000, '{"schema": 1}', '{"schema": 2}', "\udcff"])
@pytest.mark.parametrize("name", ["commits/000001.json", "dataset.json"])
def test_damaged_records_become_findings(out, name, content):
    (out / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    only(out, name)


def test_a_commit_cannot_point_outside_the_output(out):
    path = out / "commits" / "000000.json"
    record = json.loads(path.read_bytes())
    record["files"]["../../../etc/passwd"] = {"bytes": 1, "sha256": "0" * 64}
    path.write_text(json.dumps(record))
    only(out, "'../../../etc/passwd' does not match")


def test_an_unfinished_job_is_an_error_and_its_uncommitted_files_are_warnings(out):
    (out / "commits" / "000002.json").unlink()
    (out / "index" / ".000002.parquet.01234567.tmp").write_bytes(b"half")
    report = validate(str(out))
    assert (report.errors, report.warnings) == (1, 5)
    assert any("1 of 3 chunks not committed" in finding.message for finding in report.findings)


def test_a_row_that_is_lost_or_there_twice_breaks_the_conservation_law(out):
    table = pq.read_table(out / "rejects" / "000001.parquet")
    twice = table.take([0, 0])
    pq.write_table(twice, out / "rejects" / "000001.parquet")
    rehash(out, 1)
    assert messages(out) == [
        "commits/000001.json: row 2 is there 2 times",
        "commits/000001.json: neither sample nor rejection: 1 of rows 2 to 3",
    ]


def test_an_unknown_reason_is_found(tmp_path):
    layout.write_info(str(tmp_path), make_dataset(2, 1, 2))
    rows = [make_rejection(0, "frames", "no_subject"), make_rejection(1, "any", "timeout")]
    writer.write_chunk(str(tmp_path), 0, rows, provenance=PROVENANCE)
    found = messages(tmp_path)
    assert len(found) == 2 and "frames/no_subject is not a known reason" in found[0] and "any/timeout" in found[1]


def test_the_same_key_in_two_shards_is_found(tmp_path):
    layout.write_info(str(tmp_path / "out"), make_dataset(2, 2, 1))
    for chunk in range(2):
        row = make_sample(tmp_path, chunk, key="twin")
        writer.write_chunk(str(tmp_path / "out"), chunk, [row], provenance=PROVENANCE)
    assert messages(tmp_path / "out") == ["index/000001.parquet: the key is already in shards/000000.tar"]


def test_chunks_whose_rows_overlap_are_found(tmp_path):
    layout.write_info(str(tmp_path), make_dataset(4, 2, 2))
    for chunk, first in enumerate((0, 1)):
        rows = [make_rejection(first), make_rejection(first + 1)]
        writer.write_chunk(str(tmp_path), chunk, rows, provenance=PROVENANCE)
    only(tmp_path, "first_row 1 does not follow chunk 0")


def test_an_index_that_disagrees_with_the_tar_is_found(out):
    path = out / "index" / "000000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0]["members"][0]["offset"] += 512
    rows[0]["n_faces"] = 1
    pq.write_table(pa.Table.from_pylist(rows, INDEX), path)
    rehash(out)
    found = messages(out)
    assert len(found) == 2 and "n_faces 1" in found[0] and "members" in found[1]


def set_in(*path, value):
    def change(document):
        *way, last = path
        for step in way:
            document = document[step]
        document[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_in("surprise", value=1), "Additional properties"),
        (set_in("row", value="0"), "$.row"),
        (set_in("key", value="other"), "KEY.json says key 'other'"),
        (set_in("entities", 0, "spans", 0, value=[3, 6]), "span [3, 6] of 'dog'"),
        (set_in("entities", 0, "spans", 0, value=[5, 2]), "span [5, 2]"),
        (set_in("entities", 1, "word", value="Dog"), "two entities have the same word"),
        (set_in("instances", 0, "word", value="cat"), "is no subject word"),
        (set_in("instances", 0, "box_xyxy_px", value=[0, 0, 97, 10]), "not inside the 96 x 72 frame"),
        (set_in("instances", 0, "mask_rle", "size", value=[60000, 60000]), "mask of size [60000, 60000]"),
        (set_in("instances", 0, "mask_rle", "counts", value="PPPPPPPPPPPPPPP0"), "run-length code is broken"),
        (set_in("instances", 0, "crop_xyxy_px", value=[0, 0, 5, 5]), "not the mask's bounding box"),
        (set_in("instances", 0, "area_share", value=0.9), "area_share is 0.9"),
        (set_in("instances", 1, "parent", value=7), "is a face whose parent 7"),
        (set_in("instances", 2, "frame", value=0), "second instance of its word"),
        (set_in("instances", 0, "member", value="ref99.png"), "has the members"),
        (set_in("instances", 0, "detector_score", value=float("nan")), "KEY.json cannot be read"),
        (set_in("frames", 0, "index", value=118), "not in order"),
        (set_in("background", "masked_share", value=0.01), "masked_share is 0.01"),
        (set_in("provenance", "stage_sha", value={"entities": "0" * 64}), "made with another prompt or another stage"),
        (set_in("flags", value=["long", "long"]), "a flag is there twice"),
        (set_in("entities", 0, "spans", value=[[-1, 0]]), "span [-1, 0]"),
        (set_in("background", "method", value="opencv+dilate1"), "retry_dilate was 0"),
        (set_in("background", "method", value="opencv+dilate1"), "the masks of frame 1 give"),
        (set_in("provenance", "prompt_sha", value="x"), "another prompt"),
    ],
)  # fmt: skip
def test_every_lie_in_key_json_is_found(out, change, words):
    edit_json(out, change)
    only(out, words)


def test_a_background_that_was_drawn_again_is_compared_with_its_larger_mask(out):
    dataset = json.loads((out / "dataset.json").read_bytes())
    dataset["config"]["background"] = {"dilate_px": 4, "dilate_times": 1, "retry_dilate": 2}
    (out / "dataset.json").write_text(json.dumps(dataset))
    faults = ("outside the mask", "the masks of frame 1 give", "retry_dilate")
    assert any(fault in message for fault in faults for message in messages(out))
    for path in (out / "shards").iterdir():
        edit_json(out, set_in("background", "method", value="opencv+dilate2"), int(path.stem))
    assert not any(fault in message for fault in faults for message in messages(out))


def picture(mode, size, kind="PNG", colour=0):
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("member", "data", "words"),
    [
        ("mp4", b"", "the clip has no bytes"),
        ("json", b"[" * 50_000, "KEY.json"),
        ("json", b'{"caption": "\xff"}', "KEY.json cannot be read"),
        ("frame0.jpg", b"no picture", "is not a readable JPEG"),
        ("frame0.jpg", picture("RGB", (96, 72)), "is not a readable JPEG"),
        ("frame2.jpg", picture("RGB", (48, 36), "JPEG"), "frames differ in size"),
        ("ref00.png", picture("RGBA", (5, 5)), "is 5 x 5, not"),
        ("ref00.png", picture("RGB", (29, 41)), "not RGBA"),
        ("ref00.png", picture("RGBA", (29, 41), colour=(0, 0, 0, 128)), "other than 0 and 255"),
        ("ref00.png", picture("RGBA", (29, 41), colour=(0, 0, 0, 255)), "alpha is not the mask"),
        ("background.png", picture("RGB", (96, 72)), "differs from frame1.jpg outside the mask"),
        ("background.png", picture("L", (96, 72)), "not RGB"),
        ("background.png", None, "has the members"),
    ],
    ids=str.split("mp4 bomb encoding text png small crop rgb alpha full other grey gone"),
)  # fmt: skip
def test_every_wrong_member_is_found(out, member, data, words):
    rebuilt(out, lambda name, old: data if name.endswith(f".{member}") else old)
    only(out, words)


def strange_member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


@pytest.mark.parametrize(
    "replacement",
    [
        strange_member("../../escape.json"),
        strange_member("/etc/passwd"),
        strange_member("clip-0000.json", tarfile.SYMTYPE, "/etc/passwd"),
        strange_member("clip-0000.json", tarfile.LNKTYPE, "clip-0000.mp4"),
        strange_member("clip-0000.json", tarfile.FIFOTYPE),
        strange_member("clip-0000.exe"),
    ],
)
def test_strange_tar_members_are_found_and_the_shard_is_not_read_further(out, replacement):
    rebuilt(out, lambda name, data: replacement if name.endswith(".json") else data)
    found = only(out, "shards/000000.tar: ")
    assert len(found) == 1


def test_a_picture_that_claims_to_be_enormous_is_not_decoded(out):

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    rebuilt(out, lambda name, data: bomb if name.endswith("ref00.png") else data)
    only(out, "the crop is")


def test_a_report_is_printed_without_control_characters_and_is_json(out):
    edit_json(out, set_in("entities", 0, "word", value="\x1b[2J[red]dog"))
    report = validate(str(out))
    buffer = io.StringIO()
    render(report, Console(file=buffer, width=200, color_system=None))
    assert "\x1b" not in buffer.getvalue() and "[red]dog" in buffer.getvalue()
    assert json.loads(msgspec.json.encode(report))["errors"] == report.errors > 0


def printed(report, width=80, terminal=False):
    buffer = io.StringIO()
    render(report, Console(file=buffer, width=width, color_system=None, force_terminal=terminal))
    return buffer.getvalue().splitlines()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_finding_is_a_line_with_its_whole_path_however_narrow_the_paper(terminal):
    report = Validation(chunks=1, samples=2)
    report.add("shards/" + "deep/" * 60 + "000000.tar", "says\nwhat " * 30, key="k" * 120)
    report.add("index/000000.parquet", "[red]is odd[/]")
    lines = printed(report, 40, terminal)
    assert len(lines) == 3
    assert "deep/" * 60 + "000000.tar " + "k" * 120 in lines[0]
    assert "[red]is odd[/]" in lines[1]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((1, 1, 1), "1 chunk, 1 sample, 1 rejection: no errors, 0 warnings"),
        ((0, 0, 2), "0 chunks, 0 samples, 2 rejections: no errors, 0 warnings"),
    ],
)
def test_one_is_singular_and_all_other_numbers_are_plural(counts, said):
    assert printed(Validation(chunks=counts[0], samples=counts[1], rejections=counts[2])) == [said]


def test_one_error_and_one_warning_are_singular():
    report = Validation()
    report.add("dataset.json", "is odd")
    report.add("dataset.json", "is odd", severity="warning")
    assert printed(report)[-1].endswith(": 1 error, 1 warning")


@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
@pytest.mark.parametrize(
    "name", ["shards/000000.tar", "index/000000.parquet", "instances/000000.parquet", "rejects/000000.parquet"]
)
def test_of_a_lost_or_damaged_file_it_is_said_what_builds_it_again(out, name, damage):
    data = bytearray((out / name).read_bytes())
    (out / name).unlink()
    data[len(data) // 2] ^= 1
    if damage != "gone":
        (out / name).write_bytes(data[:-100] if damage == "cut" else data)
    line = printed(validate(str(out)))[0]
    assert line.startswith(f"error {name}: ")
    assert line.endswith("; materia run with the same configuration, input and output builds it again")


def test_every_error_names_its_cure(out):
    edit_json(out, set_in("entities", 0, "word", value="fox"))
    (out / "commits" / "000001.json").write_text("{}")
    (out / "commits" / "000002.json").unlink()
    report = validate(str(out))
    cures = {finding.file: finding.cure for finding in report.findings if finding.severity == "error"}
    assert all(cures.values())
    assert cures["shards/000000.tar"].startswith("delete commits/000000.json; then materia run")
    assert cures["commits/000001.json"].startswith("delete commits/000001.json; then materia run")
    assert cures["dataset.json"].endswith("finishes the job")
    (out / "dataset.json").write_text("{}")
    assert "copy it back" in next(f.cure for f in validate(str(out)).findings if f.file == "dataset.json")


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_masks_are_decoded_as_pycocotools_does(height, width, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert np.array_equal(decode_rle(counts, (height, width)), mask)


@settings(max_examples=100)
@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=60))
def test_any_run_length_code_is_decoded_or_refused(counts):
    mask = decode_rle(counts, (9, 7))
    assert mask is None or mask.shape == (9, 7)


def test_a_grown_mask_covers_its_dilation_and_its_holes():
    ring = np.zeros((40, 40), bool)
    ring[10:30, 10:30] = True
    ring[15:25, 15:25] = False
    grown = grow(ring, Recipe(dilate_px=4, dilate_times=1))
    assert grown[20, 20] and grown[10:30, 10:30].all() and not grown[0].any()
    assert np.array_equal(grow(np.zeros((5, 5), bool), Recipe(4, 3)), np.zeros((5, 5), bool))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.text("sr", min_size=2, max_size=2), min_size=1, max_size=3))
def test_whatever_the_mix_of_samples_and_rejections_the_law_holds(tmp_path_factory, kinds):
    folder = tmp_path_factory.mktemp("mix")
    make_output(folder / "out", folder / "clips", kinds)
    report = validate(str(folder / "out"))
    assert report.findings == []
    assert report.samples + report.rejections == 2 * len(kinds)
