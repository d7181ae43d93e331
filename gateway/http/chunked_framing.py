"""Where a chunked body ends (RFC 9112, 7.1), and how much of it is framing. Pure.

llhttp parses the chunks, and judges them; but it goes on into what is behind a body. So this looks for the end first,
by the chunks' sizes alone, and whoever feeds the parser gives it no byte beyond.
"""

from __future__ import annotations

from typing import Final

_MOST_LINE_BYTES: Final = 1024  # of a chunk's size with its extensions: nobody needs any
_LINE_END_BYTES: Final = 2
_CONTENT_PER_FRAMING: Final = 8


class InvalidChunks(Exception):
    """The framing is none, or there is too much of it."""


class ChunkedFraming:
    """One body's. `free_bytes`: framing of so much is never too much; beyond it, an eighth of the content is allowed.

    Bytes in tiny chunks cost hundreds of times their size in memory and time, and so do trailers without end.
    State that changes: all of it.
    """

    def __init__(self, free_bytes: int) -> None:
        self._free_bytes = free_bytes
        self._framing_bytes = 0
        self._content_bytes = 0
        self._left = 0  # of a chunk's content, and the line end behind it
        self._line = b""  # what has come of a line
        self._in_trailers = False

    def end(self, data: bytes) -> int | None:
        """Where the body ends in what has come, None: not in it. Raises InvalidChunks."""
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
        if self._framing_bytes > allowed or (len(self._line) > _MOST_LINE_BYTES and not self._in_trailers):
            raise InvalidChunks
