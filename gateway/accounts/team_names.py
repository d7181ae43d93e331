"""Names of teams. Each name has one owner, even if a worker or the store dies in the middle of a change.

A team's hash has its name. `gw:team-names` is an index of the names. It may lag behind, so its readers check the team's
hash. A change of names has three steps, in up to three slots of a cluster:

    reserve   reserves the team's new name and its old one for this change, for LEASE_S
    change    changes the team's hash, by one script that refuses to run after half of that time
    commit    changes the index, and ends the reservations

A change that dies leaves its reservations. When they have lapsed, the change can no longer run, so the team's hash has
its result. The next worker that finds a reservation repairs the index and the list of teams accordingly. Wrong entries
of an older version are replaced when a team requests their name, or when their team is listed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.store.keyspace import NAME_CHANGES, TEAM_NAMES, TEAMS, TeamKeys
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import Store

NAMES: Final = Script.load("names_v1")
LEASE_S: Final = 3.0
"""The maximum duration of a change. After it, names that a dead change has reserved are free."""
_MAX_WAIT_LEASES: Final = 2.0  # how long a change waits for others, as a multiple of the lease
_PAUSE_S: Final = (0.005, 0.05)


class Reservation:
    """Names that one change has reserved for a team."""

    def __init__(self, store: Store, team_id: str, names: Sequence[str], lease_s: float) -> None:
        self.token = secrets.token_hex(8)
        self._store = store
        self._team_id = team_id
        self._names = names
        self._lease_s = lease_s
        self._since_s = time.monotonic()

    @property
    def run_by_ms(self) -> str:
        """The latest time at which the team's hash may be changed, by the clock of its node."""
        left_s = self._since_s + self._lease_s / 2 - time.monotonic()
        return self._store.run_by_ms(TeamKeys(self._team_id).team, left_s)

    async def commit(self, name: str, old_name: str = "") -> None:
        """Gives the team `name` and frees `old_name`. Raises GatewayError `store_unavailable`."""
        await self._run("commit", self.token, self._team_id, name, old_name)

    async def release(self) -> None:
        """Ends the reservation without a change. Raises GatewayError `store_unavailable`."""
        await self._run("release", self.token, *self._names)

    async def reserve(self) -> list[Any]:
        """Reserves all names in one call, and returns the reply of the script."""
        self._since_s = time.monotonic()
        life_ms = str(int(self._lease_s * 1000))
        reply: list[Any] = await self._run("reserve", self.token, life_ms, self._team_id, *self._names)
        return reply

    async def _run(self, *args: str) -> Any:
        return (await gather([self._store.call(NAMES, [TEAM_NAMES, NAME_CHANGES], args)]))[0]


class TeamNames:
    """The names of the teams in one store. Raises GatewayError `store_unavailable` if the store is unavailable."""

    def __init__(self, store: Store, *, lease_s: float = LEASE_S) -> None:
        self._store = store
        self._lease_s = lease_s

    async def owner(self, name: str) -> str | None:
        """Returns the id of the team that has this name, or None."""
        indexed, text, dead = await self._run("look", name)
        if dead:
            await self._repair(name, text.decode())
        for team_id in dict.fromkeys(_ids(indexed, text)):
            if await self._has_name(team_id, name):
                return team_id
        return None

    @contextlib.asynccontextmanager
    async def reserved(self, team_id: str, new_name: str, *old_names: str) -> AsyncIterator[Reservation]:
        """Reserves a team's new name, and the old names that it gives up.

        If the block raises a refusal, the names are released. After an outage of the store it is not known whether the
        team was changed. The reservation then remains until it lapses. Raises `already_exists`, and
        `request_in_progress` if other changes take too long.
        """
        names = tuple(dict.fromkeys(name for name in (new_name, *old_names) if name))
        reservation = Reservation(self._store, team_id, names, self._lease_s)
        owners = await self._reserve(reservation)
        try:
            if new_name:
                await self._refuse_taken(new_name, owners[names.index(new_name)], team_id)
            yield reservation
        except GatewayError as error:
            if error.code != "store_unavailable":
                with contextlib.suppress(GatewayError):
                    await reservation.release()
            raise

    async def repair(self) -> None:
        """Repairs the index after all changes that have died."""
        dead = [raw.decode() for raw in await self._run("dead")]
        for name, text in zip(dead[::2], dead[1::2], strict=True):
            await self._repair(name, text)

    async def heal(self, teams: Sequence[tuple[str, str]]) -> None:
        """Corrects the index by (team id, name) pairs, which come from the teams' hashes."""
        if not teams:
            return
        [owners] = await gather([self._store.run("HMGET", TEAM_NAMES, *(name for _, name in teams))])
        for (team_id, name), raw in zip(teams, owners, strict=True):
            owner = raw.decode() if raw is not None else ""
            if owner != team_id and not (owner and await self._has_name(owner, name)):
                await self._run("heal", name, owner, team_id)

    async def _reserve(self, reservation: Reservation) -> list[str]:
        """Returns the present owners of the names according to the index."""
        deadline_s = time.monotonic() + _MAX_WAIT_LEASES * self._lease_s
        while True:
            status, *rest = await reservation.reserve()
            if status == 1:
                return [owner.decode() for owner in rest]
            name, text, left_ms = rest[0].decode(), rest[1].decode(), rest[2]
            if status < 0:
                await self._repair(name, text)
            elif time.monotonic() > deadline_s:
                raise GatewayError(
                    "request_in_progress",
                    f"The name {name!r} is being changed by others.",
                    param="name",
                    wait_ms=left_ms,
                )
            else:
                await asyncio.sleep(min(left_ms / 1000, random.uniform(*_PAUSE_S)))  # noqa: S311 - spreads load

    async def _refuse_taken(self, name: str, owner: str, team_id: str) -> None:
        if owner not in ("", team_id) and await self._has_name(owner, name):
            raise GatewayError("already_exists", f"There is a team {name!r} already.", param="name")

    async def _repair(self, name: str, text: str) -> None:
        team_id = text.split(" ")[2]
        stored = (await gather([self._store.run("HMGET", TeamKeys(team_id).team, "name", "status", "created_ms")]))[0]
        owner = team_id if _has_this_name(stored, name) else ""
        if owner:
            await gather([self._store.run("ZADD", TEAMS, "NX", stored[2].decode(), team_id)])
        await self._run("repair", name, text, owner)

    async def _has_name(self, team_id: str, name: str) -> bool:
        reply = await gather([self._store.run("HMGET", TeamKeys(team_id).team, "name", "status")])
        return _has_this_name(reply[0], name)

    async def _run(self, *args: str) -> Any:
        return (await gather([self._store.call(NAMES, [TEAM_NAMES, NAME_CHANGES], args)]))[0]


def _ids(indexed: bytes, text: bytes) -> list[str]:
    return [raw.decode() for raw in (indexed, text.split(b" ")[2] if text else b"") if raw]


def _has_this_name(stored: Sequence[bytes | None], name: str) -> bool:
    return stored[0] == name.encode() and stored[1] != b"archived"
