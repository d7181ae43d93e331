"""Settlements that the store has taken and may still lose: kept until its replicas have them too.

    keep(keys, args)     a settlement was acknowledged; one append
    look()               a few times a second: what replicas have acknowledged is let go
    lost_ground()        whether another server answers now than the one that acknowledged what is kept
    take()               all that is kept, to be posted again: settlement is idempotent

Replication is asynchronous: what the primary had acknowledged and not passed on dies with it. `ROLE` says how far the
primary is, and how far each replica has said that it is (once a second). All that was acknowledged before the question
lies before the primary's offset in its answer.

Where a node has no replica, what was acknowledged is kept for a moment alone, since a server that is started again may
have lost the last second of its own file. A replica that has just gone may be the next primary: it is waited for.

State that changes: what is kept, by when it was asked about; where replicas were seen last; `dropped`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.store.store import Store
from gateway.store.url import Address

Call = tuple[list[str], list[str]]
"""Keys and arguments of a settlement."""
_WITHOUT_REPLICA_S: Final = 3.0
_REPLICA_GONE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Batch:
    """What was acknowledged before each node was as far as `offsets` says."""

    calls: list[Call]
    offsets: Mapping[Address, int]
    at_s: float


class Unreplicated:
    """One worker's. `limit`: the most settlements that are kept; beyond it the oldest go, and `dropped` counts them."""

    def __init__(self, store: Store, limit: int) -> None:
        self.dropped = 0
        self._store = store
        self._limit = limit
        self._epoch = store.epoch
        self._fresh: list[Call] = []
        self._batches: deque[_Batch] = deque()
        self._replicas_seen_s: dict[Address, float] = {}

    def __len__(self) -> int:
        return len(self._fresh) + sum(len(batch.calls) for batch in self._batches)

    @property
    def is_replicated(self) -> bool:
        """Whether a replica was seen."""
        return bool(self._replicas_seen_s)

    def keep(self, keys: list[str], args: list[str]) -> None:
        """Takes a settlement that the store has acknowledged."""
        if len(self._fresh) < self._limit:
            self._fresh.append((keys, args))
        else:
            self.dropped += 1

    def lost_ground(self) -> bool:
        """Whether a connection was made since this was asked last."""
        before, self._epoch = self._epoch, self._store.epoch
        return before != self._epoch

    def take(self) -> list[Call]:
        """All that is kept; nothing is kept any more."""
        calls = [call for batch in self._batches for call in batch.calls] + self._fresh
        self._batches.clear()
        self._fresh = []
        return calls

    async def look(self) -> None:
        """Lets go of what replicas have. Raises StoreUnavailable or StoreError."""
        if not self._fresh and not self._batches:
            return
        calls, self._fresh = self._fresh, []
        now_s = time.monotonic()
        self._batches.append(_Batch(calls, {}, now_s))  # before the first await: it is kept, whatever happens
        roles = {node: _read_role(reply) for node, reply in (await self._store.ask_nodes("ROLE")).items()}
        if self._batches and self._batches[-1].calls is calls:
            offsets = {node: offset for node, (offset, _) in roles.items()}
            self._batches[-1] = _Batch(calls, offsets, now_s)
        for node, (_, replicas) in roles.items():
            if replicas:
                self._replicas_seen_s[node] = now_s
        while self._batches and self._is_safe(self._batches[0], roles, now_s):
            self._batches.popleft()
        while len(self) > self._limit:
            self.dropped += len(self._batches.popleft().calls)

    def _is_safe(self, batch: _Batch, roles: Mapping[Address, tuple[int, list[int]]], now_s: float) -> bool:
        if not batch.offsets:  # nobody could be asked since
            return False
        for node, offset in batch.offsets.items():
            if node not in roles:  # it is away, and what comes in its place may have less
                return False
            _, replicas = roles[node]
            if replicas:
                waits = min(replicas) < offset
            else:
                seen_s = self._replicas_seen_s.get(node, -_REPLICA_GONE_S)
                waits = now_s - seen_s < _REPLICA_GONE_S or now_s - batch.at_s < _WITHOUT_REPLICA_S
            if waits:
                return False
        return True


def _read_role(reply: Any) -> tuple[int, list[int]]:
    """A primary's offset and those of its replicas; of any other answer nothing is known.

    The reply to ROLE: ["master", offset, [[host, port, offset], ...]].
    """
    match reply:
        case [b"master", int(offset), list(replicas)]:
            return offset, [int(row[2]) for row in replicas]
    return 0, []
