"""Who may write which part of a folder: claims on ranges of numbers, that others see, and that run out if nobody renews them.

In: a folder (local or in an object store), a range, how long a claim lives unrenewed. Out: a `Lease` to be held while one
writes, or `Held`, which names the holder. `claims.json` lists all claims there ever were, and is only replaced as it was
read; each gets a fencing number, larger than all before. `000003.json` is what the holder of claim 3 renews, with what they
want others to know. A claim may be taken over when its holder's process has ended on this machine, or when it was not renewed
for `lease_s`. A holder who could not renew for two thirds of that considers it lost: clocks of machines may differ by a third
of `lease_s`. What such a holder had under way when it was stopped cannot be called back: files must be written so that it
does no harm (conditional.py).
"""

from __future__ import annotations

import getpass
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import msgspec

from materia.base import storage
from materia.base.conditional import Conflict
from materia.base.locks import only_one

_CLAIMS = "claims.json"
_TRIES = 50
_RENEWALS = 9  # in the life of a claim
_HELD_SHARE = 2 / 3
_changing = threading.Lock()


class Holder(msgspec.Struct, frozen=True):
    """A process: for people, and so that others on the same machine can tell whether it is still there.

    `machine`: changes when it starts again; `started`: of the process, in the kernel's clock ticks since then.
    """

    who: str
    host: str
    pid: int
    machine: str
    started: int

    def __str__(self) -> str:
        return f"{self.who}, process {self.pid} on {self.host}"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """On the numbers `first` to before `end` (None: all from `first` on), since when (Unix time), how it ended ("": it has not)
    and what the holder told last.
    """

    fence: int
    first: int
    end: int | None
    holder: Holder
    since_s: float
    ended: str = ""
    told: dict[str, Any] = {}

    @property
    def chosen(self) -> str:
        """Its range as people write it, "A:B"; "" if it is all."""
        return as_range(self.first, self.end)

    def overlaps(self, first: int, end: int | None) -> bool:
        """Whether it holds, and shares a number with a range."""
        empty = self.first == self.end or first == end
        return not (
            self.ended or empty or (end is not None and end <= self.first) or (self.end is not None and self.end <= first)
        )


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """What a holder last said: when (Unix time), for how long its claim lives, and what it wants others to know."""

    fence: int
    renewed_s: float
    lease_s: float = 0.0
    ended: str = ""
    told: dict[str, Any] = {}


class _Claims(msgspec.Struct, frozen=True):
    claims: list[Claim] = []


# Made here: msgspec crashes where threads decode a type for the first time together.
_CLAIM_LISTS, _RENEWED = msgspec.json.Decoder(_Claims), msgspec.json.Decoder(Renewal)


class Held(Exception):
    """Somebody else holds a part of the range."""

    def __init__(self, claim: Claim, renewed_s: float) -> None:
        super().__init__(f"held by {claim.holder}")
        self.claim = claim
        self.renewed_s = renewed_s


class LeaseLost(OSError):
    """Another one took over, or the claim could not be renewed in time: nothing more may be written."""


