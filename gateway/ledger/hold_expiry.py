"""Renews the holds of running requests, and voids the holds of gateways that died.

    renew(store, holds, life)             extends the holds of this worker's running requests
    restore(store, holds, life)           reserves them again if the store lost or voided them
    reclaim(store, owner)                 voids the holds of a dead worker, whose lease has lapsed
    expire_holds(store, round_s, life_s)  voids all other holds that nobody has renewed

Both renewal and expiry run every third of `ledger.hold_ttl_s`, so a hold survives two rounds that fail. The store may
stop for longer than that. An expired hold therefore gets a grace period of one round when it is first seen
(`expire_v3`), and admission voids no holds. If a node of a cluster is down, only its own teams wait.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from gateway.billing.settlement import Hold
from gateway.ledger.packed_entry import fingerprint
from gateway.store.keyspace import REAPER_LOCK, TEAMS, TeamKeys
from gateway.store.script import Script
from gateway.store.store import Store, StoreError

RENEW: Final = Script.load("renew_v1")
RESTORE: Final = Script.load("restore_v4")
EXPIRE: Final = Script.load("expire_v3")
RECLAIM: Final = Script.load("reclaim_v2")
_BATCH_SIZE: Final = 200
_RESTORED: Final = 1


async def renew(store: Store, holds: Iterable[Hold], life_ms: str) -> int:
    """Extends the lifetime of open holds, and returns how many holds do not exist any more.

    Raises StoreUnavailable or StoreError when every team has been tried.
    """
    by_team: defaultdict[str, list[str]] = defaultdict(list)
    for hold in holds:
        by_team[hold.team_id].append(hold.id)
    calls = [
        (TeamKeys(team_id).holds, ids[at : at + _BATCH_SIZE])
        for team_id, ids in by_team.items()
        for at in range(0, len(ids), _BATCH_SIZE)
    ]
    gone = sum(len(ids) for _, ids in calls)
    for at in range(0, len(calls), _BATCH_SIZE):
        batch = calls[at : at + _BATCH_SIZE]
        gone -= sum(await _all([store.call(RENEW, [key], [life_ms, *ids]) for key, ids in batch]))
    return gone


async def restore(store: Store, holds: Iterable[Hold], life_ms: str) -> int:
    """Reserves the missing holds of running requests again, and returns how many were missing.

    Requests that were admitted without the store never had a hold. Raises StoreUnavailable or StoreError after every
    hold has been tried.
    """
    known = [hold for hold in holds if not hold.unchecked_secret]
    restored = 0
    for at in range(0, len(known), _BATCH_SIZE):
        replies = await _all([_restore(store, hold, life_ms) for hold in known[at : at + _BATCH_SIZE]])
        restored += replies.count(_RESTORED)
    return restored


async def expire_holds(store: Store, round_s: float, life_s: float) -> int:
    """Voids the expired holds of every team, and returns how many.

    One worker does this in each round of `round_s` seconds. Raises StoreUnavailable, or StoreError after every team has
    been tried.
    """
    if await store.run("SET", REAPER_LOCK, "1", "NX", "PX", str(int(round_s * 900))) is None:
        return 0
    args = [str(_BATCH_SIZE), str(int(round_s * 1000)), str(int(life_s * 1000))]
    expired = 0
    faults: list[StoreError] = []
    async for teams in _teams(store):
        remaining = teams
        while remaining:
            replies = await _all([store.call(EXPIRE, _held_keys(keys), args) for keys in remaining], faults)
            counts = [(0, 0) if reply is None else reply for reply in replies]
            expired += sum(voided for voided, _ in counts)
            remaining = [keys for keys, (_, seen) in zip(remaining, counts, strict=True) if seen == _BATCH_SIZE]
    _raise_first(faults)
    return expired


async def reclaim(store: Store, owner: str) -> int:
    """Voids the holds of a dead worker in every team, and returns how many. Their ids begin with `owner`.

    Raises StoreUnavailable or StoreError after every team has been tried.
    """
    reclaimed = 0
    faults: list[StoreError] = []
    async for teams in _teams(store):
        calls = [store.call(RECLAIM, _held_keys(keys), [owner]) for keys in teams]
        reclaimed += sum(reply for reply in await _all(calls, faults) if reply is not None)
    _raise_first(faults)
    return reclaimed


def _restore(store: Store, hold: Hold, life_ms: str) -> asyncio.Future[Any]:
    names = TeamKeys(hold.team_id)
    return store.call(
        RESTORE,
        [*names.of_request(hold.key_id), names.resolution(hold.id), names.ended(hold.admitted_ms), names.end_users],
        [
            hold.id,
            hold.key_id,
            str(hold.amount_nano_usd),
            str(hold.input_tokens + hold.output_tokens),
            str(hold.admitted_ms),
            life_ms,
            store.run_by_ms(names.team),
            fingerprint(hold.id),
            hold.counted,
        ],
    )


async def _teams(store: Store) -> AsyncIterator[list[TeamKeys]]:
    start = 0
    while team_ids := await store.run("ZRANGE", TEAMS, str(start), str(start + _BATCH_SIZE - 1)):
        start += len(team_ids)
        yield [TeamKeys(raw.decode()) for raw in team_ids]


def _held_keys(keys: TeamKeys) -> list[str]:
    return [keys.state, keys.holds, keys.held, keys.journal, keys.end_users]


async def _all(calls: list[asyncio.Future[Any]], refused: list[StoreError] | None = None) -> list[Any]:
    """Waits for all replies. Then raises the first fault, or returns the replies.

    With `refused`, a StoreError is added to that list instead, and its reply is None: one team whose data is damaged
    does not stop the work for the others.
    """
    replies = await asyncio.gather(*calls, return_exceptions=True)
    for at, reply in enumerate(replies):
        if isinstance(reply, StoreError) and refused is not None:
            refused.append(reply)
            replies[at] = None
        elif isinstance(reply, BaseException):
            raise reply
    return replies


def _raise_first(faults: list[StoreError]) -> None:
    if faults:
        raise faults[0]
