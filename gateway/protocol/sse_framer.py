"""Cuts an upstream's stream of server-sent events into whole events (WHATWG HTML, server-sent events).

    upstream bytes -> SseFramer.feed -> bytes to write now: whole events
                          |
                          +-> SseObserver: the same events, to be examined later

A read that ends inside an event is cut at its last blank line, and the rest is held until its own blank line arrives.
An event of more than `max_event_bytes` is passed on as it comes. No byte is changed.
"""

from __future__ import annotations

from gateway.protocol.large_json import LARGE_BYTES
from gateway.protocol.sse_framing import first_boundary, last_boundary
from gateway.protocol.sse_observer import SseObserver
from gateway.types import Body


class SseFramer:
    """The framing of one stream. Mutable, used by one task.

    `observer` gets every whole event. `aligned`: what was written ends at a boundary between events, so that another
    event may follow.
    """

    __slots__ = (
        "_at_boundary", "_examine_at_bytes", "_held", "_last_two_bytes", "_max_event_bytes", "_pending",
        "_pending_bytes", "aligned", "observer",
    )  # fmt: skip

    def __init__(self, observer: SseObserver, max_event_bytes: int) -> None:
        self.observer = observer
        self.aligned = True
        self._max_event_bytes = max_event_bytes
        self._pending = observer.pending
        self._pending_bytes = 0
        self._examine_at_bytes = 0
        self._held: Body = b""  # the incomplete event
        self._last_two_bytes = b"\n"  # at a boundary, as if a line had ended
        self._at_boundary = True  # nothing is held, and no event has been passed on in part

    def feed(self, data: bytes) -> Body:
        """Takes one read from the upstream. Returns what may be written now: whole events, or a part of a long one."""
        if not (self._at_boundary and data.endswith((b"\n\n", b"\n\r\n"))):
            return self._realign(data)
        self._pending.append(data)
        self._pending_bytes = pending_bytes = self._pending_bytes + len(data)
        if pending_bytes >= self._examine_at_bytes:
            self._examine_at_bytes = self.observer.examine()
            self._pending_bytes = 0
        return data

    def finish(self, *, was_cut: bool = False) -> Body:
        """Ends the stream. Returns the unterminated rest that is still held, if it is to be written.

        An event without its blank line counts as an event if it ends the answer. Otherwise it is half an event, which
        is examined for its usage alone, and dropped or passed on as the dialect defines. `was_cut`: the upstream did
        not end its body properly, so that the rest is half an event in any case.
        """
        rest = self._release()
        if not self.observer.finish(rest, was_cut=was_cut):
            return b""
        if rest:
            self.aligned = rest.endswith(b"\n\r")
        return rest

    def separated(self, closing_events: bytes) -> bytes:
        """Returns the gateway's own closing events, behind a blank line if the last event was passed on in part.

        Otherwise the first of them would be read as a part of that event.
        """
        return b"\n\n" + closing_events if closing_events and not self.aligned else closing_events

    @property
    def takes_long(self) -> bool:
        """Whether examining what was fed takes long, because a large event is part of it."""
        return bool(self.observer.large) or len(self._held) > LARGE_BYTES

    def _realign(self, data: bytes) -> Body:
        """Takes a read that begins or ends inside an event."""
        before = self._last_two_bytes
        window = before + data
        boundary = last_boundary(window)
        if boundary < 0:
            self._last_two_bytes = window[-2:]
            return self._hold(data)
        cut = boundary - len(before)
        last, rest = data[:cut], data[cut:]
        ready: Body = last
        if not self.aligned:
            self._end_oversized(last, first_boundary(before, last))
        elif len(self._held) > LARGE_BYTES:
            end = len(self._held) + first_boundary(before, last)
            ready = self._release(last)
            self._set_aside(ready, end)
        else:
            ready = whole = bytes(self._release(last))
            self._pass_to_observer(whole)
        self._last_two_bytes = (b"\n" + rest)[-2:]
        self._at_boundary = self.aligned = True
        if rest and (beginning := self._hold(rest)):
            ready += beginning
        return ready

    def _pass_to_observer(self, ready: bytes) -> None:
        self._pending.append(ready)
        self._pending_bytes += len(ready)
        if self._pending_bytes >= self._examine_at_bytes:
            self._examine_at_bytes = self.observer.examine()
            self._pending_bytes = 0

    def _set_aside(self, ready: Body, end: int) -> None:
        """Lets a thread examine the large event that ends at `end`. Whole events may follow it in `ready`."""
        self.observer.examine()  # what precedes it
        self.observer.large.append((ready, end))
        if end < len(ready):
            self._pending.append(bytes(ready[end:]))

    def _hold(self, rest: bytes) -> Body:
        """Holds the beginning of an event. Returns what of it is written nevertheless, because it is too long."""
        self._at_boundary = False
        if not self.aligned:
            self.observer.continue_oversized(rest)
            return rest
        held = self._held
        if not held:
            self._held = rest
        elif isinstance(held, bytearray):
            held += rest  # which grows it in place: a join of megabytes would be one long call
        else:
            self._held = bytearray(held) + rest
        if len(self._held) <= self._max_event_bytes:
            return b""
        self.aligned = False
        beginning = self._release()
        self.observer.begin_oversized(beginning)
        return beginning

    def _end_oversized(self, ready: bytes, end: int) -> None:
        """Ends the event that was passed on in part. Whole events may follow it in `ready`."""
        self.observer.end_oversized(ready[:end])
        if end < len(ready):
            self._pass_to_observer(ready[end:])

    def _release(self, last: bytes = b"") -> Body:
        """Returns what is held, and `last` behind it."""
        held, self._held = self._held, b""
        if not held:
            return last
        held += last
        return held
