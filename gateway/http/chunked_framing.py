"""Where a chunked body ends (RFC 9112, 7.1), and how much of it is framing. Pure.

llhttp parses and validates the chunks, but it also parses what follows the body. Therefore this module finds the end
first, by the sizes of the chunks alone, and the caller gives the parser no byte beyond it.
"""

from __future__ import annotations

from typing import Final

_MAX_LINE_BYTES: Final = 1024  # the line with a chunk's size and its extensions, which clients do not use
_LINE_END_BYTES: Final = 2
_CONTENT_PER_FRAMING: Final = 8


class InvalidChunks(Exception):
    """The framing is invalid, or there is too much of it."""


class ChunkedFraming:
    """The framing of one body. Mutable.

    `free_bytes` of framing are always allowed. Beyond them, framing may be an eighth of the content: content in tiny
    chunks takes hundreds of times its size in memory and time, and so do endless trailers.
    """

    def __init__(self, free_bytes: int) -> None:
        self._free_bytes = free_bytes
        self._framing_bytes = 0
        self._content_bytes = 0
        self._left = 0  # bytes that are still missing of a chunk's content and of the line end after it
        self._line = b""  # the beginning of an incomplete line
        self._in_trailers = False

    def end(self, data: bytes) -> int | None:
        """Returns the offset in `data` at which the body ends, or None if it goes on. Raises InvalidChunks."""
        at, size = 0, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
                continue
            stop = data.find(b"\n", at)
            line = data[at:] if stop < 0 else data[at:stop]
            self._line += line
            self._count(len(line) + _LINE_END_BYTES)
            if stop < 0:
                return None
            at = stop + 1
            if self._ends_with_line():
                return at
        return None

    def _ends_with_line(self) -> bool:
        line, self._line = self._line.rstrip(b"\r"), b""
        if self._in_trailers:
            return not line
        try:
            length = int(line.partition(b";")[0], 16)
        except ValueError:
            raise InvalidChunks from None
        if length <= 0:
            self._in_trailers = True
            return False
        self._content_bytes += length
        self._left = length + _LINE_END_BYTES
        return False

    def _count(self, framing_bytes: int) -> None:
        self._framing_bytes += framing_bytes
        allowed = self._free_bytes + self._content_bytes // _CONTENT_PER_FRAMING
        if self._framing_bytes > allowed or (len(self._line) > _MAX_LINE_BYTES and not self._in_trailers):
            raise InvalidChunks
