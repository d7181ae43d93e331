"""How the deltas of a stream begin, learnt from one of them: the next ones begin the same way.

Mutable.
"""

from __future__ import annotations

from gateway.protocol.dialects.dialect import StreamForm


class DeltaHead:
    """`head`: how a delta begins; `next`: a blank line and that; `lines`: its line ends, with the blank line's."""

    __slots__ = ("_crlf", "_form", "head", "lines", "next")

    def __init__(self, form: StreamForm) -> None:
        self.head = b"\xff"  # is not UTF-8: nothing begins so
        self.next = b"\n\n\xff"
        self.lines = 0
        self._crlf = False
        self._form = form

    def learn(self, ready: bytes) -> None:
        """Remembers how the last delta of these events begins."""
        last = ready.rfind(self._form.delta)
        crlf = b"\r\n" in ready
        blank = b"\r\n\r\n" if crlf else b"\n\n"
        start = ready.rfind(blank, 0, last)
        head = self._form.delta_head.match(ready, start + len(blank) if start >= 0 else 0)
        if head is not None:
            self._crlf = crlf
            self.head = head[0]
            self.next = blank + head[0]
            self.lines = head[0].count(b"\n") + 2

    def has_lines(self, ready: bytes, lines: int) -> bool:
        """Whether it has this many lines, which end like those of the learnt delta."""
        if ready.count(b"\n") != lines:
            return False
        return ready.count(b"\r\n") == ready.count(b"\r") == lines if self._crlf else b"\r" not in ready
