"""Frames a stream for a caller that did not ask for usage: leaves out the event that reports nothing else.

The gateway asks for usage itself, because it settles requests by it. Callers that did not ask read `choices[0]` of
every chunk, and crash on a chunk without choices.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.protocol.byte_search import joined
from gateway.protocol.large_json import LARGE_BYTES
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.sse_framer import SseFramer
from gateway.protocol.sse_framing import fields, lf_lines, split_events
from gateway.types import Body

_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')


class UsageDroppingFramer(SseFramer):
    """A framer that leaves out the event which reports nothing but usage. Its observer examines that event too."""

    __slots__ = ()

    def feed(self, data: bytes) -> Body:
        """See `SseFramer.feed`."""
        ready = super().feed(data)
        if large := self.observer.large:  # a large event comes first, and reports more than usage
            _, end = large[0]
            behind = bytes(ready[end:])
            kept = self._without_usage(behind)
            return ready if kept == behind else joined((memoryview(ready)[:end], kept))
        return self._without_usage(bytes(ready)) if self.aligned else ready

    def finish(self, *, was_cut: bool = False) -> Body:
        """See `SseFramer.finish`."""
        rest = super().finish(was_cut=was_cut)
        return rest if len(rest) > LARGE_BYTES else self._without_usage(bytes(rest))

    def _without_usage(self, ready: bytes) -> bytes:
        """Returns what is to be written, without the event that reports nothing but usage."""
        drops = self.observer.form.drops_usage
        if drops is None or _USAGE.search(ready) is None:
            return ready
        kept = []
        for event in split_events(ready):
            body = parse_object(fields(lf_lines(event))[1]) if _USAGE.search(event) else None
            if body is None or not drops(body):
                kept.append(event)
        return b"".join(kept)
