"""Processes on chosen cores, and what they use. Linux only.

with running([...], cores=(0,)) as process:     process.cpu_s(), .rss_bytes()     including its children
conditions()                                    the machine on which the numbers were measured
"""

from __future__ import annotations

import contextlib
import http.client
import os
import platform
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_START_TIMEOUT_S: Final = 120.0  # long, for a machine that others use too


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores of the run: the measured process on `server`, everything else on `load`."""

    server: tuple[int, ...]
    load: tuple[int, ...]

    @classmethod
    def of_this_machine(cls) -> Cores:
        """Returns the first core for the server and the others for the load. A single core is used for both."""
        usable = sorted(os.sched_getaffinity(0))
        return cls((usable[0],), tuple(usable[1:]) or (usable[0],))


class Missing(Exception):
    """A measurement is not possible here. The message says what it needs."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running program."""

    pid: int

    def _tree(self) -> list[int]:
        pids, at = [self.pid], 0
        while at < len(pids):
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pids[at]}/task").iterdir():
                    pids += map(int, (task / "children").read_text().split())
            at += 1
        return pids

    def cpu_s(self) -> float:
        """Returns the CPU time used so far by the process and its running children."""
        ticks = 0
        for pid in self._tree():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS_PER_S

    def rss_bytes(self) -> int:
        """Resident memory."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES for pid in self._tree())


@contextlib.contextmanager
def running(
    command: list[str], *, cores: tuple[int, ...], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Runs a program pinned to cores until the end of the block."""
    pinned = ["taskset", "-c", ",".join(map(str, cores)), program(command[0]), *command[1:]]
    with log.open("ab") as out:
        child = subprocess.Popen(  # noqa: S603 - the programs that are compared
            pinned, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}
        )
    try:
        yield Process(child.pid)
    finally:
        child.terminate()
        try:
            child.wait(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def program(name: str) -> str:
    """A program's path. Raises Missing."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        raise Missing(f"{name} is not installed")
    return path


def free_port() -> int:
    """A TCP port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(ready: Callable[[], bool], what: str, timeout_s: float = _START_TIMEOUT_S) -> None:
    """Polls until `ready()` is true; an OSError means not yet. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if ready():
                return
        time.sleep(0.01)
    raise TimeoutError(f"{what} did not become ready within {timeout_s:g} s")


def accepts(port: int) -> bool:
    """Whether something listens on a port. Raises OSError otherwise."""
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def answers(path: Path) -> bool:
    """Whether a store answers on its unix socket. Raises OSError if nothing listens."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        probe.connect(str(path))
        probe.sendall(b"PING\r\n")
        return probe.recv(16) == b"+PONG\r\n"


def is_ready(port: int) -> bool:
    """Whether a gateway is ready. Raises OSError if nothing listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200  # noqa: PLR2004 - OK
    finally:
        connection.close()


def raise_file_limit() -> int:
    """Raises the limit of open files to the most that this user may have. Returns it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 65_536 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def conditions() -> dict[str, str]:
    """Describes the machine and the programs."""
    model = "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    return {
        "cpu": f"{os.cpu_count()} x {model}",
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }
