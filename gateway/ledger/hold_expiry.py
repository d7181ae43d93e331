"""Renews the holds of running requests, and voids those of gateways that died.

    renew(store, holds, life)             the holds of this worker's running requests live on
    restore(store, holds, life)           they are there again, where the store lost them or gave them back
    reclaim(store, owner)                 what a dead worker held is given back; its lease told of its death
    expire_holds(store, round_s, life_s)  the same for what no lease told of: holds that nobody has renewed

Renewing and expiring are done every third of `ledger.hold_ttl_s`: a hold survives two rounds that fail. The store may
stand still for longer than that: a hold that is over gets a round's grace at first sight (`expire_v2`), and admission
voids none. A node of a cluster that is down holds up its own teams alone.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from gateway.billing.settlement import Hold
from gateway.store.keyspace import REAPER_LOCK, TEAMS, TeamKeys
from gateway.store.script import Script
from gateway.store.store import Store

RENEW: Final = Script.load("renew_v1")
RESTORE: Final = Script.load("restore_v1")
EXPIRE: Final = Script.load("expire_v2")
RECLAIM: Final = Script.load("reclaim_v1")
_BATCH_SIZE: Final = 200
_RESTORED: Final = 1


async def renew(store: Store, holds: Iterable[Hold], life_ms: str) -> None:
    """Moves the expiry of open holds on. Raises StoreUnavailable or StoreError when every team has been tried."""
    by_team: defaultdict[str, list[str]] = defaultdict(list)
    for hold in holds:
        by_team[hold.team_id].append(hold.id)
    calls = [
        (TeamKeys(team_id).holds, ids[at : at + _BATCH_SIZE])
        for team_id, ids in by_team.items()
        for at in range(0, len(ids), _BATCH_SIZE)
    ]
    for at in range(0, len(calls), _BATCH_SIZE):
        await _all([store.call(RENEW, [key], [life_ms, *ids]) for key, ids in calls[at : at + _BATCH_SIZE]])


async def restore(store: Store, holds: Iterable[Hold], life_ms: str) -> int:
    """Reserves again what running requests have reserved, where it is gone; how many it was of.

    Raises StoreUnavailable or StoreError when every hold has been tried. What was admitted without the store was never
    reserved.
    """
    known = [hold for hold in holds if not hold.unchecked_secret]
    restored = 0
    for at in range(0, len(known), _BATCH_SIZE):
        replies = await _all([_restore(store, hold, life_ms) for hold in known[at : at + _BATCH_SIZE]])
        restored += replies.count(_RESTORED)
    return restored


async def expire_holds(store: Store, round_s: float, life_s: float) -> int:
    """Voids what is over, of every team; how many. One worker does it in each round of `round_s` seconds.

    Raises StoreUnavailable or StoreError.
    """
    if await store.run("SET", REAPER_LOCK, "1", "NX", "PX", str(int(round_s * 900))) is None:
        return 0
    args = [str(_BATCH_SIZE), str(int(round_s * 1000)), str(int(life_s * 1000))]
    expired = 0
    async for teams in _teams(store):
        rest = teams
        while rest:
            replies = await _all([store.call(EXPIRE, _held_keys(keys), args) for keys in rest])
            expired += sum(voided for voided, _ in replies)
            rest = [keys for keys, (_, seen) in zip(rest, replies, strict=True) if seen == _BATCH_SIZE]
    return expired


async def reclaim(store: Store, owner: str) -> int:
    """Voids what a dead worker held, of every team: holds whose ids begin with `owner`. How many it was.

    Raises StoreUnavailable or StoreError when every team has been tried.
    """
    reclaimed = 0
    async for teams in _teams(store):
        reclaimed += sum(await _all([store.call(RECLAIM, _held_keys(keys), [owner]) for keys in teams]))
    return reclaimed


def _restore(store: Store, hold: Hold, life_ms: str) -> asyncio.Future[Any]:
    names = TeamKeys(hold.team_id)
    return store.call(
        RESTORE,
        [*names.of_request(hold.key_id), names.resolution(hold.id)],
        [
            hold.id,
            hold.key_id,
            str(hold.amount_nano_usd),
            str(hold.input_tokens + hold.output_tokens),
            str(hold.admitted_ms),
            life_ms,
            store.run_by_ms(names.team),
        ],
    )


async def _teams(store: Store) -> AsyncIterator[list[TeamKeys]]:
    start = 0
    while team_ids := await store.run("ZRANGE", TEAMS, str(start), str(start + _BATCH_SIZE - 1)):
        start += len(team_ids)
        yield [TeamKeys(raw.decode()) for raw in team_ids]


def _held_keys(keys: TeamKeys) -> list[str]:
    return [keys.state, keys.holds, keys.held, keys.journal]


async def _all(calls: list[asyncio.Future[Any]]) -> list[Any]:
    """Waits for all replies. Then raises the first fault, or returns the replies."""
    replies = await asyncio.gather(*calls, return_exceptions=True)
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies
