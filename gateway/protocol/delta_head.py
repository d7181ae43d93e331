"""How the deltas of a stream begin. It is learnt from one of them, because the following ones begin the same way.

Mutable.
"""

from __future__ import annotations

from gateway.protocol.dialects.dialect import StreamForm


class DeltaHead:
    """The learnt head of a stream's deltas.

    `head`: how a delta begins. `next`: a blank line and the head. `lines`: the number of line ends of a delta,
    including that of its blank line.
    """

    __slots__ = ("_crlf", "_form", "_further_content", "head", "lines", "next")

    def __init__(self, form: StreamForm) -> None:
        self.head = b"\xff"  # is not UTF-8, so that no event begins with it
        self.next = b"\n\n\xff"
        self.lines = 0
        self._crlf = False
        self._form = form
        self._further_content = form.worth_parsing and form.worth_parsing.search

    def learn(self, events: bytes) -> None:
        """Remembers how the last delta of these events begins."""
        last = events.rfind(self._form.delta)
        crlf = b"\r\n" in events
        blank = b"\r\n\r\n" if crlf else b"\n\n"
        start = events.rfind(blank, 0, last)
        head = self._form.delta_head.match(events, start + len(blank) if start >= 0 else 0)
        if head is not None:
            self._crlf = crlf
            self.head = head[0]
            self.next = blank + head[0]
            self.lines = head[0].count(b"\n") + 2

    def is_all_of(self, events: bytes, deltas: int) -> bool:
        """Whether these events are so many deltas with this head, and have nothing else to tell.

        The number of heads is known to be `deltas`. Each delta has at least `lines` line ends. If there are no more,
        there is no other event.
        """
        lines = deltas * self.lines
        if events.count(b"\n") != lines:
            return False
        if self._crlf:
            if not events.count(b"\r\n") == events.count(b"\r") == lines:
                return False
        elif b"\r" in events:
            return False
        return self._further_content is None or self._further_content(events) is None
