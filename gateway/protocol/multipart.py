"""Finds the parts of a form with files in its body (RFC 7578, RFC 2046 section 5.1). No byte is copied or changed.

    boundary_of(content_type) -> bytes             the boundary that a Content-Type names
    read_form(body, boundary, names) -> Form       the parts, and the texts of the named ones
    text_edit(form, name, text)                    the edit that replaces one part's text, or adds a part in front
    with_text(body, form, name, text) -> bytes     the body after that edit

A part that both the gateway and the upstream read must mean the same to both. Parsers differ on preambles, bare line
feeds, folded and repeated headers, delimiters followed by other bytes, parts that occur twice and names in another
case. A body with any of these is refused. The order of the parts changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from gateway.errors import GatewayError
from gateway.protocol.byte_search import InMemory, Readable, joined
from gateway.types import Body

MAX_PARTS: Final = 256
MAX_HEAD_BYTES: Final = 4096
MAX_TEXT_BYTES: Final = 64 * 1024
"""The bound for a part that is read."""

_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,\-./:=?]{1,70}")
_PARAMETER: Final = re.compile(
    rb";[ \t]*([0-9A-Za-z!#$%&\'*+.^_`|~-]{1,64})="
    rb'(?:"((?:[^"\\\x00-\x1f\x7f]|\\["\\])*)"|([0-9A-Za-z!#$%&\'*+.^_`|~-]+))'
)
_HEADER: Final = re.compile(rb"([0-9A-Za-z!#$%&'*+.^_`|~-]{1,64}):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
_PLAIN_ENCODINGS: Final = (b"", b"binary", b"8bit", b"7bit")
_CRLF: Final = b"\r\n"


class Part(NamedTuple):
    """One part. Its content is at `start` to `end` of the body. `filename` is None if it is not a file."""

    name: str
    filename: str | None
    content_type: str
    start: int
    end: int


class Form(NamedTuple):
    """The parts of a form. `texts` has the texts of those that the gateway reads."""

    boundary: bytes
    parts: tuple[Part, ...]
    texts: Mapping[str, str]

    @property
    def files(self) -> list[Part]:
        """The parts that are files."""
        return [part for part in self.parts if part.filename is not None]

    @property
    def text_bytes(self) -> int:
        """The length of the other parts' contents."""
        return sum(part.end - part.start for part in self.parts if part.filename is None)


def is_form(content_type: bytes) -> bool:
    """Whether a Content-Type names a form with files."""
    return content_type.partition(b";")[0].strip().lower() == b"multipart/form-data"


def boundary_of(content_type: bytes) -> bytes:
    """Returns the boundary. Raises GatewayError `invalid_field` if there is none, or more than one."""
    rest = content_type.strip()[len(content_type.partition(b";")[0].strip()) :]
    parameters = _parameters(rest)
    found = parameters.get(b"boundary") if parameters is not None else None
    if found is None or _BOUNDARY.fullmatch(found) is None:
        raise _refusal("Content-Type must name one boundary of 1 to 70 characters.")
    return found


def read_form(body: Body | Readable, boundary: bytes, names: Iterable[str]) -> Form:
    """Returns the parts of a body, and the texts of those with one of `names`. Raises GatewayError."""
    source = InMemory(body) if isinstance(body, bytes | bytearray) else body
    delimiter = b"--" + boundary
    if source.read(0, len(delimiter)) != delimiter:
        raise _refusal("The body must begin with its boundary.")
    wanted = frozenset(names)
    parts: list[Part] = []
    texts: dict[str, str] = {}
    at = len(delimiter)
    while (follows := source.read(at, at + 2)) != b"--":
        if follows != _CRLF:
            raise _refusal("A boundary must be followed by a line end.")
        part = _read_part(source, at + len(_CRLF), _CRLF + delimiter)
        _note(source, part, wanted, texts)
        parts.append(part)
        if len(parts) > MAX_PARTS:
            raise _refusal(f"A form may have {MAX_PARTS} parts at most.")
        at = part.end + len(_CRLF) + len(delimiter)
    if source.read(at + 2, at + 2 + len(_CRLF) + 1) not in (b"", _CRLF):
        raise _refusal("Nothing may follow the last boundary.")
    return Form(boundary, tuple(parts), texts)


