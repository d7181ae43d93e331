"""Changes members of a JSON object and leaves every other byte as it was. Pure; linear time, no recursion.

No call takes long, whatever the text contains: it may run in any thread.

members(text, start)            the members of the object that starts at `start`: names and positions of the values
replace(text, start, changes)   the text with new values for these members; members that are missing are added
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from gateway.protocol.byte_search import PIECE_BYTES

_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_IN_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SCALAR: Final = re.compile(rb"[^\s,\]}]+")
_BETWEEN_BRACKETS: Final = rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\[\]{}]*+)*+'
_BRACKET: Final = re.compile(_BETWEEN_BRACKETS + rb"([\[\]{}])", re.DOTALL)
_NO_BRACKET: Final = re.compile(_BETWEEN_BRACKETS, re.DOTALL)
_OPENING: Final = frozenset({b"{", b"["})


class Member(NamedTuple):
    """One member. `start` and `end` are the position of its value in the text."""

    name: str
    start: int
    end: int


def members(text: bytes, start: int = 0) -> Iterator[Member]:
    """Yields the members of a valid JSON object. Raises ValueError if the text is not an object."""
    at = _after_space(text, start)
    if text[at : at + 1] != b"{":
        raise ValueError("no JSON object starts here")
    at = _after_space(text, at + 1)
    while text[at : at + 1] == b'"':
        name_end = _string_end(text, at)
        name = json.loads(text[at:name_end])
        value = _after_space(text, _after_space(text, name_end) + 1)
        end = _value_end(text, value)
        yield Member(name, value, end)
        at = _after_space(text, end)
        if text[at : at + 1] != b",":
            break
        at = _after_space(text, at + 1)


def replace(text: bytes, start: int, changes: Mapping[str, bytes | None]) -> bytes:
    """Returns the text with `changes` (JSON values) made in the object that starts at `start`. Raises ValueError."""
    opening = _after_space(text, start) + 1
    found = list(members(text, start))
    view, before, is_first = memoryview(text), opening, True
    kept: list[bytes | memoryview] = []
    for member in found:
        value = changes[member.name] if member.name in changes else view[member.start : member.end]
        if value is not None:
            name = text[before : member.start]  # includes the comma and the spaces before the name
            kept += (name.lstrip(b", \t\r\n") if is_first else name, value)
            is_first = False
        before = member.end
    named = {member.name for member in found}
    for name_, value in changes.items():
        if name_ not in named and value is not None:
            kept.append((b"" if is_first else b",") + json.dumps(name_).encode() + b":" + value)
            is_first = False
    first = found[0].start if found else opening
    lead = text[opening:first]
    space = lead[: len(lead) - len(lead.lstrip(b" \t\r\n"))] if found else b""
    return b"".join([view[:opening], space, *kept, view[before:]])


def _after_space(text: bytes, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _string_end(text: bytes, at: int) -> int:
    at += 1
    while (end := _end(_IN_STRING, text, at)) > at:  # this piece may end before an escape sequence
        at = end
    if text[at : at + 1] != b'"':
        raise ValueError("a string without an end")
    return at + 1


def _value_end(text: bytes, at: int) -> int:
    first = text[at : at + 1]
    if first == b'"':
        return _string_end(text, at)
    if first not in _OPENING:
        found = _SCALAR.match(text, at)
        if found is None:
            raise ValueError("a member without a value")
        return found.end()
    depth = 0
    while True:
        token = _BRACKET.match(text, at, at + PIECE_BYTES)
        if token is None:
            at = _without_brackets(text, at)
            continue
        at = token.end()
        depth += 1 if token[1] in _OPENING else -1
        if depth == 0:
            return at


def _without_brackets(text: bytes, at: int) -> int:
    """Returns where the search for a bracket goes on, if there is none in one piece. Raises ValueError at the end."""
    end = _end(_NO_BRACKET, text, at)
    if end >= len(text):
        raise ValueError("a bracket without an end")
    return _string_end(text, end) if text[end : end + 1] == b'"' else end


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    """Returns the end of a match in one piece of the text."""
    found = pattern.match(text, at, at + PIECE_BYTES)
    return at if found is None else found.end()
