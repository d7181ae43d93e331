"""Finds teams and keys that something still names, although they were evicted or deleted by hand.

    what names it                                what must exist         difference, expected 1, found 0
    gw:teams, gw:team-names, gw:key-teams        the team's hash         team
    the team's hash, gw:team-names               its place in gw:teams   listed
    gw:key-teams                                 the key's hash          key:<id>, if the team's list also lacks it

`verification` finds missing keys that the team's list, its counters or its journal name. Interrupted changes by an
admin are repaired first, because nothing is missing there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from gateway.accounts.team_names import TeamNames
from gateway.ledger.verification import Difference, Verification
from gateway.store.keyspace import CREATING, KEY_TEAMS, TEAM_NAMES, TEAMS, TeamKeys
from gateway.store.replies import gather, gather_pages
from gateway.store.script import Script
from gateway.store.store import Store

FORGET: Final = Script.load("forget_v1")
_BATCH_SIZE: Final = 500


class Missing(NamedTuple):
    """A team of which something is missing. `name` is "" if it is unknown."""

    name: str
    verification: Verification


async def find_missing(store: Store) -> list[Missing]:
    """Looks through all teams. Raises GatewayError `store_unavailable`."""
    await TeamNames(store).repair()
    names = {team_id: name for name, team_id in (await _hash(store, TEAM_NAMES)).items()}
    keys: defaultdict[str, list[str]] = defaultdict(list)
    for key_id, team_id in (await _hash(store, KEY_TEAMS)).items():
        if team_id.endswith(CREATING):
            await _forget_unless_created(store, team_id.removesuffix(CREATING), key_id)
        else:
            keys[team_id].append(key_id)
    listed = {raw.decode() for raw in (await gather([store.run("ZRANGE", TEAMS, "0", "-1")]))[0]}
    named = sorted(listed | set(names) | set(keys))
    there = await _exist(store, [TeamKeys(team_id).team for team_id in named])
    found = []
    for team_id, exists in zip(named, there, strict=True):
        differences = []
        if not exists:
            differences.append(Difference("team", 1, 0))
        elif team_id not in listed:
            differences.append(Difference("listed", 1, 0))
        differences += [Difference(f"key:{key_id}", 1, 0) for key_id in await _lost_keys(store, team_id, keys[team_id])]
        if differences:
            found.append(
                Missing(
                    names.get(team_id, ""), Verification(team_id, 0, complete=False, differences=tuple(differences))
                )
            )
    return found


async def _forget_unless_created(store: Store, team_id: str, key_id: str) -> None:
    """Repairs the index after an interrupted creation of a key. A creation that still runs writes its entry again."""
    if await _exist(store, [TeamKeys(team_id).key(key_id)]) == [True]:
        await gather([store.run("HSET", KEY_TEAMS, key_id, team_id)])
    else:
        await gather([store.call(FORGET, [KEY_TEAMS], [key_id, team_id + CREATING])])


async def _lost_keys(store: Store, team_id: str, key_ids: Sequence[str]) -> list[str]:
    """Returns those of a team's keys that neither have a hash nor are in its list."""
    if not key_ids:
        return []
    names = TeamKeys(team_id)
    there = await _exist(store, [names.key(key_id) for key_id in key_ids])
    gone = [key_id for key_id, exists in zip(key_ids, there, strict=True) if not exists]
    places = await gather([store.run("ZSCORE", names.keys, key_id) for key_id in gone])
    return [key_id for key_id, place in zip(gone, places, strict=True) if place is None]


async def _exist(store: Store, names: Sequence[str]) -> list[bool]:
    return [reply == 1 for reply in await gather_pages(store, [partial(store.run, "EXISTS", name) for name in names])]


async def _hash(store: Store, name: str) -> dict[str, str]:
    """Reads a large hash page by page."""
    found: dict[str, str] = {}
    cursor: Any = b"0"
    while True:
        cursor, flat = (await gather([store.run("HSCAN", name, cursor, "COUNT", str(_BATCH_SIZE))]))[0]
        found |= _pairs(flat)
        if int(cursor) == 0:
            return found


def _pairs(flat: Iterable[bytes]) -> dict[str, str]:
    words = [raw.decode() for raw in flat]
    return dict(zip(words[::2], words[1::2], strict=True))
