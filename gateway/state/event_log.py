"""The events of one background response, numbered from 0 without a gap, so that clients can resume the stream.

log.add(kind, body)         adds an event that the gateway makes
await log.relay(...)        adds an event of the provider, with the gateway's number and changed fields
log.unsent, log.sent(...)   the events that the store has not taken yet
log.whole                   all events
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from gateway.concurrency.off_loop import LONG_BYTES
from gateway.protocol.json_splice import members, replace
from gateway.protocol.sse_framing import split_events
from gateway.state.large_work import LargeWork, dump_whole
from gateway.state.rewriting import Event, with_data


class Piece(NamedTuple):
    """Consecutive events. `end`: the number of the last one, plus one."""

    end: int
    data: bytes


class EventLog:
    """The events so far. Mutable.

    `end`: the number of the next one. If all events have more than `max_bytes`, they are not kept for `whole`.
    """

    def __init__(self, max_bytes: int, end: int = 0) -> None:
        self.end = end
        self._max_bytes = max_bytes
        self._all: list[bytes] | None = []
        self._bytes = 0
        self._new: list[bytes] = []

    def add(self, kind: str, body: Mapping[str, Any]) -> None:
        """Adds an event of the gateway's own."""
        data = dump_whole({"type": kind, "sequence_number": self.end, **body})
        self._append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))

    def restore(self, data: bytes) -> None:
        """Adds events that another log has numbered. This log must be empty."""
        for event in split_events(data):
            self._append(event)

    async def relay(self, event: Event, changes: Mapping[str, Any], large_work: LargeWork) -> None:
        """Adds an event of the provider. An event without a JSON object is left out, and takes no number.

        Nothing else may be added meanwhile.
        """
        work = partial(_numbered, event, changes, self.end)
        frame = await large_work.run(work, is_long=len(event.raw) > LONG_BYTES)
        if frame is not None:
            self._append(frame)

    @property
    def unsent(self) -> Piece | None:
        """The events that the store has not taken yet, or None if there are none."""
        return Piece(self.end, b"".join(self._new)) if self._new else None

    def sent(self, piece: Piece) -> None:
        """Notes that the store has taken this piece."""
        del self._new[: len(self._new) - (self.end - piece.end)]

    @property
    def whole(self) -> bytes:
        """All events, or b"" if they have more than `max_bytes`."""
        return b"" if self._all is None else b"".join(self._all)

    def _append(self, frame: bytes) -> None:
        self.end += 1
        self._bytes += len(frame)
        if self._bytes > self._max_bytes:
            self._all = None
        if self._all is not None:
            self._all.append(frame)
        self._new.append(frame)


def _numbered(event: Event, changes: Mapping[str, Any], number: int) -> bytes | None:
    data, fields = event.data, event.fields
    if data is None or fields is None:
        return None
    try:
        numbered = replace(data, 0, {"sequence_number": b"%d" % number})
        if isinstance(fields.get("response"), dict):
            start = next(member.start for member in members(numbered) if member.name == "response")
            numbered = replace(numbered, start, {name: dump_whole(value) for name, value in changes.items()})
    except ValueError:
        return None
    return with_data(event.raw, numbered).rstrip(b"\n") + b"\n\n"


def after(pieces: Sequence[Piece], number: int) -> tuple[int, bytes]:
    """Returns the number of the last event, and all events after the one with this number."""
    found: list[bytes] = []
    for end, data in pieces:
        events = split_events(data)
        first = end - len(events)
        found += events[max(0, number + 1 - first) :]
        number = max(number, end - 1)
    return number, b"".join(found)
