"""Claims on ranges: nobody writes beside another, a dead holder's claim passes on, and a holder learns that theirs did."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from materia.base import leases, storage
from materia.base.leases import Claim, Held, LeaseLost, claims_in, hold, renewal_of, this_process

FOREVER = 600.0


@pytest.fixture(params=["disk", "s3"])
def folder(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "lease")
    return storage.join(request.getfixturevalue("bucket"), uuid.uuid4().hex)


def elsewhere(monkeypatch):
    """From now on this process seems to be one of another machine."""
    monkeypatch.setattr(leases, "_machine", lambda: "another boot")


def test_who_holds_a_range_is_named_to_whoever_wants_a_part_of_it(folder):
    with hold(folder, 0, 10, FOREVER) as lease:
        for first, end in ((0, None), (9, 12), (3, 4), (0, 10)):
            with pytest.raises(Held) as held, hold(folder, first, end, FOREVER):
                pass
            assert held.value.claim == lease.claim and held.value.claim.holder.pid == os.getpid()
        with hold(folder, 10, None, FOREVER) as beside, hold(folder, 4, 4, FOREVER):
            assert lease.alone and not beside.alone
            lease.check()
    with hold(folder, 0, None, FOREVER):
        pass
    assert [claim.fence for claim in claims_in(folder)] == [1, 2, 3, 4]
    assert {claim.ended for claim in claims_in(folder)} == {"done"}


def test_a_range_can_be_made_smaller(folder):
    with hold(folder, 0, None, FOREVER) as lease:
        lease.narrow(0, 5)
        with hold(folder, 5, None, FOREVER):
            pass
        lease.check()


def test_what_the_holder_tells_is_written_down(folder):
    with hold(folder, 0, None, 0.5) as lease:
        lease.tell = lambda: {"chunks": [[0, 3]]}
        wait_for(lambda: renewal_of(folder, lease.claim.fence).told)
    said = renewal_of(folder, lease.claim.fence)
    assert said.told == {"chunks": [[0, 3]]} and said.ended == "done"


def test_a_claim_that_nobody_renews_runs_out(folder, monkeypatch):
    with pytest.raises(LeaseLost), hold(folder, 0, None, FOREVER) as lease:
        elsewhere(monkeypatch)
        with pytest.raises(Held), hold(folder, 0, None, FOREVER):
            pass
        with hold(folder, 0, None, 0.0) as other:
            assert other.claim.fence == lease.claim.fence + 1
            with pytest.raises(LeaseLost):
                leases.require(folder, lease.claim.fence)
    assert [claim.ended for claim in claims_in(folder)] == [f"taken over by {other.claim.fence}", "done"]


def test_who_is_sure_takes_over_at_once_and_the_other_hears_of_it(folder):
    heard = threading.Event()
    with (
        pytest.raises(LeaseLost),
        hold(folder, 0, None, 0.9, on_loss=heard.set) as lease,
        hold(folder, 0, None, FOREVER, force=True),
    ):
        assert heard.wait(30) and lease.lost
        with pytest.raises(LeaseLost):
            lease.check()


def test_who_has_not_heard_of_it_until_their_end_hears_of_it_there(folder):
    with (
        pytest.raises(LeaseLost, match="taken over"),
        hold(folder, 0, None, FOREVER) as lease,
        hold(folder, 0, None, FOREVER, force=True) as other,
    ):
        lease.check()  # renewed just now
    assert [claim.ended for claim in claims_in(folder)] == [f"taken over by {other.claim.fence}", "done"]


def test_what_went_wrong_is_raised_and_not_that_it_was_taken_over_meanwhile(folder):
    with pytest.raises(ZeroDivisionError), hold(folder, 0, None, FOREVER), hold(folder, 0, None, FOREVER, force=True):
        raise ZeroDivisionError


def test_a_holder_who_slept_looks_before_they_write(folder, monkeypatch):
    monkeypatch.setattr(leases, "_RENEWALS", 1e-3)  # in the background, none
    with pytest.raises(LeaseLost, match="taken over"), hold(folder, 0, None, 0.3) as lease:
        time.sleep(0.3)
        lease.check()  # nobody came
        time.sleep(0.3)
        with hold(folder, 0, None, 0.1, force=True), pytest.raises(LeaseLost):
            lease.check()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_claim_of_a_process_that_ended_on_this_machine_holds_nobody_up(tmp_path, number):
    code = """
import sys, time
from materia.base.leases import hold
with hold(sys.argv[1], 0, None, 600):
    print(flush=True)
    time.sleep(99)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(Held), hold(str(tmp_path), 0, None, FOREVER):
        pass
    process.send_signal(number)
    wait_for(lambda: leases.has_ended(claims_in(str(tmp_path))[0].holder))  # while it is a zombie, too
    with hold(str(tmp_path), 0, None, FOREVER):
        pass
    process.wait()


def test_of_many_at_once_one_gets_it_twenty_times_over(folder):
    for _ in range(20):
        won, start, over = [], threading.Barrier(2), threading.Event()

        def claim(won=won, start=start, over=over):
            start.wait()
            try:
                with hold(folder, 0, None, FOREVER) as lease:
                    won.append(lease.claim.fence)
                    over.wait(60)
            except Held as held:
                won.append(held)
                over.set()

        both = [threading.Thread(target=claim) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        fences = [one for one in won if isinstance(one, int)]
        assert len(fences) == 1 and [one.claim.fence for one in won if isinstance(one, Held)] == fences
    assert len(claims_in(folder)) == 20


def test_a_claim_that_cannot_be_told_of_is_given_back_and_the_cause_is_raised(tmp_path):
    (tmp_path / "000001.json").mkdir()  # where the first renewal would go
    with pytest.raises(IsADirectoryError), hold(str(tmp_path), 0, None, FOREVER):
        raise AssertionError
    with hold(str(tmp_path), 0, None, FOREVER) as lease:
        assert lease.claim.fence == 2


ranges = st.tuples(st.integers(0, 20), st.none() | st.integers(0, 20)).map(
    lambda r: (r[0], None if r[1] is None else r[0] + r[1])
)


@given(ranges, ranges)
def test_ranges_overlap_if_they_share_a_number(one, other):
    def numbers(first, end):
        return set(range(first, 100 if end is None else end))

    claim = Claim(fence=1, first=one[0], end=one[1], holder=this_process(), since_s=0)
    assert claim.overlaps(*other) == bool(numbers(*one) & numbers(*other))
    assert not msgspec.structs.replace(claim, ended="done").overlaps(*other)


def wait_for(happened):
    ends = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.01)
