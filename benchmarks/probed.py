"""The gateway with a probe of its event loop: `python -m benchmarks.probed gateway.toml gaps`.

The file `gaps` holds one number of eight bytes, native: the longest time in nanoseconds for which the loop served
nobody since that number was last set to 0. Whoever asks sets it to 0 and reads it later.
"""

from __future__ import annotations

import asyncio
import mmap
import struct
import sys
import time
from pathlib import Path
from typing import Final

from gateway.app import build_app
from gateway.config.settings import load_settings
from gateway.observability.request_log import configure_logging
from gateway.server import Server, bind, calm_collector, keep_large_memory_apart, server_config

_EVERY_S: Final = 0.001
SIZE: Final = struct.calcsize("q")


class Probe:
    """Asks the loop to call it every millisecond, and notes how late it is. Mutable: when it was called last."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), SIZE)
        self._last_ns = 0

    def start(self) -> None:
        """Begins, on the running loop."""
        calm_collector()
        self._loop = asyncio.get_running_loop()
        self._last_ns = time.monotonic_ns()
        self._look()

    def _look(self) -> None:
        now_ns = time.monotonic_ns()
        gap_ns, self._last_ns = now_ns - self._last_ns - int(_EVERY_S * 1e9), now_ns
        if gap_ns > struct.unpack("q", self._shared[:])[0]:
            self._shared[:] = struct.pack("q", gap_ns)
        self._loop.call_later(_EVERY_S, self._look)


def main() -> None:
    """Serves until it is told to end."""
    settings = load_settings(Path(sys.argv[1]))
    keep_large_memory_apart()
    app = build_app(settings, configure_logging(settings.log), on_started=Probe(Path(sys.argv[2])).start)
    Server(server_config(settings, app)).run(sockets=[bind(settings)])


if __name__ == "__main__":
    main()
