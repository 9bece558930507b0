"""Asking a storage again: what may pass, how long it is waited for, and what no waiting can change.

In: a question to a storage, as a callable. Out: its answer, or an error of one of three kinds. *Of this address*: nothing is
there, or nothing for us (FileNotFoundError, PermissionError, NotAFile, Conflict): raised at once. *Passing*: busy, silent, or
away, or whatever a storage's library means by an error of its own: asked again, in the end StorageFailed. *Of all*: no
credentials, or refused ones: NoWayIn, at once; if they have only expired, after they were looked up anew as often.

How often. Libraries retry too, and what they do multiplies, so two layers are left. botocore makes a request up to 3 times
(its "standard" mode: back-off with jitter, below 3 s in all; AWS_MAX_ATTEMPTS is another number), because a large file is many
requests. And the whole question is asked again here, with jitter: 4 times where a person waits, which is 12 requests and 16 s
of a storage that is busy or away; 6 times in a job (`be_patient`), which is 18 requests and at most 2 minutes, so that a
server may start anew meanwhile. Of one that is silent each request takes its `timeout_s` (materia/base/storage_settings.py)
besides, 15 s: 3 minutes, in a job 7.
"""

from __future__ import annotations

import errno
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from materia.base.conditional import Conflict
from materia.base.errors import NoWayIn, StorageFailed, causes, disk_trouble

T = TypeVar("T")

PAUSES_S = (0.0, 0.2, 1.0, 3.0)
"""Before each attempt, at most, where a person waits for a command."""
PATIENT_PAUSES_S = (0.0, 1.0, 4.0, 10.0, 25.0, 60.0)
"""In a job, which runs alone for days."""

# Names of what botocore and google.auth raise, which need not be installed.
_NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "TokenRetrievalError",
    "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
    "DefaultCredentialsError",
    "RefreshError",
}
# Error codes of S3, whatever the address.
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_REFUSED = {
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "AccountProblem",
    "AllAccessDisabled",
    "NotSignedUp",
}
_ELSEWHERE = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_TOO_SKEWED = {"RequestTimeTooSkewed"}
# An upload in parts that was completed, though the answer was lost, or that the store has cleared away.
_DONE_OR_LOST = "NoSuchUpload"
_HOW_TO_GET_IN = (
    "set them in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS), or"
    " storage.s3.profile, or storage.s3.anonymous=true for public data"
)
_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
_CODE = re.compile(r"[A-Za-z0-9]{1,60}")

_TELL_S = 1.0
_jitter = random.SystemRandom()  # the generator that others seed stays theirs
_patient = False
_told: Callable[[], None] | None = None


_counting = threading.Lock()
_counted: Counter[str] = Counter()  # the fields of Asked


class NotAFile(OSError):
    """The address names a folder, a pipe or a device: nothing that can be read as a clip."""


def be_patient() -> None:
    """From now on this process waits as a job does."""
    global _patient  # noqa: PLW0603 - of the process, like the environment
    _patient = True


@contextmanager
def patience() -> Iterator[None]:
    """The same, while the block lasts."""
    global _patient  # noqa: PLW0603
    before = _patient
    try:
        be_patient()
        yield
    finally:
        _patient = before


def pauses_s() -> tuple[float, ...]:
    """The longest pause before each attempt, seconds."""
    return PATIENT_PAUSES_S if _patient else PAUSES_S


def while_waiting(told: Callable[[], None]) -> None:
    """Have `told` called again and again in pauses: a process that is watched says so that it is not stuck."""
    global _told  # noqa: PLW0603
    _told = told


class Asked(NamedTuple):
    """Questions to storages, each a request or a few, and how often they were repeated after a failure."""

    questions: int = 0
    repeated: int = 0

    def since(self, before: Asked) -> Asked:
        """What has come since then."""
        return Asked(self.questions - before.questions, self.repeated - before.repeated)

    def plus(self, other: Asked) -> Asked:
        """Both together."""
        return Asked(self.questions + other.questions, self.repeated + other.repeated)


