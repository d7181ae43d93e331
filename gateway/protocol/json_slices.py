"""Parses large JSON in slices, so that no call of a parser holds the interpreter's lock for long. Pure.

    parse_in_slices(text, loads) -> Sliced     its value, and where members of its top level are; ValueError: no JSON

A parser in C reads about 200 MB per second, and no other request is served meanwhile. This module therefore follows
the brackets itself, and passes groups of values between two commas of one array or object to `loads`, about
`SLICE_BYTES` at a time. The result is what `loads` would return for the whole text, and what it refuses is refused.
Strings of more than a slice are checked piece by piece.

It runs in any thread, and takes about twice as long as a parser in one call. Values that are all brackets take longer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.protocol.json_splice import members
from gateway.types import Body

SLICE_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 1024
"""The bound of orjson."""
_MAX_ITEMS: Final = 10_000  # about as many are kept of one long array or object if long values are shortened
_MAX_NUMBERS: Final = 256  # as many are kept of one array if long values are shortened
_LEVELS: Final = 3  # of arrays and objects in one group that are searched for such arrays

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_RUN: Final = re.compile(rb'[^"\[\]{}]*+(?:' + _STRING + rb'[^"\[\]{}]*+)*+', re.DOTALL)
_TO_COMMA: Final = re.compile(rb'[^",\[\]{}]*+(?:' + _STRING + rb'[^",\[\]{}]*+)*+', re.DOTALL)
_INSIDE: Final = re.compile(
    rb'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+'
)  # the inside of a string, up to its quote, the end of a slice, or an invalid character
_HIGH_SURROGATE: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")
_ESCAPE_BYTES: Final = len(b"\\u0000")
_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_SPACES: Final = b" \t\r\n"
_ESCAPED_LETTER: Final = rb"\\u00(?:5[fF]|[4-7][0-9a-fA-F])"  # stands for "_" or a letter
_QUOTE, _COMMA, _COLON, _BACKSLASH = b'",:\\'
_ARRAY, _OBJECT = b"[{"
_CLOSING: Final = MappingProxyType({_ARRAY: b"]"[0], _OBJECT: b"}"[0]})
_BRACKETS: Final = frozenset(b"[]{}")


class TooManyValues(ValueError):
    """The text has more brackets than the bound, and is not parsed further. `found` is the object so far."""

    def __init__(self, found: dict[str, Any]) -> None:
        super().__init__("too many values")
        self.found = found


class Sliced(NamedTuple):
    """The result. `places` has the start and the end of the value for each occurrence of a wanted member."""

    value: Any
    places: dict[str, list[tuple[int, int]]]


class _Frame:
    """A long array or object, which is put together from several groups.

    `begun` is where the text begins that has not been parsed. `state` says what precedes that: the opening bracket, a
    comma, or a value that a comma must follow. `key` names the member whose value is being put together.
    """

    __slots__ = ("begun", "is_object", "is_root", "key", "state", "value")

    def __init__(self, *, is_object: bool, is_root: bool, begun: int) -> None:
        self.is_object = is_object
        self.is_root = is_root
        self.value: Any = {} if is_object else []
        self.begun = begun
        self.state = _FIRST
        self.key: str = ""


_FIRST, _BEHIND_COMMA, _BEHIND_VALUE = range(3)


def parse_in_slices(
    text: Body,
    loads: Callable[[bytes], Any],
    *,
    max_characters: int | None = None,
    wanted: frozenset[str] = frozenset(),
    max_brackets: int | None = None,
    slice_bytes: int = SLICE_BYTES,
    place: tuple[int, int] | None = None,
) -> Sliced:
    """Parses an array or object. Raises ValueError, and TooManyValues.

    `place` is where it stands in the text; None means that it is the whole text. `wanted` names the members whose
    places are to be returned. If `max_characters` is set, strings of more than a slice are cut to so many characters,
    and long arrays and objects to their beginning. Otherwise millions of values would take long to be freed, too.
    """
    start, end = (0, len(text)) if place is None else place
    return _SlicedParser(text, end, loads, wanted, slice_bytes, max_brackets, max_characters=max_characters).parse(
        start
    )


class _SlicedParser:
    """The parser of one text.

    State that changes: `_open`, the positions of the open brackets; `_frames`, the frames of the outermost of them. An
    array or object gets a frame when it turns out to be long. All arrays and objects around it are long as well.
    """

    def __init__(
        self,
        text: Body,
        size: int,
        loads: Callable[[bytes], Any],
        wanted: frozenset[str],
        slice_bytes: int,
        max_brackets: int | None,
        *,
        max_characters: int | None,
    ) -> None:
        self._text = text
        self._size = size
        self._loads = loads
        self._wanted = wanted
        # A name in its quotes, or one that may be spelt with escapes.
        names = b"|".join([re.escape(b'"%b"' % name.encode()) for name in sorted(wanted)])
        self._hint = re.compile(names + b"|" + _ESCAPED_LETTER) if wanted else None
        self._slice_bytes = slice_bytes
        self._left = size if max_brackets is None else max_brackets
        self._max_characters = max_characters
        self._open: list[int] = []
        self._frames: list[_Frame] = []
        self._places: dict[str, list[tuple[int, int]]] = {}
        self._root: Any = None

    def parse(self, start: int) -> Sliced:
        text, size = self._text, self._size
        at = _skip_spaces(text, start, size)
        if at < size and text[at : at + 1] not in (b"[", b"{"):
            raise ValueError("no array or object")
        while True:
            stop = _RUN.match(text, at, min(at + self._slice_bytes, size)).end()  # type: ignore[union-attr]  # matches the empty text, too
            if stop < size and (byte := text[stop]) in _BRACKETS:
                at = stop + 1
                if byte in _CLOSING:
                    self._opens(stop)
                elif self._closes(stop, byte):
                    break
            elif stop > at:
                at = stop
            else:  # a string that does not end in this slice
                at = self._long_string(stop)
            if at - self._begun() >= self._slice_bytes:
                at = self._cut_at_comma(at)
        if _skip_spaces(text, at, size) != size:
            raise ValueError("something follows the value")
        return Sliced(self._root, self._places)

    def _begun(self) -> int:
        """Returns where the unparsed text of the innermost array or object begins."""
        depth = len(self._open)
        return self._frames[depth - 1].begun if len(self._frames) == depth else self._open[-1] + 1

    def _opens(self, at: int) -> None:
        if len(self._open) == MAX_DEPTH:
            raise ValueError("nested too deeply")
        self._left -= 1
        if self._left < 0:
            root = self._frames[0].value if self._frames else {}
            raise TooManyValues(root if isinstance(root, dict) else {})
        self._open.append(at)

    def _closes(self, at: int, byte: int) -> bool:
        """Notes a closing bracket. Returns whether it was the last one."""
        begin = self._open.pop()
        if _CLOSING[self._text[begin]] != byte:
            raise ValueError("a bracket closes another one")
        if len(self._frames) > len(self._open):
            frame = self._frames.pop()
            self._flush(frame, at, None)
            self._add(frame.value, begin, at + 1)
        elif not self._open:
            frame = _Frame(is_object=self._text[begin] == _OBJECT, is_root=True, begun=begin + 1)
            self._flush(frame, at, None)
            self._root = frame.value
        return not self._open

    def _add(self, value: Any, begin: int, end: int) -> None:
        """Adds a value that was put together to the array or object that contains it."""
        if not self._frames:
            self._root = value
            return
        frame = self._frames[-1]
        if not frame.is_object:
            if self._max_characters is None or len(frame.value) < _MAX_ITEMS:
                frame.value.append(value)
        else:
            frame.value[frame.key] = value
            if frame.is_root and frame.key in self._wanted:
                self._places.setdefault(frame.key, []).append((begin, end))
        frame.begun, frame.state = end, _BEHIND_VALUE

    def _put_together(self) -> _Frame:
        """Gives frames to the innermost array or object and to all around it. Returns the innermost frame."""
        for depth in range(len(self._frames), len(self._open)):
            at = self._open[depth]
            if depth:
                self._flush(self._frames[-1], at, at)
            self._frames.append(_Frame(is_object=self._text[at] == _OBJECT, is_root=not depth, begun=at + 1))
        return self._frames[-1]

    def _cut_at_comma(self, at: int) -> int:
        """Parses up to the next comma, if one comes before a bracket. Returns where to go on."""
        text = self._text
        comma = _TO_COMMA.match(text, at, min(at + self._slice_bytes, self._size)).end()  # type: ignore[union-attr]  # the same
        if comma == self._size or text[comma] != _COMMA:
            return at
        frame = self._put_together()
        self._flush(frame, comma, None)
        frame.begun, frame.state = comma + 1, _BEHIND_COMMA
        return comma + 1

    def _flush(self, frame: _Frame, end: int, child: int | None) -> None:
        """Parses the unparsed text up to a comma, the closing bracket, or a child that is put together."""
        text = self._text
        offset = _skip_spaces(text, frame.begun, end)
        group = bytes(text[offset : _before_spaces(text, offset, end)])
        closes = child is None and text[end] != _COMMA
        if frame.state == _BEHIND_VALUE:
            if not group:
                if child is not None:
                    raise ValueError("two values without a comma")
                return
            if not group.startswith(b","):
                raise ValueError("no comma behind a value")
            offset, group = text.index(b",", offset) + 1, group[1:].lstrip(_SPACES)
        if child is not None:
            group = self._without_key(frame, group)
            if not group:
                return
            if not group.endswith(b","):
                raise ValueError("no comma between two values")
            group = group[:-1]
        if group.strip(_SPACES):
            self._take(frame, group, _skip_spaces(text, offset, end))
        elif not (closes and frame.state == _FIRST):
            raise ValueError("a comma without a value")

    def _without_key(self, frame: _Frame, group: bytes) -> bytes:
        """Returns what precedes the name of the member whose value comes next, and notes that name."""
        if not frame.is_object:
            return group
        name_end = len(group.rstrip(b":").rstrip(_SPACES))
        if not group.endswith(b":") or group[: len(group) - 1].endswith(b":") or group[name_end - 1 : name_end] != b'"':
            raise ValueError("no name before a value")
        start = name_end - 1
        while True:
            start = group.rfind(b'"', 0, start)
            if start < 0:
                raise ValueError("no name before a value")
            escapes = start - len(group[:start].rstrip(b"\\")) if group[start - 1 : start] == b"\\" else 0
            if not escapes % 2:
                break
        frame.key = str(self._loads(group[start:name_end]))
        return group[:start].rstrip(_SPACES)

    def _take(self, frame: _Frame, group: bytes, offset: int) -> None:
        if frame.is_object:
            found = self._parsed(b"{%b}" % group, offset)
            if not isinstance(found, dict) or not found:
                raise ValueError("no members between two commas")
            if frame.is_root and self._hint is not None and self._hint.search(group):
                for member in members(b"{%b}" % group):
                    if member.name in self._wanted:
                        place = (offset + member.start - 1, offset + member.end - 1)
                        self._places.setdefault(member.name, []).append(place)
            if self._max_characters is None or len(frame.value) < _MAX_ITEMS:
                frame.value.update(found)
            return
        items = self._parsed(b"[%b]" % group, offset)
        if not isinstance(items, list) or not items:
            raise ValueError("no values between two commas")
        if self._max_characters is None:
            frame.value += items
        elif len(frame.value) < _MAX_ITEMS:
            frame.value += _without_numbers(items, _LEVELS)

    def _parsed(self, group: bytes, offset: int) -> Any:
        try:
            return self._loads(group)
        except ValueError as error:
            what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise ValueError(f"{what}, behind byte {offset}") from None

    def _long_string(self, start: int) -> int:
        """Checks a string piece by piece, and adds it as a value unless it is a name. Returns where it ends."""
        text, size = self._text, self._size
        pieces: list[str] = []
        length = 0
        at = start + 1
        while True:
            end = _INSIDE.match(text, at, min(at + self._slice_bytes, size)).end()  # type: ignore[union-attr]  # the same
            whole = end < size and text[end] == _QUOTE
            if not whole:
                end = _character_end(text, at, end)
            if end == at and not whole:
                raise ValueError("a string that does not end, or has what it may not have")
            piece = self._loads(b'"%b"' % bytes(text[at:end]))
            if self._max_characters is None or length < self._max_characters:
                pieces.append(piece)
            length += len(piece)
            at = end
            if whole:
                break
        at += 1
        behind = _skip_spaces(text, at, size)
        if text[behind : behind + 1] == b":":
            return at
        if not self._open:
            raise ValueError("no array or object")
        frame = self._put_together()
        self._flush(frame, start, start)
        self._add("".join(pieces)[: self._max_characters], start, at)
        return at


def _without_numbers(value: Any, levels: int) -> Any:
    """Returns the value with long arrays of numbers cut to their beginnings."""
    if isinstance(value, list):
        if len(value) > _MAX_NUMBERS and all(isinstance(item, (int, float)) for item in value):
            return value[:_MAX_NUMBERS]
        return [_without_numbers(item, levels - 1) for item in value] if levels else value
    if isinstance(value, dict) and levels:
        return {name: _without_numbers(item, levels - 1) for name, item in value.items()}
    return value


def _character_end(text: Body, start: int, end: int) -> int:
    """Returns the last position up to `end` that is not inside a UTF-8 character or between two surrogates."""
    while start < end < len(text) and text[end] & 0xC0 == 0x80:  # noqa: PLR2004 - the bits of a byte inside a character
        end -= 1
    tail = bytes(text[start:end])
    if _HIGH_SURROGATE.match(tail, max(0, len(tail) - _ESCAPE_BYTES)) is None:
        return end
    escape = len(tail) - _ESCAPE_BYTES
    escapes = escape + 1 - len(tail[: escape + 1].rstrip(b"\\"))
    return start + escape if escapes % 2 else end


def _skip_spaces(text: Body, at: int, size: int) -> int:
    while (end := _SPACE.match(text, at, min(at + SLICE_BYTES, size)).end()) > at:  # type: ignore[union-attr]  # the same
        at = end
    return at


def _before_spaces(text: Body, start: int, end: int) -> int:
    while start < end:
        begin = max(start, end - SLICE_BYTES)
        left = len(bytes(text[begin:end]).rstrip(_SPACES))
        if left:
            return begin + left
        end = begin
    return end
