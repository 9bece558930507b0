"""Marks are on the disk when they are acknowledged; audits draw the same samples anywhere and say how right each stage is."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pages import OWN, make_pages, page, select

from materia.cli.main import main
from materia.dataset.layers import read_layer, write_layer
from materia.dataset.reader import Dataset
from materia.dataset.validate import validate

pytest.importorskip("duckdb", reason="needs the view extra")

from materia.view.audit import compare, result
from materia.view.marks import REASONS, SCHEMA


def mark(client, n, bad, *why):
    answer = client.post("/api/mark", json={"n": n, "bad": bad, "why": list(why)}, headers=OWN)
    assert answer.status_code == 200, answer.text


def marks_of(bad_by_key):
    rows = [
        {"key": key, "bad": bool(why), "why": [one for one in why if one], "by": "anna", "at": None}
        for key, why in bad_by_key.items()
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def test_a_mark_is_a_row_of_a_layer_and_filters_know_it(tmp_path):
    out = make_pages(tmp_path)
    client, _ = page(out)
    mark(client, 1, True, "bad_mask", "wrong_word")
    mark(client, 3, False)
    rows = read_layer(out, "marks").to_pylist()
    assert [(row["key"], row["bad"], row["why"], row["by"]) for row in rows] == [
        ("clip-0001", True, ["bad_mask", "wrong_word"], "anna"),
        ("clip-0003", False, [], "anna"),
    ]
    assert select(client, marked="bad") == select(client, why=["bad_mask"]) == ["clip-0001"]
    assert select(client, marked="good") == ["clip-0003"]
    assert len(select(client, marked="none")) == 3
    assert len(Dataset(out, where="marks.bad")) == 1
    assert validate(out).ok


def test_undo_takes_the_mark_away_and_another_start_finds_what_is_left(tmp_path):
    out = make_pages(tmp_path)
    client, _ = page(out)
    mark(client, 0, True, "other")
    mark(client, 2, True)
    mark(client, 0, None)
    client, _ = page(out)
    assert select(client, marked="any") == ["clip-0002"]
    assert client.get("/api/sample", params={"n": 0}).json()["mark"] is None


def test_two_persons_mark_beside_each_other(tmp_path):
    out = make_pages(tmp_path)
    anna, ben = page(out)[0], page(out, by="ben")[0]
    mark(anna, 0, True)
    mark(ben, 1, False)
    assert [row["by"] for row in read_layer(out, "marks").to_pylist()] == ["anna", "ben"]


def test_a_reason_that_is_none_and_a_sample_that_is_none_are_refused(tmp_path):
    client, _ = page(make_pages(tmp_path))
    for body in (
        {"n": 0, "bad": True, "why": ["ugly"]},
        {"n": 99, "bad": True},
        {"n": -1, "bad": True},
        {"n": "0"},
        {"key": "x"},
    ):
        assert client.post("/api/mark", json=body, headers=OWN).status_code in (400, 422), body


def test_a_layer_that_holds_something_else_is_not_overwritten(tmp_path):
    from materia.base.errors import UserError

    out = make_pages(tmp_path)
    write_layer(out, "scores", pa.table({"key": ["clip-0000"], "x": [1.0]}), made_by="test", version="1")
    with pytest.raises(UserError, match="holds no marks"):
        page(out, marks="scores")


@pytest.mark.slow
def test_marks_that_were_acknowledged_survive_a_killed_server(tmp_path):
    out = make_pages(tmp_path)
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", "from prima_materia import main; main()", "view", out, "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        address = re.match(r"(http://\S+?)/ ", server.stdout.readline())[1]
        while not json.load(urllib.request.urlopen(f"{address}/api/about"))["done"]:
            pass
        for n in range(4):
            body = json.dumps({"n": n, "bad": n % 2 == 0}).encode()
            request = urllib.request.Request(
                f"{address}/api/mark", body, {"Content-Type": "application/json", "Origin": address}
            )
            assert urllib.request.urlopen(request).status == 200
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
    assert [row["bad"] for row in read_layer(out, "marks").to_pylist()] == [True, False, True, False]


def test_a_draw_depends_on_the_seed_and_the_keys_alone(tmp_path):
    one, two = make_pages(tmp_path / "one", ("sssss", "sssss")), make_pages(tmp_path / "two", ("sss", "sss", "ssss"))
    draws = [select(page(out)[0], audit={"n": 4, "seed": seed}) for out in (one, two) for seed in (0, 1)]
    assert draws[0] == draws[2]
    assert draws[1] == draws[3]
    assert draws[0] != draws[1]
    assert len(set(draws[0])) == 4
    assert [[sample.key for sample in Dataset(one).audit(4, seed)] for seed in (0, 1)] == draws[:2]  # as in a notebook


def test_a_larger_draw_of_the_same_seed_begins_with_the_smaller(tmp_path):
    client, _ = page(make_pages(tmp_path, ("ssssssssss",)))
    assert select(client, audit={"n": 9})[:4] == select(client, audit={"n": 4})


@pytest.mark.parametrize("column", ["subject_words", "extra.views"])
def test_a_stratified_draw_takes_from_each_stratum_its_share(tmp_path, column):
    client, _ = page(make_pages(tmp_path, ("s" * 12,)))
    drawn = select(client, audit={"n": 6, "seed": 3, "stratify": column})
    rows = [int(key[-4:]) for key in drawn]
    assert len(set(rows)) == 6
    if column == "subject_words":
        assert np.bincount([row % 3 for row in rows]).tolist() == [2, 2, 2]
    else:  # quarters of twelve are three each: at least one and at most two of six
        assert set(np.bincount([row // 3 for row in rows], minlength=4).tolist()) <= {1, 2}


def test_precision_is_told_by_stage_with_wilsons_interval():
    found = result(
        ["a", "b", "c", "d"], marks_of({"a": (), "b": ("bad_mask",), "c": ("bad_mask", "wrong_word"), "x": ("bad_mask",)})
    )
    assert (found.drawn, found.marked) == (4, 3)
    stages = {one.stage: one for one in found.stages}
    assert (stages["all"].right, stages["segment"].right, stages["entities"].right, stages["link"].right) == (1, 1, 2, 3)
    assert stages["segment"].value == pytest.approx(1 / 3)
    assert (stages["segment"].low, stages["segment"].high) == pytest.approx((0.0615, 0.7923), abs=1e-4)  # Wilson 1927
    assert set(stages) == {"all"} | {reason.stage for reason in REASONS.values() if reason.stage}


def test_a_bad_mark_without_a_reason_is_nobodys_fault():
    stages = {one.stage: one.right for one in result(["a"], marks_of({"a": ("",)})).stages}
    assert stages.pop("all") == 0
    assert set(stages.values()) == {1}


def test_kappa_of_an_example_that_one_can_check_by_hand():
    """20 both, 15 neither, 5 and 10 of one only: agreement 0.7, by chance 0.5, kappa 0.4 (the textbook's table)."""
    kinds = [((1,), (1,))] * 20 + [((1,), ())] * 5 + [((), (1,))] * 10 + [((), ())] * 15
    one, two = ({str(n): tuple("other" for _ in kind[side]) for n, kind in enumerate(kinds)} for side in (0, 1))
    bad = compare(marks_of(one), marks_of(two))[0]
    assert (bad.both, bad.neither, bad.only_first, bad.only_second) == (20, 15, 5, 10)
    assert (bad.agreement, bad.kappa) == pytest.approx((0.7, 0.4))


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sets(st.sampled_from(list(REASONS))).map(tuple)))
def test_a_person_agrees_with_themselves(marks):
    for one in compare(marks_of(marks), marks_of(marks)):
        assert one.agreement in (None, 1.0)
        assert one.kappa is None or one.kappa == pytest.approx(1.0)


