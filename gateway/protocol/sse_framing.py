"""Splits a stream of server-sent events, as bytes, at its blank lines (WHATWG HTML, server-sent events)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from gateway.protocol.byte_search import find, joined
from gateway.types import Body

_MAX_FIELD_LENGTH: Final = 8  # of those that are read, with the colon
_PIECE_BYTES: Final = 512 * 1024
_MAX_BLANK_LINE_BYTES: Final = 4
LONG_READ_BYTES: Final = 8 * 1024
"""A read of more may bring thousands of events, each of which takes microseconds: it is taken in slices."""
_SLICE_BYTES: Final = 16 * 1024
_SLICE_LINES: Final = 256
BLANK_LINE: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")


def slice_end(data: bytes, start: int) -> int:
    """Returns where the next slice of a long read ends: behind 16 KiB, or earlier where lines are short."""
    end = start + _SLICE_BYTES
    lines = data.count(b"\n", start, end) + data.count(b"\r", start, end)
    return end if lines <= _SLICE_LINES else start + _SLICE_BYTES * _SLICE_LINES // lines


def last_boundary(window: bytes) -> int:
    """Returns the index after the last blank line in `window`, or -1 if there is none.

    A final CR may be the first half of a CRLF. If the line before it ended in LF, it is not yet a blank line: some
    clients lose an event whose blank line arrives in two writes. After another CR it counts at once, because streams
    that use CR would otherwise lag behind.
    """
    best = window.rfind(b"\n\n") + 2
    if b"\r" in window:
        best = max(best, window.rfind(b"\r\r") + 2, window.rfind(b"\n\r", 0, len(window) - 1) + 2)
        if best > 1 and window[best - 1] == 13 and window[best : best + 1] == b"\n":  # noqa: PLR2004 - 13 is CR
            best += 1
    return best if best > 1 else -1


def first_boundary(before: bytes, data: bytes) -> int:
    """Returns the index in `data`, which follows `before`, after its first blank line; its length if there is none."""
    end = BLANK_LINE.search(before + data)
    return len(data) if end is None else max(0, end.end() - len(before))


def blank_lines(data: bytes) -> int:
    """Returns the number of blank lines, of the kind of line end that is used."""
    return data.count(b"\n\n") or data.count(b"\n\r\n") or data.count(b"\r\r")


def split_events(data: bytes) -> list[bytes]:
    """Splits the bytes after each blank line. No call takes long."""
    cuts = [0, *(_blank_line_ends(data) if b"\r" in data else _lf_blank_line_ends(data)), len(data)]
    return [data[start:end] for start, end in pairwise(cuts) if start < end]


def _lf_blank_line_ends(data: bytes) -> Iterator[int]:
    end = 0
    while (at := data.find(b"\n\n", end)) >= 0:
        end = at + 2
        yield end


def _blank_line_ends(data: bytes) -> Iterator[int]:
    end = start = 0
    while start < len(data):  # what begins in one piece; what follows a CR decides whether it is a line end by itself
        stop = start + _PIECE_BYTES
        while (found := BLANK_LINE.search(data, max(start, end), stop + _MAX_BLANK_LINE_BYTES)) is not None:
            if found.start() >= stop:
                break
            end = found.end()
            yield end
        start = stop


def lf_lines(data: bytes) -> bytes:
    """Returns the same lines with LF line ends."""
    if b"\r" not in data:
        return data
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def lf_part(data: Body, start: int, end: int) -> Body:
    """Returns a part of long data with LF line ends. All of it is not copied; another part is copied in short calls."""
    if start == 0 and end == len(data) and find(data, b"\r") < 0:
        return data
    return joined(_lf_pieces(data, start, end))


def _lf_pieces(data: Body, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        stop = min(start + _PIECE_BYTES, end)
        stop += stop < end and data[stop - 1 : stop + 1] == b"\r\n"
        yield bytes(data[start:stop]).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        start = stop


def fields(block: bytes) -> tuple[str, bytes]:
    """Returns the event name ("" if none) and the data of a block with LF line ends.

    Several data lines are joined by LF.
    """
    name, data = b"", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return name.decode("utf-8", "replace"), data[0] if len(data) == 1 else b"\n".join(data)


def places_of_data(block: Body) -> tuple[str, list[tuple[int, int]]]:
    """Returns the event name and where the data of a large block stands, line by line. Nothing of it is copied."""
    name, places, at = b"", [], 0
    while at < len(block):
        end = block.find(b"\n", at)
        end = len(block) if end < 0 else end
        colon = block.find(b":", at, min(end, at + _MAX_FIELD_LENGTH))
        field = block[at : min(end, at + _MAX_FIELD_LENGTH) if colon < 0 else colon]
        start = end if colon < 0 else colon + 1 + block.startswith(b" ", colon + 1)
        if field == b"data":
            places.append((start, end))
        elif field == b"event":
            name = bytes(block[start:end])
        at = end + 1
    return name.decode("utf-8", "replace"), places


def block_at(text: bytes, at: int) -> tuple[int, int]:
    """Returns the start and the end of the block that contains index `at`."""
    start, end = text.rfind(b"\n\n", 0, at), text.find(b"\n\n", at)
    return (start + 2 if start >= 0 else 0), (end if end >= 0 else len(text))


def blocks(text: bytes, marker: bytes) -> list[tuple[int, int]]:
    """Returns every block that contains `marker`, in one pass."""
    found, at = [], 0
    while (at := text.find(marker, at)) >= 0:
        found.append(block_at(text, at))
        at = found[-1][1]
    return found
