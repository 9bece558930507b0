"""The line that a person watches."""

from pipeline.progress import Progress
from pipeline.slices import Report


def report(rows, kept, **seconds):
    return Report(0, 0, rows, kept, {}, seconds, sum(seconds.values()), [], "", "")


def test_the_line_counts_clips_and_names_the_step_that_its_workers_are_slowest_at():
    progress = Progress(rows=100, done=20, workers={"entities": 1, "segment": 4})
    progress.add(report(10, 7, entities=4.0, segment=6.0))
    progress.add(report(10, 6, entities=4.0, segment=6.0))
    line = progress.line()
    assert line.startswith("40/100 clips, 2.00/s, 13 kept, 7 rejected, 0:")
    assert line.endswith("slowest step: entities 400 ms/clip")


def test_without_a_finished_slice_there_is_no_rate_to_tell():
    assert Progress(rows=100, done=20, workers={}).line() == "20/100 clips, the first slice is on its way, 0:00"
