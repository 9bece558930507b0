"""The line that a person watches."""

from pipeline.engine.messages import Report
from pipeline.progress import Progress


def report(rows, kept, notices=(), **seconds):
    return Report(0, 0, rows, kept, {}, seconds, sum(seconds.values()), [], "", "", list(notices))


def test_the_line_counts_clips_and_names_the_step_that_its_workers_are_slowest_at():
    progress = Progress(rows=100, done=20, workers={"entities": 1, "segment": 4})
    progress.add(report(10, 7, entities=4.0, segment=6.0))
    progress.add(report(10, 6, entities=4.0, segment=6.0))
    line = progress.line()
    assert line.startswith("40/100 clips, 2.00/s, 13 kept, 7 rejected, 0:")
    assert line.endswith("slowest step: entities 400 ms/clip")


def test_before_the_first_slice_it_says_what_is_waited_for_as_soon_as_that_changes(capsys):
    with Progress(rows=100, done=20, workers={}) as progress:
        progress.tell("starting Ray")
        progress.tell("loading the detector")
        progress.tell("loading the detector")
        progress.add(report(10, 7, entities=4.0))
        progress.tell("loading the segmenter")  # a worker that comes late keeps nobody waiting
    assert capsys.readouterr().err.splitlines() == [
        "20/100 clips, starting Ray, 0:00",
        "20/100 clips, loading the detector, 0:00",
    ]


def test_a_notice_is_shown_once_however_many_workers_say_it_and_counted_at_the_end(capsys):
    with Progress(rows=100, done=0, workers={}) as progress:
        for _ in range(1000):
            progress.add(report(1, 1, ["the card is [bold]full[/]"]))
        progress.add(report(1, 1, ["a server is \x1b[31mslow"]))
    assert capsys.readouterr().err.splitlines() == [
        "notice: the card is [bold]full[/]",
        "notice: a server is \\x1b[31mslow",
        "noticed 1000 times: the card is [bold]full[/]",
    ]


def test_thousands_of_different_notices_do_not_flood_the_screen(capsys):
    with Progress(rows=5000, done=0, workers={}) as progress:
        for number in range(5000):
            progress.add(report(1, 1, [f"waited {number} s"]))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 22
    assert said[-1] == "noticed 4980 times: others, see workers.log"
