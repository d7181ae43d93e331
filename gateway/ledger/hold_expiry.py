"""What keeps holds true while nobody looks: running requests keep theirs, dead gateways lose theirs.

    renew(store, holds, ttl)       the holds of this worker's running requests live on
    expire_holds(store, round_s)   voids the holds of gateways that died, for teams that admit nothing themselves

Both are done every third of `ledger.hold_ttl_s`: a hold survives two rounds that fail, and a dead worker's slots come
back within its life. A node of a cluster that is down holds up its own teams alone. When the store was away,
nobody could renew: for one round after its return, a worker that saw it go voids nothing.
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
        await _all([store.call(RENEW, [key], [ttl_ms, *ids]) for key, ids in calls[at : at + _BATCH_SIZE]])


async def expire_holds(store: Store, round_s: float) -> int:
    """Voids what has expired, of every team; how many. One worker does it in each round of `round_s` seconds.

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
    """The replies to all calls, once each has one; then raises the first fault."""
    replies = await asyncio.gather(*calls, return_exceptions=True)
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies
