"""How much text the deltas of a stream carry, measured on a sample. It is only needed if no usage is reported.

Mutable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gateway.protocol.lenient_json import parse_object
from gateway.protocol.sse_framing import fields

_MOST_UNMEASURED: Final = 8
_LARGE_BYTES: Final = 4_096


class TextSample:
    """Some of a stream's deltas.

    `text_of` returns the text that a delta's decoded event adds; None if there is none.
    """

    __slots__ = ("_bytes", "_samples", "_text_of", "_unmeasured")

    def __init__(self, text_of: Callable[[dict[str, Any]], object] | None) -> None:
        self._text_of = text_of
        self._unmeasured: list[bytes] = []
        self._samples = 0
        self._bytes = 0

    def add(self, block: bytes) -> None:
        """Adds one event with LF lines. It is parsed when a result is needed, or when there are many."""
        if self._text_of is None:
            return
        self._unmeasured.append(block)
        if len(self._unmeasured) == _MOST_UNMEASURED or len(block) > _LARGE_BYTES:
            self._measure()

    def note(self, body: dict[str, Any]) -> None:
        """Adds one event that has been decoded."""
        text = self._text_of(body) if self._text_of is not None else None
        if isinstance(text, str):
            self._samples += 1
            self._bytes += len(text.encode("utf-8", "replace"))

    def bytes_of(self, deltas: int) -> int:
        """Returns how many bytes of text so many deltas have according to the sample, rounded up."""
        self._measure()
        return -(-deltas * self._bytes // self._samples) if self._samples else 0

    def _measure(self) -> None:
        for block in self._unmeasured:
            body = parse_object(fields(block)[1])
            if body is not None:
                self.note(body)
        self._unmeasured.clear()
