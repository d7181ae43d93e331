"""Keeps settlements that the store has acknowledged but may still lose, until its replicas have them too.

    keep(keys, args, epoch)   adds an acknowledged settlement; costs one append
    drop_replicated()         runs a few times per second, and drops what the replicas have acknowledged
    may_have_lost             whether the present server may lack settlements, because connections were made since
    take()                    removes and returns all settlements, to be posted again; settlement is idempotent
    put_back(calls)           keeps settlements again that were taken and could not be posted

Replication is asynchronous: what the primary has acknowledged but not yet replicated is lost with it. The reply of
`ROLE` contains the primary's offset and the offset that each replica has reported (once per second). Everything that
was acknowledged before the command was sent lies before the primary's offset in its reply.

If a node has no replica, acknowledged settlements are kept for only a moment, because a restarted server may have lost
the last second of its own file. A replica that has just disconnected may be the next primary, so it is waited for.

A settlement that was sent on one connection may be acknowledged after another connection was made, because a former
primary still answers what it received before Sentinel named its successor. Its epoch is then the earlier one, and the
present server may lack it too.

Mutable: the kept settlements in batches, the epoch of the connections that acknowledged them, when each node was last
seen with replicas, and `dropped`.
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
"""The keys and arguments of a settlement."""
_WITHOUT_REPLICA_S: Final = 3.0
_REPLICA_GONE_S: Final = 60.0
_NO_EPOCH: Final = -1


@dataclass(frozen=True, slots=True)
class _Batch:
    """Settlements that were acknowledged before each node reached the offset in `offsets`."""

    calls: list[Call]
    offsets: Mapping[Address, int]
    at_s: float


class Unreplicated:
    """The settlements that one worker keeps. Beyond `limit` the oldest are dropped, and `dropped` counts them."""

    def __init__(self, store: Store, limit: int) -> None:
        self.dropped = 0
        self._store = store
        self._limit = limit
        self._epoch = store.epoch
        self._new: list[Call] = []
        self._batches: deque[_Batch] = deque()
        self._replicas_seen_s: dict[Address, float] = {}

    def __len__(self) -> int:
        return len(self._new) + sum(len(batch.calls) for batch in self._batches)

    @property
    def may_have_lost(self) -> bool:
        """Whether the present server may lack kept settlements, because it may be another one."""
        return self._epoch != self._store.epoch

    def keep(self, keys: list[str], args: list[str], epoch: int) -> None:
        """Adds an acknowledged settlement. `epoch`: the store's epoch when it was sent."""
        if epoch != self._store.epoch:
            self._epoch = epoch
        if len(self._new) < self._limit:
            self._new.append((keys, args))
        else:
            self.dropped += 1

    def take(self) -> list[Call]:
        """Removes and returns all settlements. Those that are kept from now on belong to the present server."""
        calls = [call for batch in self._batches for call in batch.calls] + self._new
        self._batches.clear()
        self._new = []
        self._epoch = self._store.epoch
        return calls

    def put_back(self, calls: list[Call]) -> None:
        """Keeps settlements again that were taken and have not been posted."""
        self._new = calls + self._new
        self._epoch = _NO_EPOCH

    async def wait_for_replicas(self, timeout_ms: int) -> bool:
        """Waits until a replica of each node has everything that the node acknowledged. Returns whether it has.

        Returns True at once if there are no replicas. Raises StoreUnavailable or StoreError.
        """
        if not self._replicas_seen_s or not len(self):
            return True
        replies = await self._store.run_on_nodes("WAIT", "1", timeout_ms)
        return not self.may_have_lost and all(reply >= 1 for reply in replies.values())

    async def drop_replicated(self) -> None:
        """Drops the settlements that the replicas have. Raises StoreUnavailable or StoreError."""
        if not self._new and not self._batches:
            return
        calls, self._new = self._new, []
        now_s = time.monotonic()
        self._batches.append(_Batch(calls, {}, now_s))  # before the first await, so that the batch cannot be lost
        roles = {node: _read_role(reply) for node, reply in (await self._store.run_on_nodes("ROLE")).items()}
        if self.may_have_lost:  # the offsets are those of a server that may lack the settlements
            return
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
        if not batch.offsets:  # no node has answered since
            return False
        for node, offset in batch.offsets.items():
            if node not in roles:  # the node is unavailable, and its successor may have less
                return False
            _, replicas = roles[node]
            if replicas:
                is_missing = min(replicas) < offset
            else:
                seen_s = self._replicas_seen_s.get(node, -_REPLICA_GONE_S)
                is_missing = now_s - seen_s < _REPLICA_GONE_S or now_s - batch.at_s < _WITHOUT_REPLICA_S
            if is_missing:
                return False
        return True


def _read_role(reply: Any) -> tuple[int, list[int]]:
    """Returns a primary's offset and those of its replicas, given the reply to ROLE.

    The reply of a primary is ["master", offset, [[host, port, offset], ...]]. Any other reply yields nothing.
    """
    match reply:
        case [b"master", int(offset), list(replicas)]:
            return offset, [int(row[2]) for row in replicas]
    return 0, []