def test_the_command_says_how_far_an_audit_is_and_how_two_persons_agree(tmp_path):
    out = make_pages(tmp_path)
    client, _ = page(out, marks="anna")
    for n in range(5):
        mark(client, n, n == 0, *(["bad_mask"] if n == 0 else []))
    write_layer(out, "ben", read_layer(out, "anna").slice(0, 2), made_by="ben", version="1")
    done = CliRunner().invoke(main, ["audit", out, "-n", "3", "--marks", "anna"])
    assert done.exit_code == 0, done.output
    assert "3 of 3 drawn samples are marked" in done.output
    begun = json.loads(CliRunner().invoke(main, ["audit", out, "-n", "5", "--marks", "ben", "--json"]).output)
    assert (begun["drawn"], begun["marked"]) == (5, 2)
    agreed = json.loads(CliRunner().invoke(main, ["audit", out, "--compare", "anna", "ben", "--json"]).output)
    assert agreed[0] == {
        "what": "bad",
        "both": 1,
        "neither": 1,
        "only_first": 0,
        "only_second": 0,
        "agreement": 1.0,
        "kappa": 1.0,
    }


def test_the_page_of_the_documentation_lays_reasons_to_the_stages_that_the_code_does():
    text = (Path(__file__).parents[2] / "docs" / "looking.md").read_text(encoding="utf-8")
    told = {
        why: stage
        for whys, stage in re.findall(r"^\| ([a-z_, ]+) \| (\w+) \|$", text, re.MULTILINE)
        for why in whys.split(", ")
    }
    assert {why: told[why] for why in REASONS} == {why: reason.stage or "nobody" for why, reason in REASONS.items()}


def test_an_audit_waits_for_the_whole_index(tmp_path):
    from materia.view.database import QueryError
    from materia.view.selection import Draw, State
    from materia.view.viewer import Viewer

    viewer = Viewer([make_pages(tmp_path)])
    with pytest.raises(QueryError, match="whole index"):
        viewer.selections.numbers(State(audit=Draw(2)))
    viewer.start()
    assert viewer.done.wait(20)
    viewer.start()  # once is enough
    assert viewer.database.rows("SELECT count(*) FROM samples") == [(5,)]
    assert len(viewer.selections.numbers(State(audit=Draw(2)))) == 2


def test_without_the_extra_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    asked = CliRunner().invoke(main, ["view", make_pages(tmp_path), "--no-browser"])
    assert asked.exit_code == 2
    assert "pip install 'prima-materia[view]'" in asked.output


def test_a_port_that_is_taken_is_one_sentence(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asked = CliRunner().invoke(main, ["view", make_pages(tmp_path), "--no-browser", "--port", str(taken.getsockname()[1])])
    assert asked.exit_code == 2
    assert "choose another --port" in asked.output
