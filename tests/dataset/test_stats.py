"""Statistics come from the committed tables alone, add up, and print without harm."""

import io
import json
import shutil

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from rich.console import Console
from samples import PROVENANCE, make_dataset, make_output, make_rejection, make_sample

import materia
from materia.cli.main import main
from materia.dataset import distributions, layout, stats, throughput, word_counts, writer
from materia.dataset.stats_text import render


@pytest.fixture
def out(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["sr", "rr", "ss"])
    shutil.rmtree(tmp_path / "out" / "shards")  # never needed
    return tmp_path / "out"


def printed(collected, width=120):
    buffer = io.StringIO()
    render(collected, Console(file=buffer, width=width, color_system=None))
    return buffer.getvalue()


def test_input_is_samples_plus_rejections_by_reason(out):
    found = stats.collect(str(out))
    assert (found.input, found.samples, found.rejections, found.chunks, found.planned_rows) == (6, 3, 3, 3, 6)
    assert [(reason.stage, reason.reason, reason.count, reason.share) for reason in found.reasons] == [
        ("entities", "no_subject", 3, 0.5)
    ]
    assert found.samples + sum(reason.count for reason in found.reasons) == found.input


def test_instances_words_frames_flags_and_bytes_are_counted(out):
    found = stats.collect(str(out))
    assert (found.instances, found.faces) == (15, 9)
    assert {name: (count.words, count.with_instance, count.instances) for name, count in found.categories.items()} == {
        "subject": (3, 3, 9),
        "object": (3, 3, 6),
        "background": (3, 0, 0),
    }
    assert [(word.word, word.samples, word.instances) for word in found.categories["subject"].top] == [("dog", 3, 9)]
    assert found.frames_with_subject == {"0": 0, "1": 0, "2": 0, "3": 3}
    assert found.flags == {"still": 1}
    assert found.duration_s == pytest.approx(12.012)
    assert found.distributions["min_detector_score"].median == 0.61


def test_scores_of_backgrounds_are_in_the_index_and_shown_where_they_were_measured(tmp_path):
    rows = [make_sample(tmp_path, row) for row in range(3)]
    for row, quality in zip(rows, (0.25, 0.75, None), strict=True):
        scores = (None, None, None) if quality is None else (1 - quality, 0.5, quality)
        row.background.residual_at_large, row.background.sharpness, row.background.quality = scores
    layout.write_info(str(tmp_path / "out"), make_dataset(3, 1, 3))
    writer.write_chunk(str(tmp_path / "out"), 0, rows, provenance=PROVENANCE)
    found = stats.collect(str(tmp_path / "out")).distributions
    assert (found["background_quality"].count, found["background_quality"].median) == (2, 0.5)
    assert (found["background_sharpness"].max, found["residual_at_large"].max) == (0.5, 0.75)
    data = materia.open_dataset(str(tmp_path / "out"))
    [best] = data.where("background_quality > 0.5 and residual_at_large < 0.3")
    assert best.document.background.quality == 0.75
    absent = json.loads(data.read(2, ["json"])["json"])["background"]
    assert not {"quality", "sharpness", "residual_at_large"} & set(absent), "as published, where it was not measured"


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        (["s"], ["1 row = 1 sample + 0 rejections", "5 masked instances", "3 face crops", "in 1 chunk"]),
        (["r"], ["1 row = 0 samples + 1 rejection"]),
        (["sr", "ss"], ["4 rows = 3 samples + 1 rejection", "in 2 chunks"]),
    ],
)
def test_one_is_one_and_not_ones(tmp_path, kinds, told):
    make_output(tmp_path / "one", tmp_path / "clips", kinds)
    lines = printed(stats.collect(str(tmp_path / "one"))).splitlines()
    for fact in told:
        assert any(line.strip() == fact or line.endswith(fact) for line in lines), lines


def test_piped_every_row_and_fact_is_a_line_of_its_own(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["sr", "ss"])
    long = "a very long thing with a name that goes on and on and on and on and on"
    sample = make_sample(tmp_path / "clips", 4, thing=long)
    writer.write_chunk(str(tmp_path / "out"), 2, [sample], provenance=PROVENANCE)
    done = CliRunner().invoke(main, ["stats", str(tmp_path / "out")])
    lines = [line.split() for line in done.output.splitlines()]
    assert [line[0] for line in lines if line[:1] in (["subject"], ["object"], ["background"])] == [
        "subject",
        "object",
        "background",
    ]
    (words,) = [line for line in done.output.splitlines() if line.startswith("object")]
    assert "red ball 3/6" in words and "a very long thing" in words
    facts = ("masked instances", "face crops", "flags:", "minutes of video", " MB in ")
    assert sum(any(fact in line for fact in facts) for line in done.output.splitlines()) == len(facts)


