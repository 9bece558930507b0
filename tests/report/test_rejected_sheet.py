"""Rows that became no sample are drawn with their frames where the clip can be opened, and with the reason where it cannot."""

import json
import os
import shutil

import numpy as np
import pytest
from clips import make_clip, read_number
from PIL import Image
from samples import PROVENANCE, make_dataset, make_rejection, make_sample

from materia.dataset import layout, writer
from materia.report import rejected_card
from materia.report.choice import rejected_rows
from materia.report.clip_frames import Request, clip_frames
from materia.report.contact_sheet import rejected_sheet
from materia.report.drawing import PALETTE
from pipeline.plan import make_plan
from pipeline.sources.settings import SourceSettings

FOUND = {
    "entities": [{"word": "dog", "category": "subject", "spans": [[2, 5]]}],
    "boxes": [{"word": "dog", "category": "subject", "frame": 1, "box_xyxy_px": [20.0, 10.0, 90.0, 60.0], "score": 0.5}],
}


def output_of(folder, rows, reason="no_instance", found=FOUND, **info):
    """An output whose rows were all rejected, with the plan of a manifest of these rows."""
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"caption": "A dog.", **row}) + "\n" for row in rows))
    out = folder / "out"
    make_plan(str(manifest), str(out / "_run" / "plan"), SourceSettings(), 2, 1)
    rejections = []
    for number, row in enumerate(rows):
        rejection = make_rejection(number, "localise", reason)
        rejection.uri, rejection.caption, rejection.found = row["video"], "A dog.", found
        rejections.append(rejection)
    layout.write_info(str(out), make_dataset(len(rows), -(-len(rows) // 2), 2))
    for chunk in range(-(-len(rows) // 2)):
        writer.write_chunk(str(out), chunk, rejections[2 * chunk : 2 * chunk + 2], provenance=PROVENANCE)
    return out


def seen(out, number=0):
    return rejected_card.Job(str(out)).look(rejected_rows(str(out), "no_instance", 99)[number])


def pixels_of(out, target):
    rejected_sheet(str(out), str(target), "no_instance")
    return np.asarray(Image.open(target).convert("RGB")).astype(int)


def test_a_rejected_row_shows_the_frames_of_its_part_of_the_video_and_the_boxes_found(tmp_path):
    make_clip(tmp_path / "a.mp4", 96)
    out = output_of(tmp_path, [{"video": "a.mp4"}, {"video": "a.mp4", "start": 1, "end": 3}, {"video": "a.mp4", "start": 2.5}])
    numbers = [[read_number(decoded(picture)) for picture in seen(out, row).pictures] for row in range(3)]
    assert numbers == [[4, 48, 91], [26, 48, 69], [61, 78, 94]]
    pixels = pixels_of(out, tmp_path / "sheet.png")
    assert (np.abs(pixels - PALETTE[0]).max(axis=2) < 8).sum() > 1000
    rejected_sheet(str(out), str(tmp_path / "again.png"), "no_instance")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "sheet.png").read_bytes()


def decoded(picture):
    import io

    return np.asarray(Image.open(io.BytesIO(picture.jpeg)).convert("RGB"))


@pytest.mark.parametrize("broken", ["gone", "text", "playlist", "outside", "link", "folder", "empty", "fifo"])
def test_a_clip_that_cannot_be_opened_has_a_card_that_says_why(tmp_path, broken):
    inside, secret = tmp_path / "inside", tmp_path / "secret.mp4"
    inside.mkdir()
    clip = inside / "a.mp4"
    make_clip(secret, 48)
    name = "a.mp4"
    if broken == "text":
        clip.write_text("no video")
    elif broken == "playlist":
        clip.write_text(f"#EXTM3U\n#EXTINF:2,\nfile://{secret}\n#EXT-X-ENDLIST\n")
    elif broken == "outside":
        name = "../secret.mp4"
    elif broken == "link":
        clip.symlink_to(secret)
    elif broken == "folder":
        clip.mkdir()
    elif broken == "empty":
        clip.touch()
    elif broken == "fifo":
        os.mkfifo(clip)
    out = output_of(inside, [{"video": name}])
    answer = seen(out)
    assert not answer.pictures
    assert answer.problem and "Traceback" not in answer.problem
    assert pixels_of(out, tmp_path / "sheet.png").shape[1] == 1800


def test_a_decoder_that_dies_or_hangs_costs_its_card_only(tmp_path, monkeypatch):
    clip = make_clip(tmp_path / "a.mp4", 48)
    request = Request(str(clip or tmp_path / "a.mp4"), None, None, [50], 60.0)
    assert "within 0.001 s" in clip_frames(request, timeout_s=0.001).problem
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    assert "exit status 1" in clip_frames(request).problem


def test_an_output_that_does_not_know_its_clips_any_more_still_has_cards(tmp_path):
    make_clip(tmp_path / "a.mp4", 48)
    out = output_of(tmp_path, [{"video": "a.mp4"}])
    (out / "_run" / "plan" / "plan.json").write_text("[]")
    assert "cannot be understood" in seen(out).problem
    shutil.rmtree(out / "_run")
    assert "no _run/plan" in seen(out).problem
    assert pixels_of(out, tmp_path / "sheet.png").shape[1] == 1800


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"boxes": "many"},
        {"boxes": [{"word": "\x1b[31m", "category": "subject", "frame": 7, "box_xyxy_px": [0, 0, 1, 1], "score": 0.1}]},
        {
            "boxes": [
                {"word": "x" * 900, "category": "subject", "frame": 0, "box_xyxy_px": [1e300, 9, -1e300, 2], "score": 9.0}
            ]
            * 99
        },
        {"entities": [{"word": "dog", "category": "subject", "spans": [[5, 2], [-9, 999], [3, 3]]}]},
    ],
)
def test_whatever_was_found_can_be_drawn(tmp_path, found):
    make_clip(tmp_path / "a.mp4", 48)
    out = output_of(tmp_path, [{"video": "a.mp4"}], found=found)
    assert pixels_of(out, tmp_path / "sheet.png").shape[1] == 1800


def test_rows_are_spread_over_all_that_were_rejected_for_the_reason(tmp_path):
    (tmp_path / "a.mp4").touch()
    out = output_of(tmp_path, [{"video": "a.mp4"}] * 9)
    assert [row["row"] for row in rejected_rows(str(out), "no_instance", 3)] == [0, 4, 8]
    assert [row["row"] for row in rejected_rows(str(out), "no_instance", 1)] == [0]
    assert len(rejected_rows(str(out), "no_instance", 50)) == 9


def test_a_reason_that_nothing_was_rejected_for_is_answered_with_those_that_are(tmp_path):
    (tmp_path / "a.mp4").touch()
    out = output_of(tmp_path, [{"video": "a.mp4"}])
    with pytest.raises(
        layout.OutputError,
        match=r"of 1 rejected row of .* none has the reason .*did you mean no_instance\? There are: no_instance 1$",
    ):
        rejected_rows(str(out), "no_instanse", 3)
    with pytest.raises(layout.OutputError, match=r"'zzz'\. There are: no_instance 1$"):
        rejected_rows(str(out), "zzz", 3)
    layout.write_info(str(tmp_path / "all"), make_dataset(1, 1, 1))
    writer.write_chunk(str(tmp_path / "all"), 0, [make_sample(tmp_path, 0)], provenance=PROVENANCE)
    with pytest.raises(layout.OutputError, match="has no rejected rows"):
        rejected_rows(str(tmp_path / "all"), "no_instance", 3)
