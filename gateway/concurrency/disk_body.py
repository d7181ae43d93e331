"""A request's body in a file instead of memory.

    DiskBody    written in order, then read in slices by any thread
    SentBody    a body as it is sent: one range of its bytes may be replaced; the file is not copied

The file never has a name (O_TMPFILE, where the file system supports it), so that a process that is killed leaves no
file behind. A failure is a GatewayError `disk_unavailable`; the operator's log has the reason.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Final, NamedTuple, Protocol

from gateway.concurrency.off_loop import OffLoop
from gateway.errors import Cause, GatewayError

_PIECE_BYTES: Final = 512 * 1024  # the most that is searched at a time
_FIRST_PIECE_BYTES: Final = 64 * 1024


def disk_unavailable(detail: str) -> GatewayError:
    """Returns the error for a body that has to be kept on disk and cannot be."""
    return GatewayError(
        "disk_unavailable",
        "This gateway cannot keep an upload of this size just now. Try again.",
        cause=Cause("disk", detail),
    )


class DiskBody:
    """One body, as a `protocol.byte_search.Readable`. Its methods block, so they are for threads.

    State that changes: the file, which the first write creates and `close` closes, and its size. A lock protects both:
    otherwise a read could use the number of a closed descriptor, which may belong to another file by then.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._size = 0
        self._closed = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Its length in bytes."""
        return self._size

    def write(self, data: bytes | bytearray) -> None:
        """Appends to the file. Raises GatewayError `disk_unavailable`."""
        with self._lock:
            try:
                file = self._opened()
                view = memoryview(data)
                while view:
                    written = os.pwrite(file.fileno(), view, self._size)
                    self._size += written
                    view = view[written:]
            except OSError as error:
                raise disk_unavailable(f"{error.strerror or error} ({self._directory})") from None

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, or to its own end. Raises GatewayError `disk_unavailable`."""
        pieces: list[bytes] = []
        with self._lock:
            end = min(end, self._size)
            try:
                while start < end:
                    piece = os.pread(self._opened().fileno(), end - start, start)
                    if not piece:
                        raise disk_unavailable(f"a file became shorter ({self._directory})")
                    pieces.append(piece)
                    start += len(piece)
            except OSError as error:
                raise disk_unavailable(f"{error.strerror or error} ({self._directory})") from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def find(self, needle: bytes, start: int = 0, end: int | None = None) -> int:
        """As `bytes.find`, in slices."""
        size, more, step = self._size if end is None else min(end, self._size), len(needle) - 1, _FIRST_PIECE_BYTES
        while start < size:
            at = self.read(start, min(start + step + more, size)).find(needle)
            if at >= 0:
                return start + at
            start += step
            step = min(2 * step, _PIECE_BYTES)
        return -1

    def close(self) -> None:
        """Deletes the file. Later reads and writes fail. Idempotent."""
        with self._lock:
            self._closed = True
            file, self._file = self._file, None
            if file is not None:
                file.close()

    def _opened(self) -> IO[bytes]:
        if self._closed:
            raise disk_unavailable("the request has ended")
        if self._file is None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 - `close` ends it
        return self._file


class Edit(NamedTuple):
    """Other bytes in place of those from `start` to `end`."""

    start: int
    end: int
    value: bytes


NO_EDIT: Final = Edit(0, 0, b"")


class Source(Protocol):
    """The bytes of a body. Both methods may block, and raise GatewayError `disk_unavailable`."""

    def __len__(self) -> int:
        """Its length in bytes."""

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, or to its own end."""


class SentBody:
    """A body as it is sent: the bytes of `source`, with one edit. It is read in the threads of `off_loop`."""

    __slots__ = ("_edit", "_off_loop", "_size", "_source")

    def __init__(self, source: Source, off_loop: OffLoop, edit: tuple[int, int, bytes] = NO_EDIT) -> None:
        self._source = source
        self._off_loop = off_loop
        self._edit = Edit(*edit)
        self._size = len(source) + len(self._edit.value) - (self._edit.end - self._edit.start)

    def __len__(self) -> int:
        """How many bytes are sent."""
        return self._size

    def read(self, at: int, max_bytes: int) -> bytes:
        """Returns between one and `max_bytes` bytes from `at` on. It may block. Raises GatewayError."""
        start, end, value = self._edit
        if at < start:
            return self._source.read(at, min(at + max_bytes, start))
        inside = at - start
        if inside < len(value):
            return value[inside : inside + max_bytes]
        place = end + inside - len(value)
        return self._source.read(place, place + max_bytes)

    def begin_read(self, at: int, max_bytes: int, then: Callable[[asyncio.Future[bytes]], None]) -> None:
        """Reads the same in a thread. `then` is called on the event loop."""
        self._off_loop.begin(partial(self.read, at, max_bytes)).add_done_callback(then)
