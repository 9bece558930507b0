"""Times in Parquet: a duration is seconds in any unit that Arrow has, a date is no offset."""

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import outcomes, read, write_parquet

pd = pytest.importorskip("pandas")  # the environment of vLLM on a CPU has none

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def table(path: Path, start: object, **other: object) -> Path:
    n_rows = len(start)  # type: ignore[arg-type]
    return write_parquet(path, {"video": ["a.mp4"] * n_rows, "caption": ["A dog."] * n_rows, "start": start, **other})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(unit=st.sampled_from(sorted(PER_SECOND)), counts=st.lists(st.none() | st.integers(0, 2**62), min_size=1, max_size=4))
def test_a_duration_is_seconds_whatever_its_unit(tmp_path, unit, counts):
    column = pa.array(counts, pa.int64()).cast(pa.duration(unit))
    seconds = [None if count is None else count / PER_SECOND[unit] for count in counts]
    for start in (column, column.dictionary_encode()):
        rows = read(table(tmp_path / "m.parquet", start, took=start))
        assert [row.start_s for row in rows] == seconds == [row.extra["took"] for row in rows]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_what_pandas_writes_is_read(tmp_path, unit):
    frame = pd.DataFrame(
        {
            "video": ["a.mp4", "a.mp4", "a.mp4"],
            "caption": "A dog.",
            "start": pd.to_timedelta([3, 4, None], unit="s").astype(f"timedelta64[{unit}]"),
            "end": [timedelta(seconds=5), timedelta(hours=30), None],
        }
    )
    frame.to_parquet(tmp_path / "m.parquet")
    frame.to_csv(tmp_path / "m.csv", index=False)
    frame.to_json(tmp_path / "m.jsonl", orient="records", lines=True, date_format="iso")
    for name in ("m.parquet", "m.csv", "m.jsonl"):
        assert [(row.start_s, row.end_s) for row in read(tmp_path / name)] == [(3.0, 5.0), (4.0, 108_000.0), (None, None)]


@pytest.mark.parametrize("type_", [pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")])
def test_a_time_of_day_is_read_as_a_clock_time(tmp_path, type_):
    column = pa.array([time(0, 0, 3), time(1, 2, 3), None]).cast(type_)
    rows = read(table(tmp_path / "m.parquet", column, at=column))
    assert [row.start_s for row in rows] == [3.0, 3723.0, None]
    assert rows[0].extra["at"].startswith("00:00:03")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([timedelta(seconds=-3)]),
        pa.array([datetime(1970, 1, 1, 0, 0, 3)]),
        pa.array([datetime(1970, 1, 1, 0, 0, 3, tzinfo=UTC)], pa.timestamp("ns", "UTC")),
        pa.array([datetime(1970, 1, 1, 0, 0, 3, tzinfo=UTC)], pa.timestamp("s", "Asia/Tokyo")),
        pa.array([date(1970, 1, 1)]),
        pa.array([90_000_000_000], pa.int64()).cast(pa.time64("us")),
        pa.array([b"3"]),
        pa.array([[3.0]]),
        pa.array([{"s": 3}]),
    ],
)
def test_what_is_no_offset_is_rejected(tmp_path, column):
    (row,) = read(table(tmp_path / "m.parquet", column))
    assert row.reason == "bad_time_range" and "'start'" in row.message


def test_numbers_of_any_type_are_seconds(tmp_path):
    for column in (
        pa.array([3], pa.uint8()),
        pa.array([3.0], pa.float16()),
        pa.array([3.0], pa.float32()),
        pa.array([3], pa.decimal128(9, 3)),
        pa.array(["3"]).dictionary_encode(),
        pa.array(["0:03"], pa.large_string()),
        pa.array(["3"], pa.string_view()),
    ):
        (row,) = read(table(tmp_path / "m.parquet", column))
        assert row.start_s == 3.0
    (row,) = read(table(tmp_path / "m.parquet", pa.array([-0.0])))
    assert str(row.start_s) == "0.0"


def test_durations_inside_other_columns_are_seconds(tmp_path):
    nested = pa.array([[{"took": timedelta(seconds=1.5)}]])
    assert read(table(tmp_path / "m.parquet", [0], cuts=nested))[0].extra["cuts"] == [{"took": 1.5}]


def test_a_category_is_its_text(tmp_path):
    columns = {"video": pa.array(["a.mp4", "b.mp4"]), "caption": pa.array(["A dog.", None])}
    path = write_parquet(tmp_path / "m.parquet", {name: column.dictionary_encode() for name, column in columns.items()})
    assert outcomes(read(path)) == ["ok", "missing_field"]