def text_edit(form: Form, name: str, text: str) -> tuple[int, int, bytes]:
    """Where another text goes for the part `name`, or such a part if there is none: start, end, and the bytes."""
    value = text.encode()
    for part in form.parts:
        if part.name == name:
            return part.start, part.end, value
    added = b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (form.boundary, name.encode(), value)
    return 0, 0, added


def with_text(body: Body, form: Form, name: str, text: str) -> Body:
    """Returns the body with another text in the part `name`, or with such a part added in front."""
    start, end, value = text_edit(form, name, text)
    view = memoryview(body)
    return joined((view[:start], value, view[end:]))


def _read_part(body: Readable, start: int, delimiter: bytes) -> Part:
    head = body.read(start, start + MAX_HEAD_BYTES)
    end_of_head = head.find(b"\r\n\r\n")
    if end_of_head < 0:
        raise _refusal("A part of the form has no head that ends.")
    headers = _headers(head[:end_of_head])
    disposition = headers.get(b"content-disposition", b"")
    kind, _, _ = disposition.partition(b";")
    parameters = _parameters(disposition[len(kind) :])
    if kind.strip().lower() != b"form-data" or parameters is None or b"name" not in parameters:
        raise _refusal("Each part must have a Content-Disposition of form-data with one name.")
    if headers.get(b"content-transfer-encoding", b"").lower() not in _PLAIN_ENCODINGS:
        raise _refusal("A part must not be encoded.")
    begin = start + end_of_head + 4
    end = body.find(delimiter, begin)
    if end < 0:
        raise _refusal("The form is cut short: its last boundary is missing.")
    filename = parameters.get(b"filename", parameters.get(b"filename*"))
    return Part(
        parameters[b"name"].decode("utf-8", "replace"),
        None if filename is None else filename.decode("utf-8", "replace"),
        headers.get(b"content-type", b"").decode("latin-1"),
        begin,
        end,
    )


def _headers(head: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for line in head.split(_CRLF):
        match = _HEADER.fullmatch(line)
        name = match[1].lower() if match is not None else b""
        if match is None or name in found:
            raise _refusal("A part's headers are one a line, each once.")
        found[name] = match[2]
    return found


def _parameters(text: bytes) -> dict[bytes, bytes] | None:
    """Returns the parameters of a header's value, or None if they are ambiguous."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None:
            return None if text[at:].strip(b" \t;") else found
        name = match[1].lower()
        if name in found:
            return None
        found[name] = re.sub(rb"\\(.)", rb"\1", match[2]) if match[2] is not None else match[3]
        at = match.end()
        while text[at : at + 1] in (b" ", b"\t"):
            at += 1
    return found


def _note(body: Readable, part: Part, wanted: frozenset[str], texts: dict[str, str]) -> None:
    name = part.name
    if name not in wanted:
        if (meant := name.casefold().strip()) in wanted:
            raise GatewayError("duplicate_field", f"{name!r} could be read as {meant!r}: write it so.", param=meant)
        return
    if name in texts:
        raise GatewayError("duplicate_field", f"The field {name!r} occurs twice.", param=name)
    if part.filename is not None or part.end - part.start > MAX_TEXT_BYTES:
        raise GatewayError("invalid_field", f"{name!r} must be a text, and no file.", param=name)
    try:
        texts[name] = body.read(part.start, part.end).decode()
    except UnicodeDecodeError:
        raise GatewayError("invalid_field", f"{name!r} must be UTF-8.", param=name) from None


def _refusal(message: str) -> GatewayError:
    return GatewayError("invalid_field", f"The multipart form cannot be read: {message}")
