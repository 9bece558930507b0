"""Steps for tests of the runner: one that works, raises, never ends, dies, cannot run."""

import os
import signal
import subprocess
import sys
import time

from tools.gpu_check.step import Context, Row, Skip


def works(context: Context):
    yield {"device": context.device, "value": 3.0, "target": "value <= 2"}
    yield {"device": "a | <b>", "value": 1.0, "target": "value <= 2"}


def raises(_context: Context):
    yield {"value": 1}
    raise RuntimeError("no such kernel\nand more of it")


def outlasts(context: Context):
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (context.folder / "helper").write_text(str(helper.pid))
    yield {"value": 1}
    time.sleep(600)


def dies(_context: Context):
    row: Row = {"value": 1}
    yield row
    os.kill(os.getpid(), signal.SIGSEGV)


def cannot(_context: Context):
    raise Skip("there is no card")
    yield {}
