"""Changes members of a JSON object and leaves every other byte as it was. Pure; linear time, no recursion.

members(text, start)            the members of the object that starts at `start`: names and positions of the values
replace(text, start, changes)   the text with new values for these members; members that are missing are added
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR: Final = re.compile(rb"[^\s,\]}]+")
_BRACKET: Final = re.compile(rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\[\]{}]*+)*+([\[\]{}])', re.DOTALL)
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
    kept: list[bytes] = []
    before = opening
    for member in found:
        name = text[before : member.start]  # includes the comma and the spaces before the name
        value = changes.get(member.name, text[member.start : member.end])
        if value is not None:
            kept.append(name + value if kept else name.lstrip(b", \t\r\n") + value)
        before = member.end
    named = {member.name for member in found}
    for name_, value in changes.items():
        if name_ not in named and value is not None:
            kept.append((b"," if kept else b"") + json.dumps(name_).encode() + b":" + value)
    first = found[0].start if found else opening
    lead = text[opening:first]
    space = lead[: len(lead) - len(lead.lstrip(b" \t\r\n"))] if found else b""
    return b"".join([text[:opening], space, *kept, text[before:]])


def _after_space(text: bytes, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _string_end(text: bytes, at: int) -> int:
    found = _STRING.match(text, at)
    if found is None:
        raise ValueError("a string without an end")
    return found.end()


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
    while (token := _BRACKET.match(text, at)) is not None:
        at = token.end()
        depth += 1 if token[1] in _OPENING else -1
        if depth == 0:
            return at
    raise ValueError("a bracket without an end")
