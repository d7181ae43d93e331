"""Attachments in a request's body: data URLs in base64 (RFC 2397), and base64 in members that carry files.

    find_attachments(body)         the positions and kinds of all attachments
    kind_of_value(name, value)     the kind of one member's decoded text
    cut_places(body, found)        the parts of long attachments that can be cut out, so that the rest parses quickly
    without(body, places)          the body without these parts

They make up most of a large body, and only their size matters to the gateway. The removed content lies inside a JSON
string and is ASCII without quotes, escapes or control characters. What remains is therefore valid JSON exactly if the
whole body is, with the same names and the same structure. An attachment that contains other bytes is not cut.

An attachment does not count as text if the model gets it as a file: it stands in a member that carries files, and its
base64 begins as such files do. Anything else counts as text, whatever media type it states.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, NamedTuple

import orjson

from gateway.protocol.byte_search import PIECE_BYTES, find, joined
from gateway.types import Body

Kind = Literal["image", "audio", "file", "text"]
Find = Callable[..., int]
"""Like `bytes.find`, bound to the body."""

MARK: Final = b";base64,"
MIN_ATTACHMENT_BYTES: Final = 1024
"""Shorter content counts as text, because noting millions of short attachments would cost memory and gain nothing."""
MIN_CUT_BYTES: Final = 4096
_BLOCK_BYTES: Final = MIN_ATTACHMENT_BYTES // 2
_MAX_EXAMINED: Final = 10_000
"""How many long words are examined. Everything behind them counts as text."""
_MAX_MEDIA_TYPE_BYTES: Final = 128
_MAX_BYTES_BEFORE: Final = _BLOCK_BYTES + _MAX_MEDIA_TYPE_BYTES + len(MARK)
_STEP_BYTES: Final = 64 * 1024  # below what the C library requests from the system each time, and gives back
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_"
_IN_JSON: Final = _BASE64 + b"\\"
"""Some writers of JSON escape each slash."""

_IMAGE_MEMBERS: Final = frozenset(
    {"image_url", "url", "image", "mask", "input_image", "data", "b64_json", "result", "screenshot"}
    | {"partial_image_b64", "image_data"}
)
_AUDIO_MEMBERS: Final = frozenset({"data", "url", "audio", "audio_url", "input_audio"})
_FILE_MEMBERS: Final = frozenset({"file_data", "data", "url", "file_url", "blob"})

_MEMBER: Final = re.compile(rb'"((?:[^"\\]|\\.){1,64})"[ \t\r\n]*:[ \t\r\n]*\Z')

# How base64 of these formats begins.
_IMAGES: Final = re.compile(
    rb"iVBORw0KGgo"  # PNG
    rb"|/9j/"  # JPEG
    rb"|R0lGOD"  # GIF
    rb"|UklGR.{6}XRUJQ"  # WebP: RIFF, a size, WEBP
    rb"|Qk0|SUkqA|TU0AK"  # BMP, TIFF
    rb"|.{6}Z0eX"  # HEIC and AVIF: a size, ftyp
)
_AUDIO: Final = re.compile(
    rb"UklGR.{6}XQVZF"  # WAV: RIFF, a size, WAVE
    rb"|SUQz|//[E-Pk-v]|/\+[M-P]"  # MP3 with and without a tag, AAC
    rb"|T2dnUw|ZkxhQw|GkXfo|.{6}Z0eX"  # Ogg, FLAC, WebM, MP4
)
_FILES: Final = re.compile(rb"JVBERi|UEsDB|0M8R4K")  # PDF; ZIP and what is made of it; older office formats


class Attachment(NamedTuple):
    """The position of an attachment.

    `start` is the quote before it, `mark` is where `;base64,` or the content begins, `end` is the closing quote.
    """

    start: int
    mark: int
    end: int
    kind: Kind = "text"


def find_attachments(body: Body) -> list[Attachment]:
    """Returns every long attachment, in order, but not a text that merely mentions one. It never fails.

    Long base64 fills at least one block of `_BLOCK_BYTES`, wherever the blocks begin. Most texts have a space in each
    block, so that they are passed over quickly.
    """
    found: list[Attachment] = []
    seek: Find = body.find if len(body) <= PIECE_BYTES else partial(find, body)
    at, last, left = 0, len(body) - _BLOCK_BYTES, _MAX_EXAMINED
    while at <= last and left:
        if body.find(b" ", at, at + _BLOCK_BYTES) >= 0 or body[at : at + _BLOCK_BYTES].translate(None, _IN_JSON):
            at += _BLOCK_BYTES
            continue
        left -= 1
        end = seek(b'"', at)
        end = len(body) if end < 0 else end
        start = body.rfind(b'"', max(0, at - _MAX_BYTES_BEFORE), at)
        if start >= 0 and (one := _attachment(body, start, end)) is not None:
            found.append(one)
        at = end
    return found


def _attachment(body: Body, start: int, end: int) -> Attachment | None:
    """Returns the string between two quotes if it is an attachment."""
    begin = mark = start + 1
    if is_url := body.startswith(b"data:", begin):
        mark = body.find(MARK, begin, begin + _MAX_MEDIA_TYPE_BYTES)
        begin = mark + len(MARK)
    if mark < 0 or end - begin < MIN_ATTACHMENT_BYTES:
        return None
    kind = _kind(body, start, begin, end)
    return Attachment(start, mark, end, kind) if is_url or kind != "text" else None


def _kind(body: Body, start: int, begin: int, end: int) -> Kind:
    """Returns what a model sees an attachment as. `start` is its quote, `begin` the first byte of its content."""
    head = bytes(body[begin : begin + 64]).replace(b"\\/", b"/")
    kind = _kind_of_head(_member_before(body, start), head)
    return kind if kind == "text" or _is_base64(body, begin, end) else "text"


def kind_of_value(name: str, value: str) -> Kind | None:
    """Returns the kind of a member's value, or None if it is not long base64, with or without `data:` before it.

    "text" is base64 of anything but the files that stand in such a member.
    """
    if len(value) < MIN_ATTACHMENT_BYTES:
        return None
    mark = value.find(MARK.decode(), 0, _MAX_MEDIA_TYPE_BYTES) if value.startswith("data:") else -1
    content = value[mark + len(MARK) if mark >= 0 else 0 :].encode("ascii", "replace")
    return _kind_of_head(name, content[:32]) if _is_base64(content, 0, len(content)) else None


def _kind_of_head(name: str, head: bytes) -> Kind:
    """Returns the kind of a member's content by its first bytes."""
    if name in _IMAGE_MEMBERS and _IMAGES.match(head):
        return "image"
    if name in _AUDIO_MEMBERS and _AUDIO.match(head):
        return "audio"
    return "file" if name in _FILE_MEMBERS and _FILES.match(head) else "text"


