"""`materia sheet`: which options go together, and what is said of what is not there."""

import pytest
from click.testing import CliRunner
from samples import make_output

from materia.cli.main import main


@pytest.fixture
def out(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["ss", "sr"])
    return tmp_path / "out"


def sheet(out, *options):
    return CliRunner().invoke(main, ["sheet", str(out), "--output", str(out.parent / "sheet.png"), *options])


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--samples", "1"],
        ["--where", "row > 0", "--where", '"dog" in subject_words', "--sort", "-min_mask_score", "--samples", "1"],
        ["--key", "clip-0002", "--key", "clip-0000"],
        ["--rejected", "no_subject", "--samples", "3"],
    ],
)
def test_what_is_asked_for_is_drawn(out, options):
    result = sheet(out, *options)
    assert result.exit_code == 0, result.output
    assert (out.parent / "sheet.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "0"], "1<=x<=100"),
        (["--samples", "-3"], "1<=x<=100"),
        (["--samples", "101"], "1<=x<=100"),
        (["--where", "row > 99"], "of 3 samples of"),
        (["--where", "rwo > 99"], "did you mean row?"),
        (["--where", ""], "is no expression like"),
        (["--sort", "min_mask_scor"], "did you mean min_mask_score"),
        (["--key", "clip-0003"], "no sample of the key 'clip-0003'"),
        (["--key", ""], "no sample of the key ''"),
        (["--rejected", "no_subjects"], "did you mean no_subject?"),
        (["--rejected", "no_subject", "--where", "row > 0"], "--rejected takes no --where beside it"),
        (["--rejected", "no_subject", "--sort", "row", "--key", "a"], "--rejected takes no --sort and no --key beside it"),
        (["--key", "clip-0000", "--sort", "row"], "--key takes no --sort beside it"),
        (["--key", "clip-0000", "--samples", "2"], "--key takes no --samples beside it"),
        (["--sort", "row", "--sort", "bytes"], "--sort is given 2 times"),
        (["--compare", "nowhere"], "nowhere is no output"),
        (["--compare", "nowhere", "--where", "row > 0"], "--compare takes no --where beside it"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line_and_nothing_is_drawn(out, options, message):
    result = sheet(out, *options)
    assert result.exit_code == 2
    said = [line for line in result.output.splitlines() if line.lower().startswith("error")]
    assert len(said) == 1 and message in said[0]
    assert not (out.parent / "sheet.png").exists()
