"""Attachments in a request's body: data URLs in base64 (RFC 2397), and base64 in members that carry files.

    find_attachments(body)         their positions and kinds
    kind_of_value(name, value)     the kind of one member's text, decoded
    cut_places(body, found)        what of long attachments is cut out, so that the rest parses quickly
    without(body, places)          the rest

They make up most of a large body, and only their size matters to the gateway. The removed content lies inside a JSON
string and is ASCII without quotes, escapes or control characters. What remains is therefore valid JSON exactly if the
whole body is, with the same names and the same structure. An attachment that contains other bytes is not cut.

An attachment is no text to a model only if a model gets it as a file: it stands in a member that carries files, and it
is base64 of what such files begin with. Anything else counts as text, whatever it calls itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Literal, NamedTuple

import orjson

from gateway.protocol.byte_search import PIECE_BYTES, find, joined
from gateway.types import Body

Kind = Literal["image", "audio", "file", "text"]
Find = Callable[..., int]
"""As bytes.find, of the body."""

MARK: Final = b";base64,"
SHORTEST_BYTES: Final = 1024
"""Shorter content counts as text: millions of short ones in one body would cost memory and gain nothing."""
SHORTEST_CUT_BYTES: Final = 4096
_MOST_MARKS: Final = 10_000
"""Marks that are looked at: what comes behind counts as text, whatever it is."""
_LONGEST_MEDIA_TYPE: Final = 128
_AT_ONCE_BYTES: Final = 128 * 1024  # fits into the processor's cache, so that no new pages are requested
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_"

_IMAGE_MEMBERS: Final = frozenset({"image_url", "url", "image", "mask", "input_image", "data", "b64_json", "result"})
_AUDIO_MEMBERS: Final = frozenset({"data", "url", "audio", "audio_url", "input_audio"})
_FILE_MEMBERS: Final = frozenset({"file_data", "data", "url", "file_url"})
_RAW_MEMBERS: Final = (b'"data"', b'"file_data"', b'"b64_json"', b'"result"')
"""Members whose value is base64 without `data:` before it."""

_MEMBER: Final = re.compile(rb'"((?:[^"\\]|\\.){1,64})"[ \t\r\n]*:[ \t\r\n]*\Z')
_VALUE: Final = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*"')

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
    """Returns every long attachment, in any order, but not a text that merely mentions one. It never fails."""
    if len(body) < SHORTEST_BYTES:
        return []
    seek: Find = body.find if len(body) <= PIECE_BYTES else partial(find, body)
    first = seek(MARK)
    found = list(_data_urls(body, first, seek)) if first >= 0 else []
    for member in _RAW_MEMBERS:
        first = seek(member)
        if first >= 0:
            found += _raw(body, member, first, seek)
    return found


def _data_urls(body: Body, first: int, seek: Find) -> Iterator[Attachment]:
    at = first
    for _ in range(_MOST_MARKS):
        if at < 0:
            break
        end = begin = at + len(MARK)
        start = body.rfind(b'"', max(0, at - _LONGEST_MEDIA_TYPE), at)
        if body.startswith(b'"data:', start):
            end = seek(b'"', at)
            end = len(body) if end < 0 else end
            if end - begin >= SHORTEST_BYTES:
                yield Attachment(start, at, end, _kind(body, start, begin, end))
        at = seek(MARK, end)


def _raw(body: Body, member: bytes, first: int, seek: Find) -> Iterator[Attachment]:
    at = first
    while at >= 0:
        end = at + len(member)
        value = _VALUE.match(body, end)
        if value is not None:
            begin = value.end()
            end = seek(b'"', begin)
            end = len(body) if end < 0 else end
            if end - begin >= SHORTEST_BYTES and not body.startswith(b"data:", begin):
                yield Attachment(begin - 1, begin, end, _kind(body, begin - 1, begin, end))
        at = seek(member, end)


def _kind(body: Body, start: int, begin: int, end: int) -> Kind:
    """What a model gets to see of it. `start` is its quote, `begin` the first byte of its content."""
    kind = _kind_by(_member_before(body, start), bytes(body[begin : begin + 32]))
    return kind if kind == "text" or _is_base64(body, begin, end) else "text"


def kind_of_value(name: str, value: str) -> Kind | None:
    """What the value of a member is, where it is long base64, with `data:` before it or without; None where it is not.

    "text": base64 of something else than the files that stand in such a member.
    """
    begin = value.find(MARK.decode(), 0, _LONGEST_MEDIA_TYPE) + len(MARK) if value.startswith("data:") else 0
    content = value[begin:].encode("ascii", "replace") if len(value) >= SHORTEST_BYTES else b""
    if not content or not _is_base64(content, 0, len(content)):
        return None
    return _kind_by(name, content[:32])


def _kind_by(name: str, head: bytes) -> Kind:
    """The kind of a member's content by its first bytes."""
    if name in _IMAGE_MEMBERS and _IMAGES.match(head):
        return "image"
    if name in _AUDIO_MEMBERS and _AUDIO.match(head):
        return "audio"
    return "file" if name in _FILE_MEMBERS and _FILES.match(head) else "text"


def _member_before(body: Body, start: int) -> str:
    """The name of the member whose value begins at `start`, with its escapes read; "" for an item of an array."""
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
    with memoryview(body) as view:
        pieces = (bytes(view[at : min(at + _AT_ONCE_BYTES, end)]) for at in range(start, end, _AT_ONCE_BYTES))
        return not any(piece.translate(None, _BASE64) for piece in pieces)


def cut_places(body: Body, attachments: list[Attachment]) -> list[tuple[int, int]]:
    """Returns where the contents of long attachments begin and end, in order."""
    places: list[tuple[int, int]] = []
    at = 0
    for one in sorted(attachments):
        begin = one.mark + len(MARK) if body.startswith(MARK, one.mark) else one.mark
        if begin >= at and one.end - begin >= SHORTEST_CUT_BYTES and _is_plain(body, begin, one.end):
            places.append((begin, one.end))
            at = one.end
    return places


def without(body: Body, places: list[tuple[int, int]]) -> Body:
    """Returns the body without what lies in these places."""
    if not places:
        return body
    starts = [0, *(end for _, end in places)]
    ends = [*(start for start, _ in places), len(body)]
    view = memoryview(body)
    return joined(view[start:end] for start, end in zip(starts, ends, strict=True))


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
