"""How much text a stream has put out. It is only needed if no usage is reported.

TextSample: all deltas of a short stream, a sample of those of a long one, and items that come as a whole. Mutable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gateway.protocol.dialects.dialect import StreamForm
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.sse_framing import block_at, blocks, fields, lf_lines

_MAX_UNMEASURED: Final = 8
_LARGE_BYTES: Final = 4_096
_MAX_EARLY_BYTES: Final = 4_096
_SAMPLE_EVERY: Final = 64


class TextSample:
    """A sample of what a stream has put out.

    `early`: all whole events so far, as long as they are short; None: they no longer are. `next_at`: the number of
    deltas at which the next one is to be added to the sample. `item_bytes`: the size of items that came as a whole,
    before any delta.
    """

    __slots__ = ("_bytes", "_early_bytes", "_form", "_samples", "_unmeasured", "early", "item_bytes", "next_at")

    def __init__(self, form: StreamForm) -> None:
        self.early: list[bytes] | None = []
        self.next_at = 1
        self.item_bytes = 0
        self._form = form
        self._early_bytes = 0
        self._unmeasured: list[bytes] = []
        self._samples = 0
        self._bytes = 0

    def keep(self, events: bytes) -> None:
        """Adds whole events to `early`, which must not be None."""
        self._early_bytes += len(events)
        if self._early_bytes > _MAX_EARLY_BYTES or self.early is None:
            self.early = None
        else:
            self.early.append(events)

    def add(self, text: bytes, deltas: int) -> None:
        """Adds the last delta of these events with LF lines, or the one before it, if the last only ends a choice.

        `deltas`: the number of deltas so far. The event is parsed when a result is needed, or when many have gathered.
        """
        self.next_at = deltas + min(deltas, _SAMPLE_EVERY)
        form = self._form
        if form.delta_bytes is None:
            return
        start, end = block_at(text, text.rfind(form.delta))
        if not form.delta_head.match(text, start) and (at := text.rfind(form.delta, 0, start)) >= 0:
            start, end = block_at(text, at)
        block = text[start:end]
        self._unmeasured.append(block)
        if len(self._unmeasured) == _MAX_UNMEASURED or len(block) > _LARGE_BYTES:
            self._measure()

    def add_decoded(self, body: dict[str, Any]) -> None:
        """Adds one delta that has been decoded."""
        size = self._form.delta_bytes(body) if self._form.delta_bytes is not None else 0
        if size:
            self._samples += 1
            self._bytes += size

    def add_items(self, text: bytes) -> None:
        """Adds the items that events with LF lines show as a whole."""
        self.item_bytes += _sum_of(text, self._form.item, self._form.item_bytes)

    def bytes_of(self, deltas: int) -> int:
        """Returns the size of the text of so many deltas, estimated from the sample if the stream is long."""
        size_of = self._form.delta_bytes
        if self.early is not None and size_of is not None:
            return _sum_of(lf_lines(b"".join(self.early)), self._form.delta, size_of)
        self._measure()
        return -(-deltas * self._bytes // self._samples) if self._samples else 0

    def _measure(self) -> None:
        for block in self._unmeasured:
            body = parse_object(fields(block)[1])
            if body is not None:
                self.add_decoded(body)
        self._unmeasured.clear()


def _sum_of(text: bytes, marker: bytes, size_of: Callable[[dict[str, Any]], int]) -> int:
    """Returns the sum of the sizes of all events that contain a marker."""
    bodies = [parse_object(fields(text[start:end])[1]) for start, end in blocks(text, marker)]
    return sum(size_of(body) for body in bodies if body is not None)
