"""Searches long bytes in pieces, because a search in one call holds the interpreter's lock. Pure; runs in any thread.

find(text, needle, start)            like bytes.find
contains(pattern, text, longest)     whether a regular expression matches anywhere; no match is longer than `longest`
joined(pieces)                       like b"".join

Readable                             bytes that are in memory (InMemory), on disk, or a part of others (Window)

Callers use the methods of `bytes` for at most `PIECE_BYTES`, which saves a call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Protocol

from gateway.types import Body

PIECE_BYTES: Final = 512 * 1024


def find(text: Body, needle: bytes, start: int = 0, end: int | None = None) -> int:
    """Returns the first position of `needle` between `start` and `end`, or -1."""
    size, more = len(text) if end is None else min(end, len(text)), len(needle) - 1
    while start < size:
        at = text.find(needle, start, min(start + PIECE_BYTES + more, size))
        if at >= 0:
            return at
        start += PIECE_BYTES
    return -1


def contains(pattern: re.Pattern[bytes], text: Body, longest: int) -> bool:
    """Whether the pattern matches anywhere. Whether it matches at a position depends on at most `longest` bytes."""
    return any(
        pattern.search(text, start, start + PIECE_BYTES + longest) is not None
        for start in range(0, max(1, len(text)), PIECE_BYTES)
    )


def joined(pieces: Iterable[Body | memoryview]) -> bytearray:
    """Returns the pieces as one."""
    whole = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), PIECE_BYTES):
            whole += view[start : start + PIECE_BYTES]
    return whole


class Readable(Protocol):
    """Bytes, wherever they are. What is on disk may raise GatewayError `disk_unavailable`."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, start: int, end: int) -> bytes:
        """Those from `start` to `end`, or to their own end."""

    def find(self, needle: bytes, start: int = 0, end: int | None = None) -> int:
        """As `find`."""


class InMemory:
    """`Readable` over a body in memory."""

    __slots__ = ("_body",)

    def __init__(self, body: Body) -> None:
        self._body = body

    def __len__(self) -> int:
        """See `Readable`."""
        return len(self._body)

    def read(self, start: int, end: int) -> bytes:
        """See `Readable`."""
        return bytes(self._body[start:end])

    def find(self, needle: bytes, start: int = 0, end: int | None = None) -> int:
        """See `Readable`."""
        return find(self._body, needle, start, end)


class Window:
    """`Readable` over what is between two places of another."""

    __slots__ = ("_end", "_source", "_start")

    def __init__(self, source: Readable, start: int, end: int) -> None:
        self._source = source
        self._start = start
        self._end = end

    def __len__(self) -> int:
        """See `Readable`."""
        return self._end - self._start

    def read(self, start: int, end: int) -> bytes:
        """See `Readable`."""
        return self._source.read(self._start + start, min(self._start + end, self._end))

    def find(self, needle: bytes, start: int = 0, end: int | None = None) -> int:
        """See `Readable`."""
        last = self._end if end is None else min(self._start + end, self._end)
        at = self._source.find(needle, self._start + start, last)
        return at if at < 0 else at - self._start