def asked() -> Asked:
    """By this process until now."""
    with _counting:
        return Asked(_counted["questions"], _counted["repeated"])


def _count(what: str) -> None:
    with _counting:
        _counted[what] += 1


def again(ask: Callable[[], T], may_pass: Callable[[Exception], bool]) -> T:
    """What `ask` gives; asked again after a pause if it raises what may pass. Raises what it raised last."""
    _count("questions")
    *but_last, last_s = pauses_s()
    for number, pause_s in enumerate(but_last):
        if number:
            _count("repeated")
        _wait(pause_s)
        try:
            return ask()
        except Exception as error:
            if not may_pass(error):
                raise
    _count("repeated")
    _wait(last_s)
    return ask()


def _wait(at_most_s: float) -> None:
    """Half of the time at least: those who were refused together come again apart."""
    ends = time.monotonic() + at_most_s * _jitter.uniform(0.5, 1)
    while (left_s := ends - time.monotonic()) > 0:
        if _told is not None:
            _told()
        time.sleep(min(left_s, _TELL_S))


def persistently(ask: Callable[[], T]) -> T:
    """Ask the storage, again after a pause if it fails in a way that may pass.

    Raises StorageFailed, or at once NoWayIn, or the OSError of a file that is not there, may not be seen, or is none.
    """
    try:
        return again(lambda: _let_in(ask), _may_pass)
    except StorageFailed:
        raise
    except Exception as error:
        if not _may_pass(error):
            raise
        failure = store_code(error) or type(error).__name__
        if failure == type(error).__name__ and isinstance(error, OSError) and error.errno is not None:
            failure += f" ({os.strerror(error.errno)})"
    raise StorageFailed(f"the storage failed {len(pauses_s())} times, last with {failure}")


def store_code(error: BaseException) -> str:
    """The code that an S3 server gave with an error, such as SlowDown; "" if there is none.

    Of an answer to HEAD, which has no body, it is the number of the HTTP status.
    """
    for cause in causes(error):
        response: Any = getattr(cause, "response", None)
        if isinstance(response, dict):
            code = str(response.get("Error", {}).get("Code", ""))
            return code if _CODE.fullmatch(code) else ""
    return ""


def _let_in(ask: Callable[[], T]) -> T:
    """Raises NoWayIn for what the stores and their libraries raise without credentials that are good."""
    try:
        return ask()
    except Exception as error:
        if isinstance(error, StorageFailed) or (closed := _closed(error)) is None:
            raise
        if closed.expired:
            _look_up_credentials_anew()
        raise closed from None


def _closed(error: Exception) -> NoWayIn | None:
    if (name := type(error).__name__) in _NO_CREDENTIALS:
        return NoWayIn(f"no credentials were found ({name}); {_HOW_TO_GET_IN}")
    code = store_code(error)
    if code in _EXPIRED:
        how = "renew them where they come from (the environment, or the profile), and the same command goes on"
        return NoWayIn(f"the credentials have expired ({code}); {how}", expired=True)
    if code in _REFUSED:
        return NoWayIn(f"the storage does not accept the credentials ({code}); {_HOW_TO_GET_IN}")
    if code in _ELSEWHERE:
        return NoWayIn(f"the bucket is in another region or at another server ({code}); see storage.s3.region and endpoint")
    if code in _TOO_SKEWED:
        return NoWayIn(f"this machine's clock differs from the storage's ({code}); set it right")
    return None


def _look_up_credentials_anew() -> None:
    """Whoever asks next makes a new session, which reads profiles, tokens and roles again.

    botocore renews only those that say themselves when they expire.
    """
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()


def _may_pass(error: Exception) -> bool:
    """Every storage library has exceptions of its own; what none of them means by these is a failure of the storage."""
    if isinstance(error, NoWayIn):
        return error.expired
    if store_code(error) == _DONE_OR_LOST:
        return True
    if isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError | NotAFile | StorageFailed | Conflict):
        return False
    return disk_trouble(error) is None and not (isinstance(error, OSError) and error.errno in _NO_SUCH_FILE)