def _member_before(body: Body, start: int) -> str:
    """Returns the decoded name of the member whose value begins at `start`, or "" for an item of an array."""
    found = _MEMBER.search(bytes(body[max(0, start - 96) : start]))
    if found is None:
        return ""
    name = found[1]
    if b"\\" not in name:
        return name.decode("utf-8", "replace")
    try:
        return str(json.loads(b'"' + name + b'"'))
    except ValueError:
        return ""


def _is_base64(body: Body, start: int, end: int) -> bool:
    escapes = 0
    with memoryview(body) as view:
        for at in range(start, end, _STEP_BYTES):
            others = bytes(view[at : min(at + _STEP_BYTES, end)]).translate(None, _BASE64)
            if others.strip(b"\\"):
                return False
            escapes += len(others)
    return escapes == 0 or escapes == body.count(b"\\/", start, end)


def cut_places(body: Body, attachments: list[Attachment]) -> list[tuple[int, int]]:
    """Returns where the contents of long attachments begin and end, in order."""
    places: list[tuple[int, int]] = []
    at = 0
    for one in sorted(attachments):
        begin = one.mark + len(MARK) if body.startswith(MARK, one.mark) else one.mark
        if begin >= at and one.end - begin >= MIN_CUT_BYTES and _is_plain(body, begin, one.end):
            places.append((begin, one.end))
            at = one.end
    return places


def without(body: Body, places: list[tuple[int, int]]) -> Body:
    """Returns the body without the bytes between these positions."""
    if not places:
        return body
    starts = [0, *(end for _, end in places)]
    ends = [*(start for start, _ in places), len(body)]
    view = memoryview(body)
    return joined(view[start:end] for start, end in zip(starts, ends, strict=True))


def _is_plain(body: Body, start: int, end: int) -> bool:
    """Whether the bytes are ASCII that JSON does not escape. orjson's writer checks that with vector instructions."""
    with memoryview(body) as view:
        for at in range(start, end, _STEP_BYTES):
            try:
                piece = str(view[at : min(at + _STEP_BYTES, end)], "ascii")  # decodes and checks in one pass
            except UnicodeDecodeError:
                return False
            if len(orjson.dumps(piece)) != len(piece) + 2:
                return False
    return True
