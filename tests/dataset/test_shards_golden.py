"""The bytes of a shard are pinned: a change that alters them is a change of the contract and needs a new schema version.

The tar is pinned byte for byte. The tables are pinned by content, for Parquet's bytes name the version of their writer.
"""

import hashlib
import json
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from samples import PROVENANCE, make_dataset

from materia.dataset import layout, writer
from materia.dataset.validate import validate
from stages.records import decode_rows

ROWS = Path(__file__).resolve().parents[1] / "data" / "golden" / "rows.msgpack"
TAR = "25a87d7a1dd757ed870b7de8de99a25441453f3054fc8f104f29565a676176b3"
INDEX = "621eca3eb52ae3cf977aaa8d73f534dd13161cf1fd19b791936807617aa8127e"
INSTANCES = "f1d6d2949ad871ce9958da514c03981454ee8feaaca621431b6bf9203fc71ce1"
EXTRA = {"licence": "string", "views": "int64"}
REJECTS = "b93cdccc8396b0cddddbcd35248ca1d5826dac9f236381bc807b385a3516ece8"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    (folder / "clip.mp4").write_bytes(bytes(range(256)) * 9)
    rows = decode_rows(ROWS.read_bytes())
    rows[0].clip = msgspec.structs.replace(rows[0].clip, address=str(folder / "clip.mp4"))
    layout.write_info(str(folder / "out"), make_dataset(3, 1, 3))
    writer.write_chunk(str(folder / "out"), 0, rows, provenance=PROVENANCE, extra=EXTRA)
    return folder / "out"


def test_the_tar_has_the_pinned_bytes(out):
    assert sha256((out / "shards" / "000000.tar").read_bytes()) == TAR


@pytest.mark.parametrize(("table", "pinned"), [("index", INDEX), ("instances", INSTANCES), ("rejects", REJECTS)])
def test_the_tables_have_the_pinned_content(out, table, pinned):
    rows = pq.read_table(out / table / "000000.parquet").to_pylist()
    assert sha256(json.dumps(rows, ensure_ascii=False).encode()) == pinned


def test_the_commit_record_says_so(out):
    record = json.loads((out / "commits" / "000000.json").read_bytes())
    tar = record["files"].pop("shards/000000.tar")
    assert tar == {"bytes": (out / "shards" / "000000.tar").stat().st_size, "sha256": TAR}
    assert list(record["files"]) == ["index/000000.parquet", "instances/000000.parquet", "rejects/000000.parquet"]
    del record["files"]
    assert record == {"schema": 2, "chunk": 0, "rows": 3, "samples": 2, "rejections": 1, "first_row": 0}


def test_the_golden_output_is_valid(out):
    assert validate(str(out)).findings == []
