"""Searches long bytes in pieces, because a search in one go holds the interpreter's lock. Pure; runs in any thread.

Bytes of at most `PIECE_BYTES` are searched by their own methods: a call less.

find(text, needle, start)            as bytes.find
contains(pattern, text, longest)     whether a regular expression matches anywhere; no match is longer than `longest`
joined(pieces)                       as b"".join
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from gateway.types import Body

PIECE_BYTES: Final = 512 * 1024


def find(text: Body, needle: bytes, start: int = 0, end: int | None = None) -> int:
    """The first place from `start` on where all of `needle` stands before `end`, -1 where there is none."""
    size, more = len(text) if end is None else min(end, len(text)), len(needle) - 1
    while start < size:
        at = text.find(needle, start, min(start + PIECE_BYTES + more, size))
        if at >= 0:
            return at
        start += PIECE_BYTES
    return -1


def contains(pattern: re.Pattern[bytes], text: Body, longest: int) -> bool:
    """Whether it matches anywhere. What it says of a place goes by no more than the `longest` bytes from there on."""
    return any(
        pattern.search(text, start, start + PIECE_BYTES + longest) is not None
        for start in range(0, max(1, len(text)), PIECE_BYTES)
    )


def joined(pieces: Iterable[Body | memoryview]) -> bytearray:
    """The pieces in one."""
    whole = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), PIECE_BYTES):
            whole += view[start : start + PIECE_BYTES]
    return whole
