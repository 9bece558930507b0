"""Programs in processes of their own that begin with their imports done: a server that has made them forks for each.

`import torch`, and what training needs besides, take 5 s of a core, and dozens of tests start `materia` or a script. Otherwise
these are programs as any other: they end by themselves, with handlers at exit and all, and have the caller's variables, import
path and working folder. How a program starts - what it imports, what it makes of its import path, of the locale, of a hub's
variables - they cannot tell: tests of that use `subprocess`.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

FOLDER = "MATERIA_TESTS_WARM"
"""Environment variable: where the servers listen, each on a socket of its name."""
LIGHT = ["materia.cli.main", "materia.dataset.stats", "materia.dataset.layers", "materia.dataset.writer", "pipeline.job"]
MODULES = {
    "light": [*LIGHT, "pipeline.engine.serial"],
    "heavy": [
        *LIGHT,
        "torch._dynamo",
        "torch.utils.tensorboard",
        "transformers.models.bert.modeling_bert",
        "trainer.run.loop",
        "materia.dataset.validate",
    ],
}
"""Of each server, what it imports when it is first asked. Not Ray, which reads its variables then; light: no torch, and nothing
that reads a hub's."""
_LENGTH = struct.Struct("<i")


@contextlib.contextmanager
def serving() -> Iterator[None]:
    """For this process and those that it starts. The servers end with it, even if it is killed."""
    folder = tempfile.mkdtemp(prefix="warm-")
    command = [sys.executable, __file__, "serve", folder]
    servers = [subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) for name in MODULES]
    os.environ[FOLDER] = folder
    try:
        yield
    finally:
        del os.environ[FOLDER]
        for server in servers:
            server.communicate()
        shutil.rmtree(folder)


class Program:
    """As subprocess.Popen in text mode, of a command that begins with this Python or is a script of it."""

    def __init__(
        self,
        command: Sequence[str | Path],
        server: str = "light",
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> None:
        self.args = [str(part) for part in command]
        self.returncode: int | None = None
        self.stdin, self.stdout, self.stderr = None, None, None
        theirs = []
        for name, given, mode in (("stdin", stdin, "w"), ("stdout", stdout, "r"), ("stderr", stderr, "r")):
            if given == subprocess.PIPE:
                ends = os.pipe()
                setattr(self, name, os.fdopen(ends[mode == "w"], mode, encoding="utf-8"))
                theirs.append(ends[mode == "r"])
            elif given == subprocess.DEVNULL:
                theirs.append(os.open(os.devnull, os.O_RDWR))
            else:
                theirs.append(os.dup(len(theirs) if given is None else given if isinstance(given, int) else given.fileno()))
        request = {"command": self.args, "cwd": str(cwd or Path.cwd()), "env": dict(os.environ if env is None else env)}
        self._server = _connected(Path(os.environ[FOLDER], server))
        message = json.dumps(request).encode()
        socket.send_fds(self._server, [_LENGTH.pack(len(message))], theirs)
        self._server.sendall(message)
        for end in theirs:
            os.close(end)
        self.pid = self._number()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._number()
            self._server.close()
        return self.returncode

    def communicate(self, input: str = "", timeout: float | None = None) -> tuple[str | None, str | None]:
        if self.stdin is not None:
            with self.stdin:
                self.stdin.write(input)
        with ThreadPoolExecutor(2) as pool:
            reading = [stream and pool.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()  # or the streams would not end
                raise
        return tuple(stream and stream.result() for stream in reading)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()

    def _number(self) -> int:
        data = self._server.recv(_LENGTH.size, socket.MSG_WAITALL)
        if not data:
            raise RuntimeError(f"the server of warm programs has ended; {self.args}")
        return _LENGTH.unpack(data)[0]


def run(
    command: Sequence[str | Path], server: str = "light", timeout: float = 280, **options: Any
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run in text mode, with all that the command says."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as stdout, tempfile.TemporaryFile("w+", encoding="utf-8") as stderr:
        program = Program(command, server, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, **options)
        try:
            program.wait(timeout)
        finally:
            program.kill()  # if it is not done yet
        said = []
        for file in (stdout, stderr):
            file.seek(0)
            said.append(file.read())
        return subprocess.CompletedProcess(program.args, program.wait(), *said)


def _connected(address: Path) -> socket.socket:
    """To a server that may just be starting."""
    for wait_s in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, None):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(address))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if wait_s is None:
                raise
            select.select([], [], [], wait_s)
        else:
            return connection
    raise AssertionError


def _serve(address: str, modules: list[str]) -> dict[str, Any]:
    """Fork for each request until standard input ends. Returns in every process that was forked, with the request."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(16)
    ended, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([0, ended, listening], [], [])
        if ended in ready:
            os.read(ended, 4096)
            while running:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                with contextlib.suppress(BrokenPipeError), running.pop(pid) as client:  # who may not care any more
                    client.sendall(_LENGTH.pack(os.waitstatus_to_exitcode(status)))
        if listening in ready:
            client, _ = listening.accept()
            length, descriptors, _, _ = socket.recv_fds(client, _LENGTH.size, 3)
            request = json.loads(client.recv(_LENGTH.unpack(length)[0], socket.MSG_WAITALL))
            for module in modules:
                with contextlib.suppress(ImportError):  # not every environment has all
                    importlib.import_module(module)
            gc.freeze()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for own, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, own)
                for number in (ended, told, *descriptors):
                    os.close(number)
                for connection in (listening, client, *running.values()):
                    connection.close()
                return request
            for descriptor in descriptors:
                os.close(descriptor)
            running[pid] = client
            with contextlib.suppress(BrokenPipeError):
                client.sendall(_LENGTH.pack(pid))
        if 0 in ready:
            sys.exit()


def _become(request: dict[str, Any], own_path: list[str]) -> None:
    """What Python does with such a command, from where it has read its variables."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(write_through=bool(os.environ.get("PYTHONUNBUFFERED")))
    sys.stderr = sys.__stderr__ = open(2, "w", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    command = request["command"]
    arguments = command[1:] if command[0] == sys.executable else command
    sys.orig_argv = [sys.executable, *arguments]
    main = types.ModuleType("__main__")
    path = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *own_path]
    if arguments[0] == "-m":
        sys.path[:] = [str(Path.cwd()), *path]
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    if arguments[0] == "-c":
        first, code = "", compile(arguments[1], "<string>", "exec")
        sys.argv = ["-c", *arguments[2:]]
    else:
        first, code = str(Path(arguments[0]).parent), compile(Path(arguments[0]).read_bytes(), arguments[0], "exec")
        sys.argv = arguments
        main.__file__ = arguments[0]
    sys.path[:] = [first, *path]
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def launched_by_others(command: Sequence[str | Path], server: str = "light") -> list[str]:
    """A command that starts this one, for programs that start others: variables, streams and exit code are passed on."""
    return [sys.executable, __file__, "run", server, *map(str, command)]


if __name__ == "__main__":
    sys.modules["warm"] = sys.modules[__name__]  # whose folder is not on the path of every program that imports it
    if sys.argv[1] == "run":
        sys.exit(Program(sys.argv[3:], sys.argv[2]).wait())
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [*(entry for entry in sys.path[1:] if entry not in given), sys.path[0]]  # programs of tests may start others
    _become(_serve(str(Path(*sys.argv[2:])), MODULES[sys.argv[3]]), path)
