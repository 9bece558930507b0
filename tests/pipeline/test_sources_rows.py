"""From one raw row to a clip or a rejection: types, times, identity."""

import json
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.sources import RawRow, normalise
from pipeline.sources.settings import SourceSettings
from stages.records import Clip, Rejection
from stages.specs import REASONS


def row(root: str = "/data", **fields: object) -> Clip | Rejection:
    return normalise(0, RawRow({"video": "a.mp4", "caption": "A dog.", **fields}), root, SourceSettings())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"video": None}, "missing_field"),
        ({"video": " "}, "missing_field"),
        ({"video": 7}, "wrong_type"),
        ({"video": ["a.mp4"]}, "wrong_type"),
        ({"caption": None}, "missing_field"),
        ({"caption": math.nan}, "missing_field"),
        ({"caption": 12345}, "wrong_type"),
        ({"caption": ["A man", "a ball"]}, "wrong_type"),
        ({"caption": {"en": "A dog."}}, "wrong_type"),
        ({"caption": True}, "wrong_type"),
        ({"caption": ""}, "empty_caption"),
        ({"caption": " \n\t\u3000"}, "empty_caption"),
        ({"caption": "x" * 2001}, "caption_too_long"),
        ({"id": [1]}, "wrong_type"),
        ({"id": 1.5}, "wrong_type"),
        ({"id": True}, "wrong_type"),
        ({"id": "x" * 5000}, "wrong_type"),
        ({"source_id": {}}, "wrong_type"),
        ({"start": -1}, "bad_time_range"),
        ({"start": math.nan}, "bad_time_range"),
        ({"end": math.inf}, "bad_time_range"),
        ({"end": 10**400}, "bad_time_range"),
        ({"end": 0}, "bad_time_range"),
        ({"start": 2, "end": 2}, "bad_time_range"),
        ({"start": 3, "end": "0:02"}, "bad_time_range"),
        ({"start": True}, "bad_time_range"),
        ({"start": [1]}, "bad_time_range"),
        ({"start": "soon"}, "bad_time_range"),
        ({"start": "-1"}, "bad_time_range"),
        ({"start": "nan"}, "bad_time_range"),
        ({"start": "1_0"}, "bad_time_range"),
        ({"start": "٣"}, "bad_time_range"),
        ({"start": "9" * 5000}, "bad_time_range"),
        ({"start": "0:61:00"}, "bad_time_range"),
        ({"start": " "}, "bad_time_range"),
        ({"start": "3 s"}, "bad_time_range"),
        ({"start": "3000ms"}, "bad_time_range"),
        ({"start": "1,5"}, "bad_time_range"),
        ({"start": "-1 days +23:59:57"}, "bad_time_range"),
        ({"start": "2020-01-02 00:00:03"}, "bad_time_range"),
        ({"start": "-PT3S"}, "bad_time_range"),
        ({"start": "P1M"}, "bad_time_range"),
        ({"start": "P" + "9" * 400 + "D"}, "bad_time_range"),
        ({"start": "picture 3"}, "bad_time_range"),
        ({"start": timedelta(seconds=-1)}, "bad_time_range"),
        ({"start": datetime(1970, 1, 1, 0, 0, 3, tzinfo=UTC)}, "bad_time_range"),
        ({"start": date(1970, 1, 1)}, "bad_time_range"),
    ],
)
def test_a_bad_field_is_a_rejection_that_names_the_column(fields, reason):
    rejection = row(**fields)
    assert isinstance(rejection, Rejection)
    assert (rejection.stage, rejection.reason, rejection.key) == ("source", reason, None)
    assert repr(next(reversed(fields))) in rejection.message
    assert len(rejection.message) < 300


def test_a_caption_of_exactly_the_limit_is_kept_verbatim():
    caption = " " + "é" * 1998 + "\n"
    assert row(caption=caption).caption == caption


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (2, 2.0),
        (2.5, 2.5),
        ("2.5", 2.5),
        (" 2 ", 2.0),
        (".5", 0.5),
        ("1e1", 10.0),
        ("1:02", 62.0),
        ("01:02:03.25", 3723.25),
        ("100:00:00", 360_000.0),
        ("0 days 00:00:03.500000", 3.5),
        ("0 days 00:00:03", 3.0),
        ("1 days", 86_400.0),
        ("1 day, 0:00:03", 86_403.0),
        ("P0DT0H0M3.500S", 3.5),
        ("PT1H2M3S", 3723.0),
        (timedelta(seconds=3.5), 3.5),
        (time(0, 1, 2, 500_000), 62.5),
        (Decimal("2.5"), 2.5),
    ],
)
def test_times_are_seconds_or_clock_times(value, seconds):
    assert row(end=value).end_s == seconds


def test_absent_null_and_empty_times_and_names_are_the_same():
    assert row() == row(id=None, start=None, end=None, source_id=None) == row(id="", start="", end="", source_id="")
    assert row(start=0).start_s == 0.0 and str(row(start=-0.0).start_s) == "0.0"


# Identity