class Lease:
    """A claim of this process while it is renewed in the background. `tell` gives what others shall know, each time."""

    def __init__(self, folder: str, claim: Claim, alone: bool, lease_s: float, on_loss: Callable[[], None]) -> None:
        self.claim = claim
        self.alone = alone
        self.tell: Callable[[], dict[str, Any]] = dict
        self.lost = False
        self._folder = folder
        self._lease_s = lease_s
        self._on_loss = on_loss
        self._renewed = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)

    def check(self) -> None:
        """Raises LeaseLost unless the claim surely holds; asks the storage only if it was not renewed lately."""
        if time.monotonic() - self._renewed > self._lease_s * _HELD_SHARE:
            self._renew()
        self._raise_if_lost()

    def narrow(self, first: int, end: int | None) -> None:
        """Keep only a part of the range; others may claim the rest."""
        self.claim = msgspec.structs.replace(self.claim, first=first, end=end)
        _change(self._folder, lambda claims: [self.claim if one.fence == self.claim.fence else one for one in claims])

    def start(self) -> None:
        """Renew from now on."""
        self._write("", self.tell())
        self._thread.start()

    def give_back(self, how: str) -> None:
        """End the claim, unless it is lost by now; if the storage does not answer, it runs out."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self.lost:
            return
        told = self.tell()
        with suppress(OSError):
            self._write(how, told)
        ended = msgspec.structs.replace(self.claim, ended=how, told=told)

        def end(claims: list[Claim]) -> list[Claim]:
            ours = [one for one in claims if one.fence == ended.fence and one.ended in ("", how)]
            self.lost = not ours
            return [ended if one in ours else one for one in claims]

        with suppress(OSError):
            _change(self._folder, end)

    def _raise_if_lost(self) -> None:
        if self.lost:
            raise LeaseLost(f"claim {self.claim.fence} in {self._folder} was taken over, or could not be renewed in time")

    def _keep_renewing(self) -> None:
        while not self._ended.wait(self._lease_s / _RENEWALS):
            self._renew()
            if self.lost:
                self._on_loss()
                return

    def _renew(self) -> None:
        now = time.monotonic()
        try:
            require(self._folder, self.claim.fence)
            self._write("", self.tell())
            self._renewed = now
        except LeaseLost:
            self.lost = True
        except OSError:
            self.lost = time.monotonic() - self._renewed > self._lease_s * _HELD_SHARE

    def _write(self, ended: str, told: dict[str, Any]) -> None:
        said = Renewal(fence=self.claim.fence, renewed_s=time.time(), lease_s=self._lease_s, ended=ended, told=told)
        storage.atomic_write(_renewal_address(self._folder, self.claim.fence), msgspec.json.encode(said) + b"\n")


@contextmanager
def hold(
    folder: str,
    first: int,
    end: int | None,
    lease_s: float,
    *,
    force: bool = False,
    on_loss: Callable[[], None] = lambda: None,
) -> Iterator[Lease]:
    """Claim a range, renew the claim while the block runs, and give it back. Raises Held, and OSError of the storage; LeaseLost
    if the block ran to its end, and the claim had not held until then.

    `force`: take over whatever holder there is. `on_loss` is called from another thread when the claim is lost.
    """
    holder = this_process()
    made: list[Claim] = []

    def claim(claims: list[Claim]) -> list[Claim]:
        fence = 1 + max((one.fence for one in claims), default=0)
        made[:] = [Claim(fence=fence, first=first, end=end, holder=holder, since_s=time.time())]
        return [*(_yielding(folder, one, made[0], lease_s, force) for one in claims), *made]

    claims = _change(folder, claim)
    alone = not any(one.overlaps(0, None) for one in claims if one.fence != made[0].fence)
    lease = Lease(folder, made[0], alone, lease_s, on_loss)
    how = "failed"
    try:
        lease.start()
        yield lease
        how = "done"
    finally:
        lease.give_back(how)
    lease._raise_if_lost()


def as_range(first: int, end: int | None) -> str:
    """A range as people write it: (3, None) -> "3:"; "" for all there is."""
    return "" if (first, end) == (0, None) else f"{first}:{'' if end is None else end}"


def claims_in(folder: str) -> list[Claim]:
    """All claims that there ever were, oldest first."""
    try:
        return _CLAIM_LISTS.decode(storage.read_bytes(storage.join(folder, _CLAIMS))).claims
    except FileNotFoundError:
        return []


def renewal_of(folder: str, fence: int) -> Renewal | None:
    """What the holder of a claim last said; None if nothing yet."""
    try:
        return _RENEWED.decode(storage.read_bytes(_renewal_address(folder, fence)))
    except FileNotFoundError:
        return None


def require(folder: str, fence: int) -> None:
    """Raises LeaseLost if claim `fence` does not hold any more."""
    if not any(one.fence == fence and not one.ended for one in claims_in(folder)):
        raise LeaseLost(f"claim {fence} in {folder} was taken over by another job")


def this_process() -> Holder:
    """This process, as a holder."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        who = f"user {os.getuid()}"
    return Holder(who, socket.gethostname(), os.getpid(), _machine(), _started(os.getpid()) or 0)


def has_ended(holder: Holder) -> bool:
    """Whether a process of this machine is surely no more; of another machine nothing is known."""
    return holder.machine == _machine() and _started(holder.pid) != holder.started


def _yielding(folder: str, old: Claim, new: Claim, lease_s: float, force: bool) -> Claim:
    """The old claim as it is if it is not in the way, ended if it may be taken over. Raises Held."""
    if not old.overlaps(new.first, new.end):
        return old
    said = renewal_of(folder, old.fence)
    renewed_s = said.renewed_s if said else old.since_s
    if not force and not has_ended(old.holder) and time.time() - renewed_s < lease_s:
        raise Held(old, renewed_s)
    return msgspec.structs.replace(old, ended=f"taken over by {new.fence}", told=said.told if said else {})


def _change(folder: str, change: Callable[[list[Claim]], list[Claim]]) -> list[Claim]:
    """Replace the list of claims by what `change` makes of it, whoever else does so too; gives the new list."""
    address = storage.join(folder, _CLAIMS)
    for _ in range(_TRIES):
        with _alone(folder):
            version = storage.version(address)
            claims = change(claims_in(folder) if version else [])
            try:
                storage.atomic_write(address, msgspec.json.format(msgspec.json.encode(_Claims(claims))), replaces=version)
                return claims
            except Conflict:
                pass
        time.sleep(random.uniform(0.05, 0.5))
    raise LeaseLost(f"{address} was changed by others {_TRIES} times in a row")


@contextmanager
def _alone(folder: str) -> Iterator[None]:
    """On a local disk a check and a replacement are two steps: one process at a time."""
    path = storage.local_path(folder)
    with _changing, nullcontext() if path is None else only_one(path / "lock", lambda holder: None):
        yield


def _renewal_address(folder: str, fence: int) -> str:
    return storage.join(folder, f"{fence:06d}.json")


def _machine() -> str:
    """Of this boot, and of this container's own numbering of processes."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - no path
    return socket.gethostname()


def _started(pid: int) -> int | None:
    """When a process started; None if there is none, or only its remains."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])
