"""What a socket remembers: the last response of each lane that nobody stores, with its whole input.

    memory.recall(lane, response_id)                a remembered response, or None
    memory.remember(lane, remembered)               replaces what the lane had
    memory.forget(lane)                             its last response is stored: nothing to remember
    memory.evict(lane, response_id)                 its continuation failed: this lane cannot name it again

Specification of 2026-04-24, "WebSocket mode": with `store: false` a response can be continued on its own connection
alone; a continuation that fails with 4xx or 5xx evicts the response that it names. A lane may continue what another one
made, and its failure takes nothing away from the other.

A response is kept as one text, the items of its input and output: what goes upstream with the next turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from gateway.protocol.lenient_json import dumps, parse_json
from gateway.state.chain import Link
from gateway.state.items import Item

_ENTRY_BYTES: Final = 1024
"""What an entry takes beside its items."""


class Remembered(NamedTuple):
    """A response that nobody stores. `items`: JSON, the input that it was made from and its output.

    `base`: a response that its provider stores and that comes before these items, or None.
    """

    response_id: str
    items: bytes
    base: str | None = None

    @classmethod
    def of(cls, response_id: str, items: Sequence[Item], base: str | None = None) -> Remembered:
        """Remembers these items."""
        return cls(response_id, dumps(list(items)), base)

    @property
    def size(self) -> int:
        """What it takes, in bytes."""
        return len(self.items) + _ENTRY_BYTES

    def read(self) -> list[Item]:
        """The items."""
        found: list[Any] = parse_json(self.items)
        return found

    def link(self) -> Link:
        """The items as one turn that is continued."""
        return Link(self.response_id, self.read(), ())


class LaneMemory:
    """One socket's. `on_change` is told by how many bytes it has grown. State that changes: all of it but that."""

    def __init__(self, on_change: Callable[[int], None]) -> None:
        self.size = 0
        self._on_change = on_change
        self._lanes: dict[str, Remembered] = {}
        self._evicted: set[tuple[str, str]] = set()  # a lane, and a response of another one

    def recall(self, lane: str, response_id: str) -> Remembered | None:
        """A remembered response of any lane, unless this lane has lost it."""
        if (lane, response_id) in self._evicted:
            return None
        return next((found for found in self._lanes.values() if found.response_id == response_id), None)

    def remember(self, lane: str, remembered: Remembered) -> None:
        """The lane's last response."""
        self.forget(lane)
        self._lanes[lane] = remembered
        self._grow(remembered.size)
        self._take_back({(lane, remembered.response_id)})

    def forget(self, lane: str) -> None:
        """The lane's last response is not remembered any more."""
        before = self._lanes.pop(lane, None)
        if before is None:
            return
        self._grow(-before.size)
        if all(other.response_id != before.response_id for other in self._lanes.values()):
            self._take_back({evicted for evicted in self._evicted if evicted[1] == before.response_id})

    def evict(self, lane: str, response_id: str) -> None:
        """The lane cannot continue it any more, for as long as another one has it."""
        found = self._lanes.get(lane)
        if found is not None and found.response_id == response_id:
            self.forget(lane)
        if self.recall(lane, response_id) is not None:
            self._evicted.add((lane, response_id))
            self._grow(_ENTRY_BYTES)

    def clear(self) -> None:
        """Everything is forgotten."""
        self._lanes.clear()
        self._evicted.clear()
        self._grow(-self.size)

    def _take_back(self, evicted: set[tuple[str, str]]) -> None:
        evicted &= self._evicted
        self._evicted -= evicted
        self._grow(-_ENTRY_BYTES * len(evicted))

    def _grow(self, by: int) -> None:
        if by:
            self.size += by
            self._on_change(by)
