"""Attachments in a request's body: data URLs in base64 (RFC 2397), most of a large one; only their size matters here.

    find_attachments(body)         where they are
    cut_attachments(body, found)   the body without the bytes of the long ones: as valid as the whole, and soon parsed

What is cut stands inside a JSON string and is ASCII without quotes, escapes or control characters, so that what is left
is JSON exactly if the whole is, with the same names and the same structure. An attachment of other bytes stays.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from gateway.types import Body

MARK: Final = b";base64,"
SHORTEST_CUT_BYTES: Final = 4096
_LONGEST_MEDIA_TYPE: Final = 128
_AT_ONCE_BYTES: Final = 128 * 1024  # what the processor's cache holds, and no page is asked for


class Attachment(NamedTuple):
    """`start`: the quote before `data:`; `mark`: where `;base64,` stands; `end`: the quote behind it."""

    start: int
    mark: int
    end: int


def find_attachments(body: Body) -> list[Attachment]:
    """Every data URL: not a text that mentions one. Never fails, whatever the bytes."""
    found = []
    at = body.find(MARK)
    while at >= 0:
        end = at + len(MARK)
        start = body.rfind(b'"', max(0, at - _LONGEST_MEDIA_TYPE), at)
        if body.startswith(b'"data:', start):
            end = body.find(b'"', at)
            end = len(body) if end < 0 else end
            found.append(Attachment(start, at, end))
        at = body.find(MARK, end)
    return found


def cut_attachments(body: Body, attachments: list[Attachment]) -> Body:
    """The body without what follows `;base64,` in long attachments."""
    pieces, at = [], 0
    for one in attachments:
        begin = one.mark + len(MARK)
        if one.end - begin >= SHORTEST_CUT_BYTES and _is_plain(body, begin, one.end):
            pieces.append(body[at:begin])
            at = one.end
    return b"".join([*pieces, body[at:]]) if pieces else body


def _is_plain(body: Body, start: int, end: int) -> bool:
    """ASCII that JSON writes as it is. orjson's writer looks for what it must escape with vector instructions."""
    with memoryview(body) as view:
        for at in range(start, end, _AT_ONCE_BYTES):
            try:
                piece = str(view[at : min(at + _AT_ONCE_BYTES, end)], "ascii")  # looks while it copies
            except UnicodeDecodeError:
                return False
            if len(orjson.dumps(piece)) != len(piece) + 2:
                return False
    return True
