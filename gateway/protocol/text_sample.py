"""How much text the deltas of a stream carry. It is only needed if no usage is reported.

TextSample        of the deltas: all of a short stream, and a sample of a long one; mutable
bytes_of_items    of whole items, where there are no deltas
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gateway.protocol.dialects.dialect import StreamForm
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.sse_framing import block_at, blocks, fields, lf_lines

_MOST_UNMEASURED: Final = 8
_LARGE_BYTES: Final = 4_096
_MOST_EARLY_BYTES: Final = 4_096


class TextSample:
    """Some of a stream's deltas. `early`: what has come so far, as long as that is short; None: it was not."""

    __slots__ = ("_bytes", "_early_bytes", "_form", "_samples", "_unmeasured", "early")

    def __init__(self, form: StreamForm) -> None:
        self.early: list[bytes] | None = []
        self._form = form
        self._early_bytes = 0
        self._unmeasured: list[bytes] = []
        self._samples = 0
        self._bytes = 0

    def keep(self, ready: bytes) -> None:
        """Adds whole events to what has come so far. Not to be called once that is not kept any more."""
        self._early_bytes += len(ready)
        if self._early_bytes > _MOST_EARLY_BYTES or self.early is None:
            self.early = None
        else:
            self.early.append(ready)

    def add(self, text: bytes) -> None:
        """Adds the last delta of these events with LF lines; the one before, if that only ends a choice.

        It is parsed when a result is needed, or when there are many.
        """
        form = self._form
        if form.delta_bytes is None:
            return
        start, end = block_at(text, text.rfind(form.delta))
        if not form.delta_head.match(text, start) and (at := text.rfind(form.delta, 0, start)) >= 0:
            start, end = block_at(text, at)
        block = text[start:end]
        self._unmeasured.append(block)
        if len(self._unmeasured) == _MOST_UNMEASURED or len(block) > _LARGE_BYTES:
            self._measure()

    def note(self, body: dict[str, Any]) -> None:
        """Adds one event that has been decoded."""
        size = self._form.delta_bytes(body) if self._form.delta_bytes is not None else 0
        if size:
            self._samples += 1
            self._bytes += size

    def bytes_of(self, deltas: int) -> int:
        """Returns how many bytes of text so many deltas have, in a long stream according to the sample, rounded up."""
        size_of = self._form.delta_bytes
        if self.early is not None and size_of is not None:
            return _sum_of(lf_lines(b"".join(self.early)), self._form.delta, size_of)
        self._measure()
        return -(-deltas * self._bytes // self._samples) if self._samples else 0

    def _measure(self) -> None:
        for block in self._unmeasured:
            body = parse_object(fields(block)[1])
            if body is not None:
                self.note(body)
        self._unmeasured.clear()


def bytes_of_items(text: bytes, form: StreamForm) -> int:
    """The size of the items that events with LF lines show as a whole."""
    return _sum_of(text, form.item, form.item_bytes)


def _sum_of(text: bytes, word: bytes, size_of: Callable[[dict[str, Any]], int]) -> int:
    """Of all events in which a word stands."""
    bodies = [parse_object(fields(text[start:end])[1]) for start, end in blocks(text, word)]
    return sum(size_of(body) for body in bodies if body is not None)
