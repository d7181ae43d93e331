"""What becomes of each read of an upstream's stream: whole events go to the client, past the observer.

    passing(...) -> Passing     what `Answer.pump` calls for each read, and whether the answer's cap is exceeded

No coroutine, and no task, for any of it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import NamedTuple, Protocol

from gateway.http.client import Client
from gateway.protocol.sse_framer import SseFramer
from gateway.protocol.sse_framing import split_events


class HasEnd(Protocol):
    """An upstream's answer, as far as it matters here."""

    @property
    def ended(self) -> bool:
        """Whether nothing follows the bytes that have arrived."""


class Passing(NamedTuple):
    """`take`: passes a read on. False: before the next one, the client has to catch up, or `over_cap` holds.

    The observer's large events have to be examined then, too.
    """

    take: Callable[[bytes], bool]
    over_cap: Callable[[], bool]


def passing(
    client: Client,
    answer: HasEnd,
    framer: SseFramer,
    cap: int | None,
    show: Callable[[bytes], bool] | None,
) -> Passing:
    """Prepares one stream. `cap`: the output tokens after which it is cut.

    `show`: called with events before they go to the client, until it says that they have shown the response's id. Not
    called with those that end the answer: its request is settled at once.
    """
    observer, write_now, to_show = framer.observer, client.write_now, [] if show is None else [show]

    def feed_and_show(data: bytes) -> bytes:
        ready = framer.feed(data)
        if to_show and ready and not answer.ended and to_show[0](ready):
            to_show.clear()
        return ready

    feed = framer.feed if show is None else feed_and_show

    def over_cap() -> bool:
        return cap is not None and observer.exceeds(cap)

    def pass_on(data: bytes) -> bool:
        ready = feed(data)
        if answer.ended:  # the end is next: one write for both
            client.buffer(ready)
            return True
        return (not ready or write_now(ready)) and not observer.large

    def pass_on_to_cap(data: bytes) -> bool:
        # Event by event: one read may bring many times what the hold pays for. With its end, it brings its price.
        if observer.form.may_end_in(data):
            return pass_on(data) and not over_cap()
        keeps_up = [pass_on(event) for event in takewhile(lambda _: not over_cap(), split_events(data))]
        return all(keeps_up) and not over_cap()

    return Passing(pass_on if cap is None else pass_on_to_cap, over_cap)
