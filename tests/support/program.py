"""The gateway's own program, as a user starts it: a process, its output, its end.

run("check", "--config", path)                  a command that ends: .code, .out, .err
with started("demo", "--port", "0", cwd=...):   a command that serves: .wait_for(text), .stop(), .kill()
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.support.fork_server import Forked, ForkServer, read_at_start
from tests.support.log_scan import leaks, secrets_of
from tests.support.waiting import wait_until_sync

ROOT = Path(__file__).parents[2]
MODULE = ("-m", "gateway")
PROGRAM = (sys.executable, *MODULE)


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns this process's environment without what configures a gateway, plus `changes`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GATEWAY_") and name not in ("SIRAYA_API_KEY", "TEST_UPSTREAM_KEY")
    }
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **(changes or {})}


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


def start(
    python: Sequence[str], cwd: Path, env: Mapping[str, str], out: IO[Any], err: IO[Any], *, is_fork: bool = True
) -> Forked | subprocess.Popen[bytes]:
    """Starts Python with these arguments, by default as a fork: fork_server.py.

    With other variables for the interpreter than the tests' own, it is a process of its own all the same.
    """
    usual = environment()
    if is_fork and ForkServer.is_possible(env, usual):
        return ForkServer.shared(read_at_start(usual)).start(python, cwd, env, out, err)
    return subprocess.Popen([sys.executable, *python], cwd=cwd, env=env, stdout=out, stderr=err)


def run(*words: str, cwd: Path, env: Mapping[str, str] | None = None, is_fork: bool = True) -> Ended:
    """Runs a command to its end."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = start((*MODULE, *words), cwd, environment(env), out, err, is_fork=is_fork)
        try:
            code = process.wait(timeout=100)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        return Ended(code, out.read(), err.read())


class Program:
    """A command that serves."""

    def __init__(
        self, words: tuple[str, ...], cwd: Path, env: Mapping[str, str] | None, *, is_fork: bool = True
    ) -> None:
        self._out = cwd / "out"
        self._err = cwd / "err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = start((*MODULE, *words), cwd, environment(env), out, err, is_fork=is_fork)

    @property
    def out(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def wait_for(self, text: str, *, count: int = 1) -> str:
        """Waits for the text and returns the output."""
        wait_until_sync(
            lambda: (self.out + self.err).count(text) >= count or self.process.poll() is not None,
            timeout_s=100,
            what=f"{text!r} is printed",
        )
        assert (self.out + self.err).count(text) >= count, f"it ended with {self.process.returncode}: {self.err}"
        return self.out

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Asks it to end and returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=100)

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.wait(timeout=100)


@contextlib.contextmanager
def started(*words: str, cwd: Path, env: Mapping[str, str] | None = None, is_fork: bool = True) -> Iterator[Program]:
    """Runs a program that serves until the block ends. Its log must not contain a secret."""
    program = Program(words, cwd, env, is_fork=is_fork)
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.stop(signal.SIGTERM)
    assert leaks(program.err, secrets_of(env or {})) == [], "a secret is in the log"


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processes_in(directory: Path) -> list[int]:
    """Returns the processes whose command line names the directory: the store of a gateway with its data there."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.fsencode(directory) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return [pid for pid in found if is_alive(pid)]
