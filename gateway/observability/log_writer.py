"""A log's lines on their way out, without ever making the event loop wait for whoever reads them.

    write(text)        whole lines, into a bounded buffer; a thread writes them to the stream's file descriptor
    dropped            lines that found no room, or no log any more; `on_dropped(count)` is told when it flows again
    drain(timeout_s)   at the end: waits for what is in the buffer, but not for a reader that never reads

A pipe whose reader is stuck blocks whoever writes to it. So nobody writes here but that thread, and to the descriptor
itself: a stream's own buffer has a lock, which a stuck writer would keep, and Python would wait for it when it ends.
A stream without a file descriptor (a text in memory) is written to at once: it never blocks.
"""

from __future__ import annotations

import atexit
import os
import select
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TextIO

DEFAULT_MAX_BYTES: Final = 4 * 1024 * 1024
_GATHER_S: Final = 0.005
"""After a write, how long lines gather for the next one: a thread that is woken for each line costs the loop more."""
LONGEST_DRAIN_S: Final = 1.0
"""How long the end of a process waits for the log."""


class LogWriter:
    """A text stream, as far as loggers need one. `waits`: where the buffer is full, `write` waits instead of dropping.

    State that changes, under `_changed`: the lines that wait, their bytes, and how many were dropped.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        waits: bool = False,
        on_dropped: Callable[[int], None] | None = None,
    ) -> None:
        self.dropped = 0
        self._stream = stream
        self._descriptor = _descriptor(stream)
        self._max_bytes = max_bytes
        self._waits = waits
        self._on_dropped = on_dropped
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._bytes = 0  # of what waits, and of what the thread is writing just now
        self._told = 0
        self._thread: threading.Thread | None = None
        self._idle = False

    def write(self, text: str) -> int:
        """Takes whole lines."""
        if self._descriptor is None:
            return self._stream.write(text)
        data = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._bytes + len(data) > self._max_bytes and self._bytes:
                if not self._waits:
                    self.dropped += text.count("\n")
                    return len(text)
                self._changed.wait_for(lambda: not self._bytes or self._bytes + len(data) <= self._max_bytes)
            self._waiting.append(data)
            self._bytes += len(data)
            if self._thread is None:
                run = partial(self._run, self._descriptor)
                self._thread = threading.Thread(target=run, name="log-writer", daemon=True)
                self._thread.start()
                atexit.register(self.drain, LONGEST_DRAIN_S)
            elif self._idle:
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """What was written leaves at once where it can: there is nothing to do but for a stream in memory."""
        if self._descriptor is None:
            self._stream.flush()

    def drain(self, timeout_s: float) -> bool:
        """Waits until all that was taken is written; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._bytes, timeout_s)

    def _run(self, descriptor: int) -> None:
        while True:
            with self._changed:
                self._idle = True
                self._changed.wait_for(lambda: self._waiting)
                self._idle = False
                data, self._waiting = b"".join(self._waiting), []
            lost = _put(descriptor, data)
            with self._changed:
                self._bytes -= len(data)
                self.dropped += lost
                untold = 0 if lost else self.dropped - self._told
                self._told += untold
                self._changed.notify_all()
            if untold and self._on_dropped is not None:
                self._on_dropped(untold)
            time.sleep(_GATHER_S)


def _put(descriptor: int, data: bytes) -> int:
    """Writes it all, however long that takes. Gives the number of lines that were lost with the log itself."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # whoever shares the descriptor has made it so
            select.select([], [descriptor], [])
        except OSError:  # no reader, no disk
            return bytes(rest).count(b"\n")
    return 0


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # in memory, closed, or none at all
        return None
