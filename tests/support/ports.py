"""Free TCP ports of loopback, for programs that must be told their port before they listen.

Ports that the system gives to outgoing connections are none of these, and no two test processes share one: each takes
blocks of ports, held by a lock on a file until the process ends. So a port stays free until the program listens on it.
"""

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

FIRST: Final = 10_240
LAST: Final = 32_767  # Linux gives outgoing connections 32,768 and more
BLOCK: Final = 32


def free_port() -> int:
    """A port that nothing listens on, and that no other test process is given."""
    return next(port for port in _ports() if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@cache
def _ports() -> Iterator[int]:
    """This process's ports, one iterator for all who ask."""
    return _reserved()


def _reserved() -> Iterator[int]:
    directory = Path(tempfile.gettempdir()) / f"gateway-test-ports-{os.getuid()}"
    directory.mkdir(exist_ok=True)
    blocks = range(FIRST, LAST - BLOCK, BLOCK)
    start = os.getpid() % len(blocks)  # so that processes seldom try the same one
    for first in (*blocks[start:], *blocks[:start]):
        lock = os.open(directory / str(first), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        yield from range(first, first + BLOCK)  # the lock ends with the process: children do not inherit it
    raise RuntimeError("every block of ports is taken by another test process")
