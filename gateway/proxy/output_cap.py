"""Cuts a stream before it costs more than its hold, on routes and for keys that ask for it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

from gateway.protocol.sse_framing import split_events
from gateway.protocol.sse_observer import SseObserver
from gateway.proxy.admission import Admitted


class CapReached(Exception):
    """An answer has reached its cap. The upstream is aborted, and the client's stream is ended."""


def cap_of(admitted: Admitted) -> int | None:
    """Returns after how many output tokens the answer is cut, or None if neither its route nor key asks for that."""
    rule, admission = admitted.route.rule, admitted.admission
    return admission.hold.output_tokens if rule.cut_at_cap or admission.cut_at_cap else None


class OutputCap:
    """Lets the events of a stream pass until the answer has put out `max_tokens`.

    `take` passes on the data of one read, and returns whether the next read may follow at once.
    """

    def __init__(self, max_tokens: int, observer: SseObserver, take: Callable[[bytes], bool]) -> None:
        self._max_tokens = max_tokens
        self._observer = observer
        self._take = take

    def take(self, data: bytes) -> bool:
        """Passes on as much of a read as the cap permits. Returns whether the next one may follow at once.

        Events pass one by one, because one read may bring many times what the hold pays for. If a read brings the end
        of the answer, it passes as a whole, because it also brings the usage, which is charged instead of an estimate.
        """
        if self._observer.form.may_end_in(data):
            return self._take(data) and not self.is_reached()
        keeps_up = [self._take(event) for event in takewhile(lambda _: not self.is_reached(), split_events(data))]
        return all(keeps_up) and not self.is_reached()

    def is_reached(self) -> bool:
        """Whether the answer has put out more than the cap, and has not ended."""
        return self._observer.exceeds(self._max_tokens)
