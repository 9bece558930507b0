"""What nobody foresaw, in one clip: a rejection with a message that is the same in every run, and a traceback for who debugs.

A stage that catches everything hands it to `internal_error`; so does the engine for a stage that does not.
"""

from __future__ import annotations

import re
import tempfile

from materia.base.errors import lasting_trouble
from stages import notices
from stages.records import Rejection, Sample, StageName, reject

_MOST_CHARS = 500
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


def internal_error(sample: Sample, stage: StageName, error: Exception, what: str = "") -> Rejection:
    """The rejection of a sample; `what` failed, if that is known. Its traceback goes to the run's log.

    Raises OSError if a disk is full or read-only, or a storage lets nobody in: that is no clip's fault, and the job must stop.
    """
    trouble = lasting_trouble(error)
    if trouble is not None:
        raise trouble from error
    notices.trace(f"row {sample.clip.row}, {stage}", error)
    message = f"{type(error).__name__}: {error}"
    return reject(sample, stage, "internal_error", stable(f"{what}: {message}" if what else message))


def stable(message: str) -> str:
    """Without addresses in memory and names of temporary files, which differ from run to run; cut to a readable length."""
    temporary = re.escape(tempfile.gettempdir()) + r"""/[^\s'"]+"""
    return re.sub(temporary, "TMPDIR/...", _ADDRESS.sub("0x...", message))[:_MOST_CHARS]
