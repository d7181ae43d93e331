"""An event that is too large to hold: it is passed on as it comes, and read by its type and its end.

Mutable.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.protocol.dialects.dialect import StreamFacts, StreamForm
from gateway.protocol.sse_framing import fields
from gateway.protocol.usage_reader import find_usage

_FIRST_TYPE: Final = re.compile(rb'\s*\{\s*"type"\s*:\s*"([a-z0-9_.]+)"')
_TRAIL_BYTES: Final = 16_384  # kept of a terminal event, because its usage is near its end


class OversizedEvent:
    """The event that passes, if one does. `type`: its type, as far as its beginning tells."""

    __slots__ = ("_form", "_trail", "type")

    def __init__(self, form: StreamForm) -> None:
        self.type = ""
        self._form = form
        self._trail = b""

    def begin(self, head: bytes, held: bytes) -> None:
        """It begins. `head`: its first bytes with LF lines; `held`: all that has come of it."""
        name, data = fields(head)
        first_type = _FIRST_TYPE.match(data)
        self.type = first_type[1].decode() if first_type else name
        self.go_on(held)

    def go_on(self, data: bytes) -> None:
        """More of it has come."""
        if self.type in self._form.terminals:
            self._trail = (self._trail + data)[-_TRAIL_BYTES:]

    def end(self, facts: StreamFacts, last: bytes = b"", *, whole: bool = True) -> None:
        """It is over: tells what it told. `whole`: an event that is cut tells its usage alone, where it has one."""
        usage = find_usage(self._trail + last) if self._trail else None
        if not whole and usage is None:
            return
        if self.type in self._form.terminals:
            body = {"type": self.type, "usage": usage, "response": {"usage": usage}}
            self._form.read_event(facts, self.type, body)
        elif self.type == "error":
            facts.fail({"type": "error"})
        self.type, self._trail = "", b""
