"""Runs Python programs as forks of a process that has imported the gateway: 0.1 s of CPU time for a start, not 1.3 s.

    ForkServer.shared().start(["-m", "gateway", "serve"], cwd, env, out, err)    what tests use of `subprocess.Popen`

The arguments are those of Python: `-m MODULE` or `-c CODE`, and what follows. A fork has the arguments, environment,
directory, output and signal handlers of a process of its own, and no other file; it runs the same code, and ends as a
Python process does. What differs: `/proc/PID/cmdline` and `/proc/PID/environ` are those of the server, modules are
imported already, and the interpreter has read its variables before (`is_possible`). A test of these starts a process
of its own; `tests/cli/test_forked_programs.py` compares the two. The processes that a fork spawns by `multiprocessing`,
such as workers, are forks of it in the same sense.

Each test process has one server. When the test process ends, however it ends, the server kills what still runs, and
ends.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from multiprocessing import process, util
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Final, NoReturn

Env = tuple[tuple[str, str], ...]

_MODULES: Final = ("gateway.app", "gateway.cli.demo", "gateway.cli.serve", "gateway.server", "gateway.simulator.app")
_READ_AT_START: Final = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC_", "OPENSSL_", "TZ")
"""How the names of variables begin which the interpreter and its libraries read before a program runs."""
_STDOUT, _STDERR = 1, 2
_LENGTH_BYTES: Final = 8


class Forked:
    """A forked process, with the methods of `subprocess.Popen` that tests use. As with Popen, who waits reaps it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.returncode: int | None = None
        self.pid = self._number()

    def _number(self) -> int:
        """The next number of the server: the process id, and the return code at the end."""
        line = b""
        while not line.endswith(b"\n"):
            byte = self._channel.recv(1)
            if not byte:
                self._channel.close()
                raise RuntimeError("the fork server has ended")
            line += byte
        return int(line)

    def poll(self) -> int | None:
        """Returns the return code, or None while the process runs."""
        try:
            return self.wait(timeout=0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end. Raises TimeoutExpired."""
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._channel, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired("a forked program", timeout or 0.0)
            self.returncode = self._number()
            self._channel.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """`kill -9`."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The server's end in the test process. From any thread."""

    def __init__(self, env: Env) -> None:
        self._lock = threading.Lock()
        self._env = env
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # as no terminal: the forks' own output is buffered as in a file
                pass_fds=(theirs.fileno(),),
            )

    @classmethod
    def is_possible(cls, env: Mapping[str, str], usual: Mapping[str, str]) -> bool:
        """Whether a program with these variables can be a fork of one that was started with the usual ones."""
        return hasattr(os, "waitid") and read_at_start(env) == read_at_start(usual)

    @classmethod
    @functools.cache
    def shared(cls, env: Env) -> ForkServer:
        """The server of this test process, started with these variables."""
        server = cls(env)
        atexit.register(server.close)
        return server

    def close(self) -> None:
        """Kills what still runs, and ends the server."""
        self._control.close()
        self._process.wait()

    def start(self, words: Sequence[str], cwd: Path, env: Mapping[str, str], out: IO[Any], err: IO[Any]) -> Forked:
        """Starts Python with these arguments, of which the first is `-m` or `-c`."""
        mine, theirs = socket.socketpair()
        request = json.dumps({"words": list(words), "cwd": str(cwd), "env": dict(env)}).encode()
        with theirs, self._lock:
            fds = [out.fileno(), err.fileno(), theirs.fileno()]
            socket.send_fds(self._control, [len(request).to_bytes(_LENGTH_BYTES, "big")], fds)
            self._control.sendall(request)
        return Forked(mine)


def read_at_start(env: Mapping[str, str]) -> Env:
    """Returns the variables that are read before a program runs."""
    return tuple(sorted((name, value) for name, value in env.items() if name.startswith(_READ_AT_START)))


class _Job:
    """What a forked process is to do."""

    def __init__(self, words: list[str], cwd: str, env: dict[str, str]) -> None:
        self.words, self.cwd, self.env = words, cwd, env

    def run(self) -> None:
        """Runs the program in the place of this process's main module, as `python -m` and `python -c` do."""
        option, program, *arguments = self.words
        os.chdir(self.cwd)
        os.environ.clear()
        os.environ.update(self.env)
        process.ORIGINAL_DIR = self.cwd  # type: ignore[attr-defined]  # where it began: what it spawns looks there
        _fork_what_is_spawned()
        sys.argv[:] = [option, *arguments]
        if option == "-m":
            sys.path[0] = self.cwd
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            _run_code(program)


