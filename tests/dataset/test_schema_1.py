"""An output of schema 1, as version 0.1.0 wrote it, opens, validates, filters and is trained on; new outputs are of schema 2.

`tests/data/golden/schema1` has a clip of 19, one of 17 and one of 24 frames, 24 a second, and a rejection, in two chunks.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from clips import read_number
from jsonschema import Draft202012Validator
from samples import make_output

from materia.dataset.json_schema import json_schema
from materia.dataset.layout import read_info
from materia.dataset.reader import Dataset
from materia.dataset.stats import collect
from materia.dataset.validate import validate

DATA = Path(__file__).resolve().parents[1] / "data"
OLD = DATA / "golden" / "schema1"


@pytest.fixture
def samples():
    dataset = Dataset(str(OLD))
    yield dataset
    dataset.close()


def test_it_is_valid():
    report = validate(str(OLD))
    assert (report.findings, report.samples, report.rejections) == ([], 3, 1)


def test_it_opens_with_all_that_it_has(samples):
    assert [sample.document.schema for sample in samples] == [1, 1, 1]
    assert read_info(str(OLD)).schema == 1
    for sample in samples:
        assert sample.frames.shape == (3, 72, 96, 3)
        assert len(sample.references) == len(sample.masks) == len(sample.document.instances)
        assert sample.background.shape == (72, 96, 3)
        assert sample.clip()[4:8] == b"ftyp"
        assert sample.document.video.mirrored is False


def test_it_can_be_filtered_by_flags_of_either_schema(samples):
    assert len(samples.where('not ("hdr" in flags)')) == 3
    assert len(samples.where('"still" in flags')) == 2


def test_its_documents_satisfy_the_schema_that_was_pinned_for_them(samples):
    pinned = json.loads((DATA / "schemas" / "1" / "sample.schema.json").read_text())
    for number in range(len(samples)):
        document = json.loads(samples.read(number, ["json"])["json"])
        Draft202012Validator(pinned).validate(document)
        Draft202012Validator(json_schema("sample")).validate(document)


def test_training_reads_its_clips(samples):
    from trainer.config import BucketSettings, DataSettings
    from trainer.data.items import PixelSource

    bucket = BucketSettings(frames=9, height=72, width=96, batch=1)
    source = PixelSource(samples, DataSettings(buckets=(bucket,), fps=24, validation=0, reference_px=32), seed=1)
    for number in range(3):
        numbers = [read_number(picture) for picture in source.read(0, 0, number, 0).video]
        assert np.diff(numbers).tolist() == [1] * 8


def test_statistics_are_made_of_it():
    assert collect(str(OLD)).samples == 3


def test_what_is_written_now_is_of_schema_2(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["sr"])
    records = [json.loads((tmp_path / "out" / name).read_text())["schema"] for name in ("dataset.json", "commits/000000.json")]
    document = Dataset(str(tmp_path / "out")).document(0)
    assert (records, document.schema) == ([2, 2], 2)


def test_schemas_are_not_mixed_in_an_output(tmp_path):
    out = shutil.copytree(OLD, tmp_path / "out")
    for name, other in (("dataset.json", "dataset.json 2"), ("commits/000001.json", "the commit record 2")):
        record = out / name
        kept = record.read_text()
        record.write_text(kept.replace('"schema": 1', '"schema": 2'))
        assert any(other in finding.message for finding in validate(str(out)).findings)
        record.write_text(kept)
