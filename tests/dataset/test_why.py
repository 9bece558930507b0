"""Why rows became no samples: `materia stats --why`, and that every reason has a cure that can be followed."""

import json
import re
from functools import reduce

import pytest
from click.testing import CliRunner
from samples import PROVENANCE, make_dataset, make_output, make_rejection

from materia.cli.main import main
from materia.dataset import layout, writer
from materia.dataset.why import collect_rejections
from pipeline.config import Config
from stages.specs import CURES, REASONS

ALL = sorted({reason for reasons in REASONS.values() for reason in reasons})


@pytest.mark.parametrize("reason", ALL)
def test_every_reason_has_a_cure_and_the_fields_it_names_can_be_set(reason):
    config = Config()
    named = re.findall(r"\b[a-z_]+(?:\.[a-z_]+)+", CURES[reason])
    for field in (field for field in named if field.partition(".")[0] in Config.model_fields):
        reduce(getattr, field.split("."), config)


def test_there_is_no_cure_without_a_reason():
    assert sorted(CURES) == ALL


def test_cures_name_fields():
    assert "frames.min_duration_s" in CURES["too_short"] and "localise.min_score" in CURES["no_instance"]


def rejections(folder, chunks):
    """An output of rejections only; each (stage, reason, message)."""
    out = str(folder / "out")
    layout.write_info(out, make_dataset(sum(map(len, chunks)), len(chunks), max(map(len, chunks))))
    row = 0
    for number, chunk in enumerate(chunks):
        rows = []
        for stage, reason, message in chunk:
            rows.append(make_rejection(row, stage, reason))
            rows[-1].message = message
            row += 1
        writer.write_chunk(out, number, rows, provenance=PROVENANCE)
    return out


SHORT = ("frames", "too_short", "0.500 s, the least is min_duration_s = 1")


def test_reasons_come_with_counts_examples_of_different_messages_and_what_to_do(tmp_path):
    out = rejections(
        tmp_path,
        [
            [SHORT, SHORT, ("entities", "no_subject", "nobody")],
            [("frames", "too_short", "0.25 s"), ("frames", "timeout", "30 s")],
        ],
    )
    found = collect_rejections(out)
    assert (found.rows, found.rejections) == (5, 5)
    assert [(why.stage, why.reason, why.count, why.share) for why in found.reasons] == [
        ("frames", "too_short", 3, 0.6), ("entities", "no_subject", 1, 0.2), ("frames", "timeout", 1, 0.2)
    ]  # fmt: skip
    assert [(example.row, example.key, example.message) for example in found.reasons[0].examples] == [
        (0, "clip-0000", SHORT[2]), (3, "clip-0003", "0.25 s")
    ]  # fmt: skip
    assert "frames.min_duration_s" in found.reasons[0].cure


def test_the_command_prints_a_line_a_reason_and_the_same_as_data(tmp_path):
    out = rejections(tmp_path, [[SHORT, ("localise", "no_instance", "best scores: dog 0.14 " + "and so on " * 60)]])
    printed = CliRunner().invoke(main, ["stats", out, "--why"])
    assert printed.exit_code == 0
    first, _, *lines = printed.output.splitlines()
    assert first == "2 rejections of 2 rows; what you change takes effect in a new output"
    assert [line.split()[:3] for line in lines] == [["frames", "too_short", "1"], ["localise", "no_instance", "1"]]
    assert "row 0, clip-0000: 0.500 s" in lines[0] and "frames.min_duration_s" in lines[0]
    data = json.loads(CliRunner().invoke(main, ["stats", out, "--why", "--json"]).output)
    assert data["rejections"] == 2 and data["reasons"][0]["examples"] == [{"row": 0, "key": "clip-0000", "message": SHORT[2]}]


def test_hostile_messages_and_stages_of_your_own_are_told_without_harm(tmp_path):
    out = rejections(tmp_path, [[("frames", "unreadable", "\x1b[2J[red]\nno\u202e")]])
    printed = CliRunner().invoke(main, ["stats", out, "--why"]).output
    assert "\x1b" not in printed and "\u202e" not in printed and "[red]" in printed and len(printed.splitlines()) == 3
    out = rejections(tmp_path / "mine", [[("length", "too_wordy", "9 words")]])
    assert collect_rejections(out).reasons[0].cure == "see the message"


def test_without_rejections_or_an_output_that_is_said(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["s"])
    assert CliRunner().invoke(main, ["stats", str(tmp_path / "out"), "--why"]).output == "0 rejections of 1 row\n"
    assert CliRunner().invoke(main, ["stats", str(tmp_path / "nowhere"), "--why"]).exit_code == 2