def _run_code(program: str) -> None:
    """What `python -c` does."""
    sys.path[0] = ""
    main_module = sys.modules["__main__"] = ModuleType("__main__")
    exec(compile(program, "<string>", "exec"), main_module.__dict__)  # noqa: S102 - the program is the test's own


def _fork_what_is_spawned() -> None:
    """Has `multiprocessing` fork this process where it would start Python for a spawned one."""
    start_program: Callable[..., int] = util.spawnv_passfds

    def start(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        options = [os.fsdecode(word) for word in args]
        if "--multiprocessing-fork" not in options:
            return start_program(path, args, passfds)
        before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        with warnings.catch_warnings(action="ignore"):  # a thread writes the log: the fork has its own log
            pid = os.fork()
        if pid == 0:
            _become_spawned(options[options.index("-c") + 1], frozenset(passfds), before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid

    util.spawnv_passfds = start


def _become_spawned(program: str, fds: frozenset[int], mask: set[int]) -> NoReturn:
    """Runs the program in a fork, which keeps of its parent what a new process would: these files and the mask.

    The parent's calls are never returned to, so nothing of what they hold is closed twice.
    """
    code: int | str | None = 1
    try:
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for fd, following in pairwise([*sorted({0, _STDOUT, _STDERR, *fds}), os.sysconf("SC_OPEN_MAX")]):
            os.closerange(fd + 1, following)
        atexit._clear()  # noqa: SLF001 - nothing else forgets what the parent is to do at its end
        sys.argv[:] = ["-c", "--multiprocessing-fork"]
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _run_code(program)
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as Python does where nothing catches it
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()  # noqa: SLF001 - the end of a process without its parent's calls
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


class _Server:
    """Forks, and tells how the processes end. Mutable: the processes that are not reaped, each with its channel."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._running: dict[int, socket.socket] = {}
        self._ended: dict[int, socket.socket] = {}

    def serve(self) -> _Job | None:
        """Serves until the test process has ended. In a forked process, returns what that has to do."""
        woken, waker = socket.socketpair()
        with self._control, woken, waker, selectors.DefaultSelector() as selector:
            waker.setblocking(False)
            signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
            signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is woken:
                        woken.recv(4096)
                        self._tell_ended()
                    elif key.fileobj is not self._control:
                        selector.unregister(key.fileobj)
                        self._reap(key.data)
                    elif (request := self._request()) is None:
                        self._kill_all()
                        return None
                    elif (job := self._fork(*request, selector)) is not None:
                        return job

    def _request(self) -> tuple[list[int], _Job] | None:
        length, fds, _, _ = socket.recv_fds(self._control, _LENGTH_BYTES, 3)
        if not length:
            return None
        data = b""
        while len(data) < int.from_bytes(length, "big"):
            data += self._control.recv(int.from_bytes(length, "big") - len(data))
        return fds, _Job(**json.loads(data))

    def _fork(self, fds: list[int], job: _Job, selector: selectors.BaseSelector) -> _Job | None:
        out, err, channel_fd = fds
        channel = socket.socket(fileno=channel_fd)
        # A signal that comes before the child has its own handlers waits until it has.
        before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.dup2(out, _STDOUT)
            os.dup2(err, _STDERR)
            for one in (channel, *self._running.values(), *self._ended.values()):
                one.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(out)
        os.close(err)
        if pid == 0:
            return job
        _tell(channel, pid)
        selector.register(channel, selectors.EVENT_READ, pid)
        self._running[pid] = channel
        return None

    def _tell_ended(self) -> None:
        """Tells each return code. The process stays a zombie until its code was read: its id is not given away."""
        for pid, channel in list(self._running.items()):
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                self._ended[pid] = self._running.pop(pid)
                code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                _tell(channel, code)

    def _reap(self, pid: int) -> None:
        """Its channel was closed: the code was read, or nobody will ask for it any more."""
        if pid in self._running:
            os.kill(pid, signal.SIGKILL)
        channel = self._running.pop(pid, None) or self._ended.pop(pid)
        channel.close()
        os.waitpid(pid, 0)

    def _kill_all(self) -> None:
        for pid in [*self._running, *self._ended]:
            self._reap(pid)


def _tell(channel: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # nobody asks for it any more
        channel.sendall(b"%d\n" % number)


def main() -> None:
    """Serves on the socket that the argument names; in a forked process, runs the program."""
    for name in _MODULES:
        import_module(name)
    gc.freeze()  # what is there already is not looked at again in each fork
    job = _Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    if job is not None:
        job.run()


if __name__ == "__main__":
    main()
