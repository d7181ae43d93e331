"""Attachments in a request's body: data URLs in base64 (RFC 2397). They make up most of a large body.

    find_attachments(body)         their positions
    cut_attachments(body, found)   the body without the content of long attachments, which parses quickly

Only an attachment's size matters to the gateway. The removed content lies inside a JSON string and is ASCII without
quotes, escapes or control characters. What remains is therefore valid JSON exactly if the whole body is, with the same
names and the same structure. An attachment that contains other bytes is not cut.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from gateway.types import Body

MARK: Final = b";base64,"
SHORTEST_CUT_BYTES: Final = 4096
_LONGEST_MEDIA_TYPE: Final = 128
_AT_ONCE_BYTES: Final = 128 * 1024  # fits into the processor's cache, so that no new pages are requested


class Attachment(NamedTuple):
    """The position of an attachment.

    `start` is the quote before `data:`, `mark` is `;base64,`, `end` is the closing quote.
    """

    start: int
    mark: int
    end: int


def find_attachments(body: Body) -> list[Attachment]:
    """Returns every data URL, but not a text that merely mentions one. It never fails, whatever the bytes."""
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
    """Returns the body without what follows `;base64,` in long attachments."""
    pieces, at = [], 0
    for one in attachments:
        begin = one.mark + len(MARK)
        if one.end - begin >= SHORTEST_CUT_BYTES and _is_plain(body, begin, one.end):
            pieces.append(body[at:begin])
            at = one.end
    return b"".join([*pieces, body[at:]]) if pieces else body


def _is_plain(body: Body, start: int, end: int) -> bool:
    """Whether the bytes are ASCII that JSON does not escape. orjson's writer checks that with vector instructions."""
    with memoryview(body) as view:
        for at in range(start, end, _AT_ONCE_BYTES):
            try:
                piece = str(view[at : min(at + _AT_ONCE_BYTES, end)], "ascii")  # decodes and checks in one pass
            except UnicodeDecodeError:
                return False
            if len(orjson.dumps(piece)) != len(piece) + 2:
                return False
    return True
