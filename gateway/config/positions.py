"""Where each key of a TOML document stands, for messages. Pure.

The document has already been parsed by tomllib, which reports its mistakes. If this module cannot follow it, only the
positions up to that place are known.
"""

from __future__ import annotations

import contextlib
import re
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final, NamedTuple

Place = tuple[str | int, ...]

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_QUOTED_KEY: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'')
_SCALAR: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\]|\\.)*"|\'[^\']*\'|[^,\]}\n#]+', re.DOTALL
)


class Position(NamedTuple):
    """A line and a column, from 1 on."""

    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


def positions(text: str) -> Mapping[Place, Position]:
    """Returns the position of every key and entry."""
    return _Document(text).positions()


def nearest(known: Mapping[Place, Position], place: Place) -> Position:
    """Returns the position of a place, or of the table where it is missing."""
    return next((known[place[:length]] for length in range(len(place), 0, -1) if place[:length] in known), Position())


class _Document:
    """Follows a document. Mutable: `_at`, what is found, and how many tables each array has."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._found: dict[Place, int] = {}
        self._tables: dict[Place, int] = {}

    def positions(self) -> dict[Place, Position]:
        with contextlib.suppress(IndexError, ValueError):  # the end, or something that no pattern matches
            self._follow()
        ends = [match.start() for match in re.finditer("\n", self._text)]
        return {place: self._position(offset, ends) for place, offset in self._found.items()}

    def _position(self, offset: int, ends: list[int]) -> Position:
        line = bisect_left(ends, offset)
        return Position(line + 1, offset - (ends[line - 1] + 1 if line else 0) + 1)

    def _follow(self) -> None:
        table: Place = ()
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text):
                return
            if self._text[self._at] != "[":
                self._pair(table)
                continue
            start, is_array = self._at, self._text.startswith("[[", self._at)
            self._at += 1 + is_array
            table = self._table(self._key(), start, is_array=is_array)
            self._at = self._text.index("]", self._at) + 1 + is_array

    def _table(self, names: tuple[str, ...], start: int, *, is_array: bool) -> Place:
        """Returns the place of a table's header: names of arrays mean their last table."""
        place: Place = ()
        for number, name in enumerate(names):
            place = (*place, name)
            if is_array and number == len(names) - 1:
                self._tables[place] = self._tables.get(place, -1) + 1
            self._found.setdefault(place, start)
            if place in self._tables:
                place = (*place, self._tables[place])
                self._found.setdefault(place, start)
        return place

    def _key(self) -> tuple[str, ...]:
        names = []
        while True:
            self._skip(_SPACE)
            if self._text[self._at] in "\"'":
                text = self._match(_QUOTED_KEY)
                names.append(text[1:-1])
            else:
                names.append(self._match(_BARE_KEY))
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return tuple(names)
            self._at += 1

    def _pair(self, table: Place) -> None:
        start, place = self._at, table
        for name in self._key():
            place = (*place, name)
            self._found.setdefault(place, start)
        self._at = self._text.index("=", self._at) + 1
        self._skip(_SPACE)
        self._value(place)

    def _value(self, place: Place) -> None:
        opening = self._text[self._at]
        if opening not in "[{":
            self._match(_SCALAR)
            return
        self._at += 1
        closing, number = "]" if opening == "[" else "}", 0
        while True:
            self._skip(_BLANK)
            if self._text[self._at] == closing:
                self._at += 1
                return
            if self._text[self._at] == ",":
                self._at += 1
            elif opening == "[":
                self._found[*place, number] = self._at
                self._value((*place, number))
                number += 1
            else:
                self._pair(place)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._match(pattern)

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError("nothing that is known stands here")
        self._at = match.end()
        return match[0]
