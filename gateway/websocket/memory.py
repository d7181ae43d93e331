"""The memory of a WebSocket: the last response of each lane that nobody stores, with its whole input.

    memory.recall(lane, response_id)                returns a remembered response, or None
    memory.remember(lane, remembered)               replaces the last response of a lane
    memory.forget(lane)                             removes it, because the lane's last response is stored
    memory.evict(lane, response_id)                 removes it for this lane, because its continuation failed

Specification of 2026-04-24, "WebSocket mode": a response with `store: false` can be continued only on its own
connection, and a continuation that fails with 4xx or 5xx evicts the response that it names. A lane may continue a
response of another lane, whose own memory is unaffected if that fails.

A response is kept as one JSON text, the items of its input and output, which are sent upstream with the next turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from gateway.state.chain import Link
from gateway.state.items import Item
from gateway.state.large_work import dump_whole, parse_whole

_ENTRY_BYTES: Final = 1024
"""The size of an entry without its items."""


class Remembered(NamedTuple):
    """A response that nobody stores. `items`: its input and its output, as JSON.

    `base`: a response that its provider stores, and that precedes these items, or None.
    """

    response_id: str
    items: bytes
    base: str | None = None

    @classmethod
    def of(cls, response_id: str, items: Sequence[Item], base: str | None = None) -> Remembered:
        """Makes an entry with these items. May run in any thread."""
        return cls(response_id, dump_whole(list(items)), base)

    @property
    def size(self) -> int:
        """The size of the entry in bytes."""
        return len(self.items) + _ENTRY_BYTES

    def read(self) -> list[Item]:
        """Returns the items. May run in any thread."""
        found: list[Any] = parse_whole(self.items)
        return found

    def link(self) -> Link:
        """Returns the items as the input of one turn that is continued."""
        return Link(self.response_id, self.read(), ())


class LaneMemory:
    """The memory of one WebSocket. `on_change` is called with the change of its size in bytes. Mutable."""

    def __init__(self, on_change: Callable[[int], None]) -> None:
        self.size = 0
        self._on_change = on_change
        self._lanes: dict[str, Remembered] = {}
        self._evicted: set[tuple[str, str]] = set()  # a lane, and a response of another one

    def recall(self, lane: str, response_id: str) -> Remembered | None:
        """Returns a remembered response of any lane. None: there is none, or it was evicted for this lane."""
        if (lane, response_id) in self._evicted:
            return None
        return next((found for found in self._lanes.values() if found.response_id == response_id), None)

    def remember(self, lane: str, remembered: Remembered) -> None:
        """Sets the last response of a lane."""
        self.forget(lane)
        self._lanes[lane] = remembered
        self._grow(remembered.size)
        self._undo_evictions({(lane, remembered.response_id)})

    def forget(self, lane: str) -> None:
        """Removes the last response of a lane."""
        before = self._lanes.pop(lane, None)
        if before is None:
            return
        self._grow(-before.size)
        if all(other.response_id != before.response_id for other in self._lanes.values()):
            self._undo_evictions({evicted for evicted in self._evicted if evicted[1] == before.response_id})

    def evict(self, lane: str, response_id: str) -> None:
        """Removes a response for this lane. Other lanes can still continue it."""
        found = self._lanes.get(lane)
        if found is not None and found.response_id == response_id:
            self.forget(lane)
        if self.recall(lane, response_id) is not None:
            self._evicted.add((lane, response_id))
            self._grow(_ENTRY_BYTES)

    def clear(self) -> None:
        """Removes everything."""
        self._lanes.clear()
        self._evicted.clear()
        self._grow(-self.size)

    def _undo_evictions(self, evicted: set[tuple[str, str]]) -> None:
        evicted &= self._evicted
        self._evicted -= evicted
        self._grow(-_ENTRY_BYTES * len(evicted))

    def _grow(self, by: int) -> None:
        if by:
            self.size += by
            self._on_change(by)
