"""Writes log lines without ever making the event loop wait for the reader of the log.

    write(text)        accepts whole lines into a bounded buffer; a thread writes them to the stream's file descriptor
    dropped            lines for which there was no room or no reader; `on_dropped(count)` is called when it flows again
    drain(timeout_s)   waits at the end for what is in the buffer, but not for a reader that never reads

A write to a pipe whose reader is stuck blocks. Therefore only that thread writes, and it writes to the descriptor: the
stream's own buffer has a lock, which a stuck writer would keep, and Python would wait for it at exit. A stream without
a file descriptor (text in memory) never blocks and is written to at once.
"""

from __future__ import annotations

import atexit
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final, TextIO

DEFAULT_MAX_BYTES: Final = 4 * 1024 * 1024
_BATCH_INTERVAL_S: Final = 0.02
"""How long lines are gathered after a write. To wake the thread costs the event loop more than to write a line."""
MAX_DRAIN_S: Final = 1.0
"""How long the end of a process waits for the log."""


class LogWriter:
    """A text stream, as far as loggers need one.

    With `waits`, `write` blocks while the buffer is full instead of dropping.

    Mutable, under `_changed`: the buffered lines, their size in bytes, and the number of dropped lines.
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
        self._has_descriptor = _descriptor(stream) is not None
        self._max_bytes = max_bytes
        self._waits = waits
        self._on_dropped = on_dropped
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._bytes = 0  # of the buffer and of what the thread is writing
        self._reported = 0
        self._thread: threading.Thread | None = None
        self._idle = False

    def write(self, text: str) -> int:
        """Accepts whole lines."""
        if not self._has_descriptor:
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
                self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
                self._thread.start()
                atexit.register(self.drain, MAX_DRAIN_S)
            elif self._idle:
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Does nothing, except for a stream in memory: the thread writes what was accepted as soon as it can."""
        if not self._has_descriptor:
            self._stream.flush()

    def drain(self, timeout_s: float) -> bool:
        """Waits until everything accepted is written. Returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._bytes, timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle = True
                self._changed.wait_for(lambda: self._waiting)
                self._idle = False
                data, self._waiting = b"".join(self._waiting), []
            lost = _put(self._stream, data)
            with self._changed:
                self._bytes -= len(data)
                self.dropped += lost
                unreported = 0 if lost else self.dropped - self._reported
                self._reported += unreported
                self._changed.notify_all()
            if unreported and self._on_dropped is not None:
                self._on_dropped(unreported)
            time.sleep(_BATCH_INTERVAL_S)


def _put(stream: TextIO, data: bytes) -> int:
    """Writes all of it, however long that takes. Returns the number of lines lost with the log itself."""
    rest = memoryview(data)
    while rest:
        descriptor = _descriptor(stream)
        if descriptor is None:  # closed, so another file may have its number now
            return bytes(rest).count(b"\n")
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # another user of the descriptor made it non-blocking
            select.select([], [descriptor], [])
        except OSError:  # the reader is gone, or the disk is full
            return bytes(rest).count(b"\n")
    return 0


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # a stream in memory, closed, or without a descriptor
        return None
