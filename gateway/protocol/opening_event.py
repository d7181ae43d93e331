"""The event that shows a response before its output, for dialects that have one. Closing events repeat the response."""

from __future__ import annotations

import re
from typing import Any, Final

from gateway.protocol.dialects.dialect import Opening
from gateway.protocol.lenient_json import id_text, parse_object
from gateway.protocol.sse_framing import block_at, fields
from gateway.types import Body

_FIRST_ID: Final = re.compile(rb'"response": ?\{ ?"id": ?"([\w.~:=+-]{1,512})"', re.ASCII)
"""Finds the id in an event that is written as most providers do, without parsing the rest of the event."""
_MAX_BYTES: Final = 65_536  # the event repeats the request's instructions


def id_shown_first(events: Body) -> str | None:
    """Returns the id of the response in events, if the first one is written as most providers do."""
    first = _FIRST_ID.search(events)
    return first[1].decode() if first else None


class OpeningEvent:
    """The opening event of one stream. Mutable.

    `seen` says that it has passed. `data` is the event's data, or None if it exceeds the bound.
    """

    __slots__ = ("_has_read_id", "_opening", "_response_id", "data", "seen")

    def __init__(self, opening: Opening | None) -> None:
        self._opening = opening
        self._has_read_id = False
        self._response_id: str | None = None
        self.seen = False
        self.data: bytes | None = None

    def find(self, text: bytes) -> None:
        """Searches events with LF line ends for it."""
        opening, at = self._opening, 0
        while opening is not None and not self.seen and (match := opening.anywhere.search(text, at)):
            start, at = block_at(text, match.start())
            name, data = fields(text[start:at])
            self.seen = name in opening.types or opening.of_type.search(data) is not None
            if self.seen and len(data) <= _MAX_BYTES:
                self.data = data
            elif self.seen:
                self._response_id = _id_in(parse_object(data))

    def note(self, name: str, body: dict[str, Any]) -> None:
        """Notes a decoded event that is too large to keep."""
        if self._opening is not None and not self.seen and not self._opening.types.isdisjoint((name, body.get("type"))):
            self.seen = True
            self._response_id = _id_in(body)

    def note_type(self, kind: str) -> None:
        """Notes an event of this type, which is too large to keep."""
        self.seen = self.seen or (self._opening is not None and kind in self._opening.types)

    def response_id(self) -> str | None:
        """Returns the id of the response that it shows. The event is parsed once, when the id is needed."""
        if self.data is not None and not self._has_read_id:
            self._has_read_id = True
            self._response_id = _id_in(parse_object(self.data))
        return self._response_id


def _id_in(body: dict[str, Any] | None) -> str | None:
    response = body.get("response") if body else None
    found = response.get("id") if isinstance(response, dict) else None
    return id_text(found)
