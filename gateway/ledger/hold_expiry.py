"""Renews the holds of running requests, and voids those of gateways that died.

    renew(store, holds, ttl)       extends the holds of this worker's running requests
    expire_holds(store, round_s)   voids expired holds, for teams that admit nothing themselves

Both run every third of `ledger.hold_ttl_s`. A hold therefore survives two failed rounds, and the slots of a dead worker
are free again after one lifetime of a hold. In a cluster, a node that is down delays its own teams only. While the
store was unavailable nobody could renew holds, so a worker that noticed the outage voids nothing for one round after
it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from gateway.billing.settlement import Hold
from gateway.store.keyspace import REAPER_LOCK, TEAMS, TeamKeys
from gateway.store.script import Script
from gateway.store.store import Store

RENEW: Final = Script.load("renew_v1")
EXPIRE: Final = Script.load("expire_v1")
_BATCH_SIZE: Final = 200


async def renew(store: Store, holds: Iterable[Hold], ttl_ms: str) -> None:
    """Extends the expiry of open holds.

    Tries every team, and then raises StoreUnavailable or StoreError if one failed.
    """
    by_team: defaultdict[str, list[str]] = defaultdict(list)
    for hold in holds:
        by_team[hold.team_id].append(hold.id)
    calls = [
        (TeamKeys(team_id).holds, ids[at : at + _BATCH_SIZE])
        for team_id, ids in by_team.items()
        for at in range(0, len(ids), _BATCH_SIZE)
    ]
    for at in range(0, len(calls), _BATCH_SIZE):
        await _all([store.call(RENEW, [key], [ttl_ms, *ids]) for key, ids in calls[at : at + _BATCH_SIZE]])


async def expire_holds(store: Store, round_s: float) -> int:
    """Voids the expired holds of every team and returns their number.

    One worker does this per round of `round_s` seconds.

    Raises StoreUnavailable or StoreError.
    """
    if await store.run("SET", REAPER_LOCK, "1", "NX", "PX", str(int(round_s * 900))) is None:
        return 0
    start, expired = 0, 0
    while team_ids := await store.run("ZRANGE", TEAMS, str(start), str(start + _BATCH_SIZE - 1)):
        start += len(team_ids)
        teams = [TeamKeys(raw.decode()) for raw in team_ids]
        while teams:
            calls = [
                store.call(EXPIRE, [keys.state, keys.holds, keys.held, keys.journal], [str(_BATCH_SIZE)])
                for keys in teams
            ]
            voided = await _all(calls)
            expired += sum(voided)
            teams = [keys for keys, count in zip(teams, voided, strict=True) if count == _BATCH_SIZE]
    return expired


async def _all(calls: list[asyncio.Future[Any]]) -> list[Any]:
    """Waits for all replies. Then raises the first fault, or returns the replies."""
    replies = await asyncio.gather(*calls, return_exceptions=True)
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies
