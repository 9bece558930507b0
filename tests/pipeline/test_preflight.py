"""A job that would go on with another configuration is told in words what changed, and no hash."""

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from materia.dataset.layout import DatasetInfo
from pipeline.config import Config
from pipeline.preflight import JobError, check_same, record_libraries
from stages import specs
from stages.specs import FINGERPRINTED, STAGES, library_versions, stage_fingerprints

IDENTITIES = {
    stage: {"weights": f"{number:064x}"} for number, stage in enumerate(FINGERPRINTED, start=10**70) if stage != "frames"
}
LIBRARIES = library_versions()


def dataset(config=None, identities=None, prompt="a" * 64, version="1.0", **fields):
    """What dataset.json says of a job of this configuration, with the fingerprints that the table of stages gives."""
    settings = Config.model_validate(config or {})
    known = IDENTITIES | (identities or {})
    known = {**known, "entities": {**known["entities"], "prompt": prompt}}
    known = {**known, "background": {**known["background"], "detector": str(known["localise"])}}
    stages = [SimpleNamespace(name=stage, identity=lambda stage=stage: known.get(stage, {})) for stage in FINGERPRINTED]
    rows_per_chunk = settings.engine.rows_per_chunk
    told = {"rows": 1, "chunks": 1, "rows_per_chunk": rows_per_chunk, "plan_sha256": "b" * 64, "prompt_sha": prompt}
    sha = stage_fingerprints(settings, stages)
    return DatasetInfo(**{**told, "version": version, "config": settings.result_fields(), "stage_sha": sha, **fields})


@pytest.fixture
def out(tmp_path):
    record_libraries(str(tmp_path), LIBRARIES)
    return str(tmp_path)


def lines(out, old, new, libraries=LIBRARIES):
    with pytest.raises(JobError) as refused:
        check_same(out, old, new, libraries)
    assert refused.value.exit_code == 4
    assert not re.search("[0-9a-f]{12,}", str(refused.value).removeprefix(out))
    first, *rest = str(refused.value).splitlines()
    assert first.startswith(f"{out} was made with another configuration; choose another output, or go back")
    return [line.removeprefix("  ") for line in rest if line.startswith("  ")]


def test_the_same_is_not_refused(out):
    check_same(out, dataset(), dataset(), LIBRARIES)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"localise": {"min_score": 0.5}}, ["localise.min_score: 0.25 -> 0.5"]),
        ({"frames": {"cut": {"crf": 20}}}, ["frames.cut.crf: 18 -> 20"]),
        ({"engine": {"rows_per_chunk": 8}}, ["engine.rows_per_chunk: 16 -> 8"]),
        ({"segment": {"backend": "sam", "options": {"checkpoint": "m"}}}, [
            "segment.backend: 'grabcut' -> 'sam'",
            "segment.options: {} -> None",
            "segment.options.checkpoint: None -> 'm'",
        ]),
        ({"source": {"allowed_roots": [".", "/nas"]}}, ["source.allowed_roots: None -> ['.', '/nas']"]),
    ],
)  # fmt: skip
def test_a_setting_is_told_with_its_values_and_not_what_follows_from_it(out, config, told):
    assert lines(out, dataset(), dataset(config)) == told


def test_a_hash_among_the_settings_only_changed(out):
    then, now = (dataset({"faces": {"backend": "yolo", "options": {"sha256": sha * 64}}}) for sha in "ab")
    assert lines(out, then, now) == ["faces.options.sha256 changed"]


def test_prompts_that_were_edited_are_told_by_their_folder(out):
    assert lines(out, dataset(), dataset(prompt="c" * 64)) == ["prompts/entities/ changed"]
    assert lines(out, dataset(prompt_sha="a7cc" * 16), dataset(prompt_sha="b05b" * 16)) == ["prompts/entities/ changed"]


def test_another_prompt_is_told_as_the_setting(out):
    now = dataset({"entities": {"prompt": "other"}}, prompt="c" * 64)
    assert lines(out, dataset(), now) == ["entities.prompt: 'entities' -> 'other'"]


@pytest.mark.parametrize("stage", [spec.name for spec in STAGES if spec.model])
def test_other_weights_are_told_by_their_stage_alone(out, stage):
    config = {"frames": {"backend": "transnetv2"}}
    (told,) = lines(out, dataset(config), dataset(config, identities={stage: {"weights": "f" * 64}}))
    assert told.startswith(f"the weights of {stage} changed")
    assert told == f"the weights of {stage} changed" or stage == "entities"


def test_another_cut_search_is_told_as_the_setting(out):
    assert lines(out, dataset(), dataset({"frames": {"backend": "transnetv2"}})) == ["frames.backend: None -> 'transnetv2'"]


def test_a_stage_that_is_computed_differently_is_told(out, monkeypatch):
    then = dataset()
    changed = tuple(spec._replace(revision=spec.revision + (spec.name == "frames")) for spec in STAGES)
    monkeypatch.setattr(specs, "STAGES", changed)
    assert lines(out, then, dataset()) == ["this version computes stage frames differently"]


def test_another_version_is_told_and_may_be_why_a_model_gives_other_results(out):
    told = lines(out, dataset(), dataset(identities={"segment": {"weights": "f" * 64}}, version="1.1"))
    assert told == [
        "version 1.0 of prima-materia made it, this is version 1.1",
        "the weights of segment changed, or this version computes stage segment differently",
    ]


def test_a_library_is_told_with_its_versions_and_not_the_stages_that_use_it(out):
    sha = {**dataset().stage_sha, "frames": "c" * 64, "localise": "d" * 64}
    told = lines(out, dataset(), dataset(stage_sha=sha), {**LIBRARIES, "opencv": "99.1"})
    assert told == [f"library.opencv: {LIBRARIES['opencv']!r} -> '99.1'"]


@pytest.mark.parametrize("record", [None, b"{", b'{"opencv": 1}'])
def test_without_a_record_of_the_libraries_they_may_be_why(tmp_path, record):
    if record is not None:
        (tmp_path / "_run").mkdir()
        (tmp_path / "_run/libraries.json").write_bytes(record)
    sha = {**dataset().stage_sha, "frames": "c" * 64}
    (told,) = lines(str(tmp_path), dataset(), dataset(stage_sha=sha))
    assert told.startswith("this version computes stage frames differently, or another version of pyav or x264 or ")


def test_a_stage_that_another_version_has_is_told(out):
    without = {stage: sha for stage, sha in dataset().stage_sha.items() if stage != "faces"}
    assert lines(out, dataset(stage_sha=without), dataset()) == ["stage faces is new in this version"]
    assert lines(out, dataset(), dataset(stage_sha=without)) == ["stage faces is not in this version"]
    assert lines(out, dataset(), dataset(stage_sha={**dataset().stage_sha, "shots": "e" * 64})) == [
        "stage shots is new in this version"
    ]


hashes = st.sampled_from("0123456789abcdef").map(lambda digit: digit * 64)


@given(st.dictionaries(st.sampled_from(FINGERPRINTED), hashes, min_size=1), hashes, st.sampled_from([0.25, 0.3]))
def test_whatever_changed_is_told_by_one_line_at_least_and_no_hash(tmp_path_factory, sha, prompt, score):
    out = tmp_path_factory.getbasetemp() / "any"
    record_libraries(str(out), LIBRARIES)
    now = dataset({"localise": {"min_score": score}}, prompt=prompt)
    assert lines(str(out), dataset(), dataset(now.config, prompt=prompt, stage_sha={**now.stage_sha, **sha}))