def test_only_committed_chunks_count(out):
    (out / "commits" / "000002.json").unlink()
    found = stats.collect(str(out))
    assert (found.input, found.samples) == (4, 1)
    assert "of 6 planned" in printed(found)


def test_stats_are_json(out):
    data = json.loads(msgspec.json.encode(stats.collect(str(out))))
    assert data["input"] == 6 and data["throughput"] is None


def test_throughput_adds_up_the_starts_of_a_job_and_passes_over_torn_lines(out):
    (out / "_run").mkdir()
    lines = [
        {"chunk": 0, "slice": 0, "rows": 2, "kept": 1, "wall_s": 1, "seconds": {"entities": 1.0, "frames": 2.0}, "end_s": 4.0},
        {"chunk": 1, "slice": 1, "rows": 2, "kept": 0, "wall_s": 1, "seconds": {"entities": 1.0}, "end_s": 6.0},
        {"chunk": 2, "slice": 2, "rows": 2, "kept": 2, "wall_s": 1, "seconds": {"frames": 3.0}, "end_s": 2.0},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"chunk": 2, "sli'
    (out / "_run" / "timings.jsonl").write_text(text)
    found = stats.collect(str(out))
    assert found.throughput == throughput.Throughput(2, 6, 8.0, 0.75, {"entities": 2.0, "frames": 5.0})
    assert "0.75 clips/s" in printed(found)


def test_hostile_words_cannot_reach_the_terminal(tmp_path):
    sample = make_sample(tmp_path, 0, subject="\x1b[31m[bold]dog\u202e")
    layout.write_info(str(tmp_path / "out"), make_dataset(1, 1, 1))
    writer.write_chunk(str(tmp_path / "out"), 0, [sample], provenance=PROVENANCE)
    text = printed(stats.collect(str(tmp_path / "out")), width=200)
    assert "\x1b" not in text and "\u202e" not in text
    assert "\\x1b[31m[bold]dog\\u202e" in text


def test_a_job_without_samples_or_without_chunks_prints_too(tmp_path):
    layout.write_info(str(tmp_path), make_dataset(1, 1, 1))
    assert "0 rows = 0 samples" in printed(stats.collect(str(tmp_path)))
    writer.write_chunk(str(tmp_path), 0, [make_rejection(0)], provenance=PROVENANCE)
    assert "no_subject" in printed(stats.collect(str(tmp_path)))


def test_no_output_and_broken_tables_are_said_so(out, tmp_path):
    with pytest.raises(layout.OutputError, match="no output"):
        stats.collect(str(tmp_path / "nowhere"))
    (out / "index" / "000000.parquet").write_bytes(b"noise")
    with pytest.raises(ValueError, match=r"index/000000\.parquet"):
        stats.collect(str(out))


def test_many_values_are_thinned_evenly_and_extremes_stay_exact(monkeypatch):
    monkeypatch.setattr(distributions, "MAX_VALUES", 500)
    values = distributions.Values()
    everything = np.arange(100_003) / 100_002
    for part in np.array_split(everything, 37):
        values.add(part)
    found = values.summary()
    assert len(values.kept) <= 500
    assert np.array_equal(values.kept, everything[:: values.step])
    assert (found.count, found.min, found.max) == (100_003, 0.0, 1.0)
    assert found.median == pytest.approx(0.5, abs=0.005) and found.p95 == pytest.approx(0.95, abs=0.005)
    assert found.mean == pytest.approx(0.5)


def test_the_rarest_words_are_forgotten_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(word_counts, "MAX_WORDS", 100)
    words = word_counts.WordCounts()
    for number in range(300):
        words.add(pa.chunked_array([[["dog", f"thing {number}"]]]), pa.chunked_array([[[2]]]))
    summary = words.summary()
    assert (summary.words, summary.with_instance, summary.top[0]) == (600, 300, word_counts.WordCount("dog", 300, 600))
    assert len(words.samples) <= 101
