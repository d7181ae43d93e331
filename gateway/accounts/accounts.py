"""Teams, keys and credits in the store: the operations that admins use. They are not on the warm path.

    create_team, teams, team, update_team        names are unique; a team is found by its id or its name
    create_key, keys, key, find_key, update_key  creation returns the secret, of which only the SHA-256 is stored
    move_credits                                 grants or adjusts credits, once per idempotency key
    view, views                                  the enforced limits with their current usage

A creation with an idempotency key first stores a claim: `gw:made:<sha256>` -> id, digest of the request, salt. A
repeated request finds the claim and returns the same object. It completes the object first where the earlier request
died before it had finished.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Final

from gateway.accounts.entities import (
    LIMITS,
    SECRET_FIELD,
    Account,
    Balance,
    Changes,
    Key,
    SecretState,
    Team,
    View,
    read_key,
    read_team,
    read_view,
)
from gateway.accounts.idempotency import IdempotencyKey, claim, mismatch
from gateway.billing.money import MAX_NANO_USD, format_usd
from gateway.errors import GatewayError
from gateway.identity.api_keys import is_id, new_id, new_secret
from gateway.store.keyspace import KEY_TEAMS, TEAM_NAMES, TEAMS, TeamKeys, creation
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import Store
from gateway.types import Page

__all__ = [
    "LIMITS",
    "Account",
    "Accounts",
    "Balance",
    "Changes",
    "IdempotencyKey",
    "Key",
    "Page",
    "SecretState",
    "Team",
    "View",
]

CONFIG: Final = Script.load("config_v1")
CREDIT: Final = Script.load("credit_v1")
VIEW: Final = Script.load("view_v2")
_BATCH_SIZE: Final = 500


class Accounts:
    """Teams, keys and credits in one store.

    Raises GatewayError, with `store_unavailable` if the store is unavailable.
    """

    def __init__(self, store: Store, *, idempotency_ttl_s: int, journal_retention_s: int, burst: float) -> None:
        self._store = store
        self._idempotency_ttl_ms = idempotency_ttl_s * 1000
        self._burst = str(round(burst * 1000))
        self._journal_retention_ms = journal_retention_s * 1000

    # teams

    async def create_team(self, changes: Changes, idempotency_key: IdempotencyKey | None = None) -> Team:
        """Creates a team. Raises `already_exists` if the name is taken, and `idempotency_mismatch`."""
        team_id = new_id()
        if idempotency_key is not None:
            team_id, _ = await claim(
                self._store, creation(idempotency_key.key), team_id, idempotency_key, self._idempotency_ttl_ms
            )
        owner = await self._take_name(changes.name or "", team_id)
        # A name that is taken by a team without a hash belongs to a creation that died. This creation completes it.
        if owner != team_id:
            if await self._find_team(owner) is not None:
                raise _name_taken(changes.name or "")
            team_id = owner
        fields = {"status": "active", "metered": "1", **changes.fields()}
        await self._configure([TeamKeys(team_id).team], "create", "", "", fields)
        team = await self.team(team_id)
        await self._run("ZADD", TEAMS, str(team.created_ms), team_id)
        return team

    async def team_ids(self, limit: int, after: str | None = None) -> tuple[list[str], str | None]:
        """Returns ids of teams in order of creation, and the next cursor.

        Raises `invalid_field` for an unknown cursor.
        """
        return await self._page(TEAMS, limit, after)

    async def count(self) -> int:
        """Returns the number of teams."""
        return int(await self._run("ZCARD", TEAMS))

    async def names(self, subjects: Sequence[tuple[str, str | None]]) -> list[str | None]:
        """Returns the names of (team id, key id) pairs.

        A key id of None asks for the team's name; a deleted subject gives None.
        """
        found: list[str | None] = []
        for at in range(0, len(subjects), _BATCH_SIZE):
            part = [(TeamKeys(team_id), key_id) for team_id, key_id in subjects[at : at + _BATCH_SIZE]]
            calls = [
                self._store.run("HGET", keys.key(key_id) if key_id else keys.team, "name") for keys, key_id in part
            ]
            found += [None if name is None else name.decode() for name in await gather(calls)]
        return found

    async def teams(self, limit: int = 1000, after: str | None = None) -> Page[Team]:
        """Returns one page of teams in order of creation. Raises `invalid_field` for an unknown cursor."""
        ids, cursor = await self.team_ids(limit, after)
        hashes = await self._hashes([TeamKeys(team_id).team for team_id in ids])
        found = (read_team(team_id, stored) for team_id, stored in zip(ids, hashes, strict=True) if stored)
        return Page(tuple(found), cursor)

    async def team(self, name_or_id: str) -> Team:
        """Returns a team by id or name. Raises `team_not_found`."""
        if is_id(name_or_id):
            team = await self._find_team(name_or_id)
            if team is not None:
                return team
        owner = await self._run("HGET", TEAM_NAMES, name_or_id)
        team = await self._find_team(owner.decode()) if owner is not None else None
        if team is None:
            raise GatewayError("team_not_found", f"There is no team {name_or_id!r}.")
        return team

    async def update_team(self, team: Team, changes: Changes, *, version: int | None = None) -> Team:
        """Changes a team.

        The change applies from the team's next request on. Raises `version_mismatch`, `already_exists`.
        """
        renamed = changes.name is not None and changes.name != team.name
        if renamed and await self._take_name(changes.name or "", team.id) != team.id:
            raise _name_taken(changes.name or "")
        try:
            await self._configure([TeamKeys(team.id).team], "update", _version_text(version), "", changes.fields())
        except GatewayError:
            if renamed:
                await self._run("HDEL", TEAM_NAMES, changes.name or "")
            raise
        if renamed:
            await self._run("HDEL", TEAM_NAMES, team.name)
        return await self.team(team.id)

    # keys

    async def create_key(
        self, team: Team, changes: Changes, idempotency_key: IdempotencyKey | None = None
    ) -> tuple[Key, str]:
        """Creates a key of a team and returns it with its text, which is not stored.

        A repeated request returns the same text. It returns "" if the secret was rotated away or the pepper has changed
        since.
        """
        keys = TeamKeys(team.id)
        key_id, seed = new_id(), None
        if idempotency_key is not None:
            key_id, salt = await claim(
                self._store, keys.creation(idempotency_key.key), key_id, idempotency_key, self._idempotency_ttl_ms
            )
            seed = idempotency_key.seed(salt)
        text, secret_hash = new_secret(team.id, key_id, seed)
        fields = {"status": "active", **changes.fields(), SECRET_FIELD + secret_hash: "0"}
        await self._run("HSETNX", KEY_TEAMS, key_id, team.id)
        await self._configure([keys.key(key_id), keys.keys], "create", "", key_id, fields)
        key = await self.key(team, key_id)
        return key, text if any(secret.sha256 == secret_hash for secret in key.secrets) else ""

    async def keys(self, team: Team, limit: int = 1000, after: str | None = None) -> Page[Key]:
        """Returns one page of a team's keys in order of creation. Raises `invalid_field` for an unknown cursor."""
        names = TeamKeys(team.id)
        ids, cursor = await self._page(names.keys, limit, after)
        hashes = await self._hashes([names.key(key_id) for key_id in ids])
        found = (read_key(team.id, key_id, stored) for key_id, stored in zip(ids, hashes, strict=True) if stored)
        return Page(tuple(found), cursor)

    async def key(self, team: Team, key_id: str) -> Key:
        """Returns one key of a team. Raises `key_not_found`."""
        stored = (await self._hashes([TeamKeys(team.id).key(key_id)]))[0] if is_id(key_id) else {}
        if not stored:
            raise GatewayError("key_not_found", f"The team {team.name!r} has no key {key_id!r}.")
        return read_key(team.id, key_id, stored)

    async def find_key(self, key_id: str) -> tuple[Team, Key]:
        """Returns a key and its team, by the key's id alone. Raises `key_not_found`."""
        owner = await self._run("HGET", KEY_TEAMS, key_id)
        team = await self._find_team(owner.decode()) if owner is not None else None
        if team is None:
            raise GatewayError("key_not_found", f"There is no key {key_id!r}.")
        return team, await self.key(team, key_id)

    async def update_key(self, team: Team, key: Key, changes: Changes, *, version: int | None = None) -> Key:
        """Changes a key. The change applies from the key's next request on.

        Raises `version_mismatch`, and `not_allowed` if a revoked key would become active again.
        """
        await self._configure([TeamKeys(team.id).key(key.id)], "update", _version_text(version), "", changes.fields())
        return await self.key(team, key.id)

    # credits and enforced limits

    async def move_credits(
        self, team: Team, kind: str, amount_nano_usd: int, *, note: str = "", idempotency_key: str | None = None
    ) -> Balance:
        """Grants (amount > 0) or adjusts (either sign) a team's credits, once per idempotency key.

        Raises `idempotency_mismatch` for an idempotency key that belongs to another movement, and `invalid_field` if
        the balance would pass its upper bound.
        """
        keys = TeamKeys(team.id)
        movement = uuid.uuid4().hex
        lives = [str(self._idempotency_ttl_ms), str(self._journal_retention_ms)]
        call = self._store.call(
            CREDIT,
            [keys.team, keys.state, keys.journal, keys.grant(idempotency_key or movement)],
            [kind, str(amount_nano_usd), movement, note, str(MAX_NANO_USD), *lives],
        )
        reply = (await gather([call]))[0]
        if reply[0] == 0:
            raise GatewayError("team_not_found", f"There is no team {team.name!r}.")
        if reply[0] == -1:
            raise mismatch()
        if reply[0] == -2:  # noqa: PLR2004 - a status code of the script
            raise GatewayError(
                "invalid_field", f"A team can hold {format_usd(MAX_NANO_USD)} USD at most.", param="amount_usd"
            )
        return (await self.view(team)).balance

    async def view(self, team: Team, key_id: str | None = None) -> View:
        """Returns the limits, their usage and the balance, computed by the same Lua functions that enforce them."""
        return (await self.views([(team.id, key_id)]))[0]

    async def views(self, subjects: Sequence[tuple[str, str | None]]) -> list[View]:
        """Returns the views of many (team id, key id or None) pairs in one round trip."""
        calls = []
        for team_id, key_id in subjects:
            keys = TeamKeys(team_id)
            names = [keys.team, keys.state]
            names += [keys.key(key_id)] if key_id else []
            calls.append(self._store.call(VIEW, names, [key_id or "", self._burst]))
        return [read_view(reply) for reply in await gather(calls)]

    # the store

    async def _take_name(self, name: str, team_id: str) -> str:
        """Reserves a team name if it is free. Returns the id of the team that owns the name afterwards."""
        if await self._run("HSETNX", TEAM_NAMES, name, team_id):
            return team_id
        owner: bytes = await self._run("HGET", TEAM_NAMES, name)
        return owner.decode()

    async def _find_team(self, team_id: str) -> Team | None:
        stored = (await self._hashes([TeamKeys(team_id).team]))[0]
        return read_team(team_id, stored) if stored else None

    async def _page(self, name: str, limit: int, after: str | None) -> tuple[list[str], str | None]:
        start = 0
        if after is not None:
            rank = await self._run("ZRANK", name, after)
            if rank is None:
                raise GatewayError("invalid_field", f"There is no cursor {after!r}.", param="after")
            start = rank + 1
        ids = [raw.decode() for raw in await self._run("ZRANGE", name, str(start), str(start + limit))]
        return ids[:limit], ids[limit - 1] if len(ids) > limit else None

    async def _configure(self, keys: list[str], mode: str, version: str, member: str, fields: dict[str, str]) -> None:
        flat = [word for pair in fields.items() for word in pair]
        status, now = (await gather([self._store.call(CONFIG, keys, [mode, version, member, *flat])]))[0]
        if status == -2:  # noqa: PLR2004 - a status code of the script
            raise GatewayError("version_mismatch", f"It was changed in the meantime: its version is now {now}.")
        if status == -3:  # noqa: PLR2004 - a status code of the script
            raise GatewayError("not_allowed", "This key is permanently revoked. Create a new one.", param="status")

    async def _hashes(self, names: Sequence[str]) -> list[dict[str, str]]:
        """Reads several hashes in one round trip. A hash that does not exist is returned empty."""
        out = []
        for flat in await gather([self._store.run("HGETALL", name) for name in names]):
            words = [word.decode() for word in flat]
            out.append(dict(zip(words[::2], words[1::2], strict=True)))
        return out

    async def _run(self, *command: str) -> Any:
        return (await gather([self._store.run(*command)]))[0]


def _version_text(version: int | None) -> str:
    return "" if version is None else str(version)


def _name_taken(name: str) -> GatewayError:
    return GatewayError("already_exists", f"There is a team {name!r} already.", param="name")
