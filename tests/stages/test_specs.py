"""A further stage is its own module, a row in the table and a field of the records; everything else follows."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages.specs import FINGERPRINTED, MODEL_STAGES, REASONS, STAGE_ORDER, STAGES

ROOT = Path(__file__).resolve().parents[2]
STAGE = """
from pydantic import Field
from materia.base.settings import Settings
from stages.records import reject


class LengthSettings(Settings):
    max_words: int = Field(5, ge=1, description="longer captions: too_wordy")


class Length:
    name = "length"

    def __init__(self, settings):
        self.settings = settings

    def missing(self):
        return []

    def identity(self):
        return {}

    def setup(self):
        pass

    def close(self):
        pass

    def process(self, samples):
        rows = []
        for sample in samples:
            sample.n_words = len(sample.clip.caption.split())
            wordy = sample.n_words > self.settings.max_words
            rows.append(reject(sample, "length", "too_wordy", f"{sample.n_words} words") if wordy else sample)
        return rows
"""
JOB = """
import json
from pathlib import Path
from jobs import make_manifest
from materia.base.settings_file import load_settings
from materia.dataset.json_schema import json_schema
from materia.dataset.validate import validate
from pipeline.config import Config
from pipeline.job import run_job
from stages.specs import build_stages
from stub_stages import build_stubs


def factory(config, names):
    return [build_stages(config, [name])[0] if name == "length" else build_stubs(config, [name])[0] for name in names]


def run(max_words):
    config = load_settings(Config, "local", (f"length.max_words={max_words}",))
    done = run_job(config, input="clips/manifest.jsonl", output="out", engine="serial", stage_factory="job:factory")
    return done.exit_code, done.message


if __name__ == "__main__":
    make_manifest(Path("clips"), ["a dog", "a dog and a cat and a bird"])
    first, second = run(3), run(9)
    findings = " ".join(finding.message for finding in validate("out").findings)
    fields = json_schema("sample")["$defs"]["Document"]["properties"]
    print(json.dumps([first, second, findings, "n_words" in fields]))
"""


def test_the_table_names_every_stage_once_and_its_classes_can_be_found():
    assert len(set(STAGE_ORDER)) == len(STAGES)
    assert set(MODEL_STAGES) <= set(FINGERPRINTED) < set(STAGE_ORDER) < set(REASONS)
    for spec in STAGES:
        module, _, name = spec.step.partition(":")
        assert getattr(importlib.import_module(module), name).name == spec.name


@pytest.fixture
def house(tmp_path):
    """The product with one more stage, before the cut."""
    for room in ("materia", "pipeline", "stages", "prompts", "configs", "trainer"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "stages" / "length.py").write_text(STAGE)
    table, records = tmp_path / "stages" / "specs.py", tmp_path / "stages" / "records.py"
    row = '    StageSpec("length", "stages.length:Length", LengthSettings, reasons=("too_wordy",)),\n    StageSpec("cut"'
    text = table.read_text().replace('    StageSpec("cut"', row)
    table.write_text(text.replace("from stages.records", "from stages.length import LengthSettings\nfrom stages.records"))
    field = "    flags: list[Flag] = []\n"
    records.write_text(records.read_text().replace(field, f"{field}    n_words: int = 0\n"))
    (tmp_path / "configs" / "local.yaml").write_text("engine: {rows_per_chunk: 16}\n")
    (tmp_path / "job.py").write_text(JOB)
    return tmp_path


def test_a_stage_is_added_by_its_module_a_row_and_a_field(house):
    helpers = [str(ROOT / "tests" / folder) for folder in ("pipeline", "stages", "dataset", "base")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(house), *helpers])}

    def python(*arguments):
        done = subprocess.run([sys.executable, *arguments], cwd=house, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    first, second, findings, in_schema = json.loads(python("job.py"))
    assert first[0] == 0 and "2 rows = 1 sample + 1 rejection" in first[1]
    assert second[0] == 4 and "length.max_words: 3 -> 9" in second[1] and "stage_sha.length" in second[1]
    assert in_schema and "n_words" not in findings and "too_wordy" not in findings
    info = json.loads((house / "out" / "dataset.json").read_text())
    assert info["config"]["length"] == {"max_words": 3} and "length" in info["stage_sha"]
    assert python("-c", "import materia; print(materia.open_dataset('out')[0].document.n_words)") == "2"