@pytest.mark.parametrize(
    ("given_id", "recorded"), [("clip-1_A", "clip-1_A"), (7, "7"), (-7, "-7"), (7.0, "7"), ("x" * 120, "x" * 120)]
)
def test_an_id_that_can_name_files_is_the_key(given_id, recorded):
    clip = row(id=given_id)
    assert (clip.id, clip.key) == (recorded, recorded)


@pytest.mark.parametrize("given_id", ["a.b", "a b", "../x", "x" * 121, "é", "a\n", None, 10**30 * 10**120])
def test_any_other_id_is_recorded_and_the_key_is_a_hash(given_id):
    clip = row(id=given_id)
    assert clip.id == (None if given_id is None else str(given_id))
    assert len(clip.key) == 32 and int(clip.key, 16) >= 0
    assert clip.key == row().key


def test_keys_are_pinned():
    """A change here gives every clip without an id another name in every data set."""
    assert row().key == "5ef44f9520eb4ec064c707f7c6b36ac4"
    assert row(video="é/b.mp4", start=0.1, end="1:00", caption='say "é"').key == "96e1948a523388151c59d4396d4fc6a4"


def test_the_key_depends_on_video_times_and_caption_and_on_nothing_else():
    keys = [
        row(**fields).key for fields in ({}, {"video": "b.mp4"}, {"start": 0}, {"end": 1}, {"start": 1}, {"caption": "A cat."})
    ]
    assert len(set(keys)) == len(keys)
    assert row(licence="CC0", source_id="film").key == row().key


@pytest.mark.parametrize("root", ["/data", "/mnt/other/place", "s3://bucket/clips"])
def test_the_same_video_has_the_same_address_and_key_wherever_the_manifest_lies(root):
    names = ["a.mp4", "./a.mp4", "sub/../a.mp4", f"{root}/a.mp4", f"{root}//x/../a.mp4"]
    clips = [row(root, video=name) for name in names]
    assert {clip.uri for clip in clips} == {"a.mp4"}
    assert {clip.key for clip in clips} == {row().key}


def test_a_video_outside_the_manifests_folder_keeps_its_address():
    assert row(video="../b/a.mp4").uri == "../b/a.mp4"
    assert row(video="/other/a.mp4").uri == "/other/a.mp4"
    assert row(video="/database/a.mp4").uri == "/database/a.mp4"
    assert row(video="file:///data/a.mp4").uri == "a.mp4"
    assert row(video="http://host/x/a.mp4?b=c").uri == "http://host/x/a.mp4?b=c"


def test_the_source_id_is_the_address_unless_given():
    assert row(video="x/a.mp4").source_id == "x/a.mp4"
    assert row(source_id="film 7").source_id == "film 7"
    assert row(source_id=7).source_id == "7"


# Whatever a row holds


def test_other_columns_are_carried_along_as_json_can_hold_them():
    deep: list[object] = []
    for _ in range(900):
        deep = [deep]
    clip = row(
        score=math.nan, n=2**63, m=2**63 - 1, half="\ud83d", nested={"\udc00": [1, {"x": -math.inf}]}, deep=deep, licence="CC0"
    )
    assert clip.extra["deep"][0][0] == [[[[[[[[[[[[[[None]]]]]]]]]]]]]]
    del clip.extra["deep"]
    assert clip.extra == {
        "score": None,
        "n": "9223372036854775808",
        "m": 2**63 - 1,
        "half": "\ufffd",
        "nested": {"\ufffd": [1, {"x": None}]},
        "licence": "CC0",
    }


def test_a_rejection_keeps_what_can_be_shown():
    rejection = row(id=7, caption="\ud83d" + "x" * 9000, source_id=["?"])
    assert (rejection.id, rejection.uri, rejection.source_id) == ("7", "a.mp4", None)
    assert rejection.caption == "\ufffd" + "x" * 1999


any_text = st.text(st.characters(), max_size=20)  # lone surrogates too
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)
known_columns = dict.fromkeys(("video", "caption", "id", "start", "end", "source_id"), any_json)


@given(st.dictionaries(any_text, any_json, max_size=4), st.fixed_dictionaries({}, optional=known_columns))
@example({}, {"video": "a.mp4", "caption": "A dog.", "start": -0.0})
def test_any_object_is_a_record_that_msgpack_and_json_can_carry(other, known):
    record = normalise(3, RawRow({**other, **known}), "/data", SourceSettings())
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Clip | Rejection)
    assert again == record and record.row == 3
    json.dumps(msgspec.to_builtins(record), allow_nan=False, ensure_ascii=False).encode()
    assert not isinstance(record, Rejection) or record.reason in REASONS["source"]


@given(any_text, st.none() | any_text | st.integers(), st.none() | st.floats(0, 1e6), any_text)
def test_normalising_is_deterministic_and_keys_can_name_files(video, id_, start, caption):
    first, second = (row(video=video, id=id_, start=start, caption=caption) for _ in range(2))
    assert first == second
    if isinstance(first, Clip):
        assert 1 <= len(first.key) <= 120 and set(first.key) <= set(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
        )
