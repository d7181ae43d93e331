"""Searches long bytes in pieces, because a search in one call holds the interpreter's lock. Pure; runs in any thread.

find(text, needle, start)                 like bytes.find
contains(pattern, text, max_match_bytes)  whether a regular expression matches anywhere
joined(pieces)                            like b"".join
is_utf8(text)                             whether all of it is valid UTF-8
as_utf8(text)                             the text with U+FFFD for each byte sequence that is not UTF-8

Readable                                  bytes that are in memory (InMemory), on disk, or a part of others (Window)

Callers use the methods of `bytes` for at most `PIECE_BYTES`, which saves a call.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from gateway.types import Body

PIECE_BYTES: Final = 512 * 1024
_UTF8: Final = codecs.getincrementaldecoder("utf-8")


def find(text: Body, needle: bytes, start: int = 0, end: int | None = None) -> int:
    """Returns the first position of `needle` between `start` and `end`, or -1."""
    size, more = len(text) if end is None else min(end, len(text)), len(needle) - 1
    while start < size:
        at = text.find(needle, start, min(start + PIECE_BYTES + more, size))
        if at >= 0:
            return at
        start += PIECE_BYTES
    return -1


def contains(pattern: re.Pattern[bytes], text: Body, max_match_bytes: int) -> bool:
    """Whether the pattern matches anywhere. No match may be longer than `max_match_bytes`."""
    return any(
        pattern.search(text, start, start + PIECE_BYTES + max_match_bytes) is not None
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


def is_utf8(text: bytes) -> bool:
    """Whether the text is valid UTF-8."""
    if text.isascii():
        return True
    try:
        for _ in _decoded(text, "strict"):
            pass
    except UnicodeDecodeError:
        return False
    return True


def as_utf8(text: bytes) -> bytes:
    """Returns the text as valid UTF-8: U+FFFD stands for what is not."""
    if text.isascii():
        return text
    return bytes(joined(piece.encode() for piece in _decoded(text, "replace")))


def _decoded(text: bytes, errors: str) -> Iterator[str]:
    decoder = _UTF8(errors)
    for start in range(0, len(text), PIECE_BYTES):
        yield decoder.decode(text[start : start + PIECE_BYTES])
    yield decoder.decode(b"", final=True)


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
