"""Recognises a head that is like the one before on its connection, but for its Content-Length. Pure.

    KnownHead.of(head, parsed)   what is remembered of a parsed head, or None: such a head is parsed each time
    length_in(data)              the length of the body and where it begins, if `data` begins with such a head
    with_length(digits)          the parsed head of that request

A program that keeps its connection sends the same head with each request, and only its length differs. The bytes before
and behind the length are compared, so that such a head means what the one meant that the parser had accepted.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Self

from gateway.types import Headers

_NAME: Final = b"content-length"
_LINE: Final = b"\r\n" + _NAME + b":"
_MAX_DIGITS: Final = 15


class ParsedHead(NamedTuple):
    """A request's head. `fields`: its headers by name, the last one if a name occurs twice.

    `facts`: what follows from the head alone, whatever its length (`client.of_head`). Requests with the same head share
    it.
    """

    method: str
    path: str
    raw_path: bytes
    query: bytes
    version: str
    keep_alive: bool
    headers: Headers
    fields: dict[bytes, bytes]
    facts: dict[Any, Any]


class KnownHead:
    """A head that was parsed."""

    __slots__ = ("_at", "_before", "_behind", "_parsed", "_start")

    def __init__(self, before: bytes, behind: bytes, parsed: ParsedHead) -> None:
        """`before`, `behind`: the length's digits."""
        self._before = before
        self._behind = behind
        self._start = len(before)
        self._parsed = parsed
        self._at = parsed.headers.index((_NAME, parsed.fields[_NAME]))

    @classmethod
    def of(cls, head: bytes, parsed: ParsedHead) -> Self | None:
        """`head`: its bytes, with the empty line. None if it states no length, or not as a program does."""
        digits, lowered = parsed.fields.get(_NAME, b""), head.lower()
        if not digits.isdigit() or lowered.count(_LINE) != 1:
            return None
        line = lowered.index(_LINE) + len(_LINE)
        start = line + 1 if head.startswith(b" ", line) else line
        end = start + len(digits)
        if not head.startswith(digits + b"\r\n", start):
            return None
        return cls(head[:start], head[end:], parsed)

    @property
    def size(self) -> int:
        """The most bytes that such a head may have."""
        return len(self._before) + _MAX_DIGITS + len(self._behind)

    def length_in(self, data: bytes) -> tuple[bytes, int] | None:
        """Returns the digits of the length and the size of the head, or None if `data` begins with another head."""
        if not data.startswith(self._before):
            return None
        end = data.find(b"\r", self._start, self._start + _MAX_DIGITS + 1)
        digits = data[self._start : end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._behind, end):
            return None
        return digits, end + len(self._behind)

    def with_length(self, digits: bytes) -> ParsedHead:
        """Returns the head of a request with another length. Its headers and fields are its own."""
        method, path, raw_path, query, version, keep_alive, headers, fields, facts = self._parsed
        headers, fields = headers.copy(), fields.copy()
        headers[self._at] = (_NAME, digits)
        fields[_NAME] = digits
        return ParsedHead(method, path, raw_path, query, version, keep_alive, headers, fields, facts)
