"""An event that is too large to be held. It is passed on as it comes, and read by its type and its end.

Mutable.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.protocol.dialects.dialect import StreamFacts, StreamForm
from gateway.protocol.sse_framing import fields
from gateway.protocol.usage_reader import find_usage
from gateway.types import Body

_FIRST_TYPE: Final = re.compile(rb'\s*\{\s*"type"\s*:\s*"([a-z0-9_.]+)"')
_END_BYTES: Final = 16_384  # kept of a terminal event, because its usage is near its end


class OversizedEvent:
    """One event of this kind. `type`: its type, as far as its beginning shows it."""

    __slots__ = ("_end", "_form", "type")

    def __init__(self, form: StreamForm, head: bytes, beginning: Body) -> None:
        """Takes its beginning. `head`: the first bytes of that, with LF lines."""
        name, data = fields(head)
        first_type = _FIRST_TYPE.match(data)
        self.type = first_type[1].decode() if first_type else name
        self._form = form
        self._end = b""
        self.add(beginning)

    def add(self, data: Body) -> None:
        """Takes more of it."""
        if self.type in self._form.terminals:
            self._end = (self._end + data[-_END_BYTES:])[-_END_BYTES:]

    def end(self, facts: StreamFacts, last: bytes = b"", *, whole: bool = True) -> None:
        """Notes in `facts` what it tells. An event that is not whole, because it was cut, tells its usage at most."""
        usage = find_usage(self._end + last) if self._end else None
        if not whole and usage is None:
            return
        if self.type in self._form.terminals:
            body = {"type": self.type, "usage": usage, "response": {"usage": usage}}
            self._form.read_event(facts, self.type, body)
        elif self.type == "error":
            facts.fail({"type": "error"})
