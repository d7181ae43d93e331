"""Teams, keys and credits in the store: the operations that admins use. They are not on the warm path.

    create_team, teams, team, update_team        names are unique; a team is found by its id or its name
    create_key, keys, key, find_key, update_key  creation returns the secret, of which only the SHA-256 is stored
    move_credits                                 grants or adjusts credits, once per idempotency key
    view, views                                  the enforced limits with their current usage

Each change of a team or a key is one script. The names of teams, the list of teams, and the list key -> team are in
other slots of a cluster. They are indexes: they are written separately, checked against the team when they are read,
and repaired if a change died in between (team_names.py). `gw:key-teams` marks a key that is being created until its
team has it.

A creation with an idempotency key first stores a claim: `gw:made:<sha256>` -> id, digest of the request, salt. A
repeated request finds the claim and returns the same object. If the earlier request died before it had finished, the
repeat completes the object first.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from gateway.accounts.authority import operator_fields, refuse_lifting_overrides
from gateway.accounts.credits import MAX_LOTS, Movement, post_movement
from gateway.accounts.entities import (
    ARCHIVED,
    ENDED,
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
)
from gateway.accounts.idempotency import IdempotencyKey, claim
from gateway.accounts.records import Records, Status, flat
from gateway.accounts.rules import derived_fields, rule_fields
from gateway.accounts.team_names import LEASE_S, TeamNames
from gateway.accounts.views import Subject, read_views
from gateway.errors import GatewayError
from gateway.identity.api_keys import is_id, new_id, new_secret
from gateway.store.keyspace import CREATING, KEY_TEAMS, TEAMS, TeamKeys, creation
from gateway.store.replies import gather, gather_pages
from gateway.store.script import Script
from gateway.store.store import Store
from gateway.types import Page

__all__ = [
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

CREATE_TEAM: Final = Script.load("team_create_v1")
CREATE_KEY: Final = Script.load("key_create_v1")
_ATTEMPTS: Final = 50
"""How often a change is tried, because another change may come first each time."""
_TEAM_DISABLED: Final = -2


class Accounts:
    """Teams, keys and credits in one store. `burst`: the share of a minute's limit that may come at once, in 1/1000.

    Raises GatewayError, with `store_unavailable` if the store is unavailable.
    """

    def __init__(
        self,
        store: Store,
        *,
        idempotency_ttl_s: int,
        journal_retention_s: int,
        burst: float,
        max_lots: int = MAX_LOTS,
        name_lease_s: float = LEASE_S,
    ) -> None:
        self._store = store
        self._records = Records(store)
        self._names = TeamNames(store, lease_s=name_lease_s)
        self._idempotency_ttl_ms = idempotency_ttl_s * 1000
        self.burst = str(round(burst * 1000))
        self._journal_retention_ms = journal_retention_s * 1000
        self._max_lots = max_lots

    # teams

    async def create_team(
        self, changes: Changes, idempotency_key: IdempotencyKey | None = None, *, credits_nano_usd: int = 0
    ) -> Team:
        """Creates a team with its first credits.

        Raises `already_exists` if the name is taken, and `idempotency_mismatch`.
        """
        team_id, name = new_id(), changes.name or ""
        if idempotency_key is not None:
            team_id, _ = await claim(
                self._store, creation(idempotency_key.key), team_id, idempotency_key, self._idempotency_ttl_ms
            )
            team = await self._records.find_team(team_id)
            if team is not None and (team.name != name or team.status in ENDED):  # it was renamed or deleted since
                return team
        first_credits = f"creation of {team_id}"
        for _ in range(_ATTEMPTS):
            status = await self._create_team(team_id, name, changes, credits_nano_usd, first_credits)
            if status is not Status.LATE:
                break
            await self._records.now_ms(TeamKeys(team_id).team)  # the server's clock may have jumped ahead
        else:
            raise _changed_by_others(name)
        team = await self._records.team(team_id)
        if status is Status.EXISTS and credits_nano_usd:  # an older version granted them in a step of its own
            await self.move_credits(
                team, "grant", credits_nano_usd, note="first credits", idempotency_key=first_credits
            )
        return team

    async def _create_team(
        self, team_id: str, name: str, changes: Changes, credits_nano_usd: int, first_credits: str
    ) -> Status:
        """Returns DONE, EXISTS, or LATE if the name's reservation had ended, so that nothing was changed."""
        async with self._names.reserved(team_id, name) as reservation:
            keys = TeamKeys(team_id)
            fields = {"status": "active", "metered": "1", **changes.fields(), **rule_fields(None, changes)}
            call = self._store.call(
                CREATE_TEAM,
                [keys.team, keys.state, keys.journal, keys.grant(first_credits)],
                [
                    reservation.run_by_ms,
                    str(credits_nano_usd),
                    uuid.uuid4().hex,
                    "first credits",
                    *self._credit_ttls(),
                    *flat(fields),
                ],
            )
            status = Status((await gather([call]))[0])
            if status is Status.LATE:
                await reservation.release()
                return status
            team = await self._records.team(team_id)
            await self._records.run("ZADD", TEAMS, "NX", str(team.created_ms), team_id)
            await reservation.commit(name)
            return status

    async def team_ids(self, limit: int, after: str | None = None) -> tuple[list[str], str | None]:
        """Returns ids of teams in order of creation, and the next cursor.

        Raises `invalid_field` for an unknown cursor.
        """
        if after is None:
            await self._names.repair()
        return await self._records.page(TEAMS, limit, after)

    async def count(self) -> int:
        """Returns the number of teams."""
        return int(await self._records.run("ZCARD", TEAMS))

    async def names(self, subjects: Sequence[Subject]) -> list[str | None]:
        """Returns the names of (team id, key id) pairs.

        With a key id of None, the name is the team's. A deleted team or key has the name None.
        """
        parts = [(TeamKeys(team_id), key_id) for team_id, key_id in subjects]
        hashes = [keys.key(key_id) if key_id else keys.team for keys, key_id in parts]
        calls = [partial(self._store.run, "HGET", name, "name") for name in hashes]
        replies = await gather_pages(self._store, calls, faults=True)
        return [reply.decode(errors="replace") if isinstance(reply, bytes) else None for reply in replies]

    async def teams(self, limit: int = 1000, after: str | None = None, *, ended: bool = False) -> Page[Team]:
        """Returns one page of teams in order of creation. With `ended`, it includes deleted teams.

        Raises `invalid_field` for an unknown cursor.
        """
        if after is None:
            await self._names.repair()
        page = await self._records.list_accounts(
            TEAMS, limit, after, hash_of=lambda team_id: TeamKeys(team_id).team, read=read_team, ended=ended
        )
        named = (team for team in page.data if team.name and not team.fault and team.status not in ENDED)
        await self._names.heal([(team.id, team.name) for team in named])
        return page

    async def team(self, name_or_id: str) -> Team:
        """Returns a team by id or name. Raises `team_not_found`."""
        team = await self._records.find_team(name_or_id) if is_id(name_or_id) else None
        if team is None and (owner := await self._names.owner(name_or_id)) is not None:
            team = await self._records.find_team(owner)
        if team is None:
            raise GatewayError("team_not_found", f"There is no team {name_or_id!r}.")
        return team

    async def update_team(self, team: Team, changes: Changes, *, version: int | None = None) -> Team:
        """Changes a team.

        The change applies from the team's next request on. The status ARCHIVED deletes the team: its keys are refused,
        and its name becomes free. Raises `version_mismatch`, `already_exists`, and `not_allowed` for a deleted team.
        """
        name = "" if changes.status == ARCHIVED else changes.name
        for _ in range(_ATTEMPTS):
            derived = derived_fields(team, changes, await self._now_ms(TeamKeys(team.id).team, team, changes))
            change = partial(
                self._records.configure,
                TeamKeys(team.id),
                "",
                changes.fields(),
                version,
                derived,
                based_on=team.version if derived.fields else None,
            )
            if name is None or name == team.name:
                status = await change(expected_name=name or "")
            else:
                status = await self._rename(team, name, change)
            if status is Status.DONE:
                return await self._records.team(team.id)
            if status is Status.LATE:
                await self._records.now_ms(TeamKeys(team.id).team)
            team = await self._records.team(team.id)
        raise _changed_by_others(name or "")

    async def _rename(self, team: Team, name: str, change: Callable[..., Awaitable[Status]]) -> Status:
        async with self._names.reserved(team.id, name, team.name) as reservation:
            status = await change(expected_name=team.name, run_by_ms=reservation.run_by_ms)
            if status is Status.DONE:
                await reservation.commit(name, team.name)
            else:
                await reservation.release()
            return status

    # keys

    async def create_key(
        self,
        team: Team,
        changes: Changes,
        idempotency_key: IdempotencyKey | None = None,
        *,
        by_operator: bool = True,
    ) -> tuple[Key, str]:
        """Creates a key of a team and returns it with its text, which is not stored.

        A repeated request returns the same text, or "" if a rotation has replaced the secret or the pepper has changed.
        Raises `not_allowed` if a team's lead creates a key while the team is disabled.
        """
        keys = TeamKeys(team.id)
        key_id, seed = new_id(), None
        if idempotency_key is not None:
            key_id, salt = await claim(
                self._store, keys.creation(idempotency_key.key), key_id, idempotency_key, self._idempotency_ttl_ms
            )
            seed = idempotency_key.seed(salt)
        text, secret_hash = new_secret(team.id, key_id, seed)
        origins = operator_fields(None, changes, by_operator=by_operator)
        fields = {"status": "active", **changes.fields(), **origins, **rule_fields(None, changes)}
        fields[SECRET_FIELD + secret_hash] = "0"
        # The team is added to the list again, because a key whose team is not in the list would never expire.
        await gather(
            [
                self._store.run("HSETNX", KEY_TEAMS, key_id, team.id + CREATING),
                self._store.run("ZADD", TEAMS, "NX", str(team.created_ms), team.id),
            ]
        )
        args = [key_id, "" if by_operator else "1", *flat(fields)]
        status = (await gather([self._store.call(CREATE_KEY, [keys.key(key_id), keys.keys, keys.team], args)]))[0]
        if status == Status.GONE:
            raise GatewayError("not_allowed", "This team was deleted: nobody could use a key of it.")
        if status == _TEAM_DISABLED:
            raise GatewayError("not_allowed", "The team is disabled: only an operator creates keys for it.")
        await self._records.run("HSET", KEY_TEAMS, key_id, team.id)
        key = await self.key(team, key_id)
        return key, text if any(secret.sha256 == secret_hash for secret in key.secrets) else ""

    async def keys(self, team: Team, limit: int = 1000, after: str | None = None, *, ended: bool = False) -> Page[Key]:
        """Returns one page of a team's keys in order of creation. With `ended`, it includes revoked and deleted keys.

        Raises `invalid_field` for an unknown cursor.
        """
        names = TeamKeys(team.id)
        read = partial(read_key, team.id)
        return await self._records.list_accounts(names.keys, limit, after, hash_of=names.key, read=read, ended=ended)

    async def key(self, team: Team, key_id: str) -> Key:
        """Returns one key of a team. Raises `key_not_found`."""
        stored = (await self._records.hashes([TeamKeys(team.id).key(key_id)]))[0] if is_id(key_id) else {}
        if not stored:
            raise GatewayError("key_not_found", f"The team {team.name!r} has no key {key_id!r}.")
        return read_key(team.id, key_id, stored)

    async def find_key(self, key_id: str) -> tuple[Team, Key]:
        """Returns a key and its team, by the key's id alone. Raises `key_not_found`."""
        owner = await self._records.run("HGET", KEY_TEAMS, key_id)
        team = await self._records.find_team(owner.decode().removesuffix(CREATING)) if owner is not None else None
        if team is None:
            raise GatewayError("key_not_found", f"There is no key {key_id!r}.")
        return team, await self.key(team, key_id)

    async def update_key(
        self, team: Team, key: Key, changes: Changes, *, version: int | None = None, by_operator: bool = True
    ) -> Key:
        """Changes a key. The change applies from the key's next request on.

        Raises `version_mismatch`, and `not_allowed` if a revoked key would become active again, or if a team's lead
        would lift an operator's restriction.
        """
        keys = TeamKeys(team.id)
        for _ in range(_ATTEMPTS):
            now_ms = await self._now_ms(keys.key(key.id), key, changes)
            if not by_operator:
                refuse_lifting_overrides(key, changes, now_ms)
            origins = operator_fields(key, changes, by_operator=by_operator)
            derived = derived_fields(key, changes, now_ms, () if by_operator else key.operator_values)
            depends_on_version = bool(derived.fields) or not (by_operator and key.origins_known)
            status = await self._records.configure(
                keys,
                key.id,
                {**changes.fields(), **origins},
                version,
                derived,
                based_on=key.version if depends_on_version else None,
            )
            key = await self.key(team, key.id)
            if status is Status.DONE:
                return key
        raise _changed_by_others(key.name)

    async def _now_ms(self, name: str, account: Account, changes: Changes) -> int:
        """Returns the store's time if a change depends on it; otherwise 0."""
        return await self._records.now_ms(name) if account.overrides or changes.overrides else 0

    # credits and enforced limits

    async def move_credits(
        self,
        team: Team,
        kind: str,
        amount_nano_usd: int,
        *,
        note: str = "",
        idempotency_key: str | None = None,
        expires_ms: int | None = None,
    ) -> Balance:
        """Grants (amount > 0) or adjusts (either sign) a team's credits, once per idempotency key.

        Raises as `post_movement`.
        """
        movement = Movement(kind, amount_nano_usd, note, idempotency_key, expires_ms)
        if not await post_movement(self._store, team.id, movement, self._credit_ttls(), self._max_lots):
            raise GatewayError("team_not_found", f"There is no team {team.name!r}.")
        return (await self.view(team)).balance

    async def view(self, team: Team, key_id: str | None = None) -> View:
        """Returns the limits, their usage and the balance, computed by the same Lua functions that enforce them.

        Raises `internal_error` if the counters cannot be read.
        """
        [view] = await self.views([(team.id, key_id)])
        if view.fault:
            raise GatewayError("internal_error", f"The team {team.name!r}: {view.fault}")
        return view

    async def views(self, subjects: Sequence[Subject]) -> list[View]:
        """Returns the views of many (team id, key id or None) pairs. A view may have a fault."""
        return await read_views(self._store, subjects, self.burst)

    async def queue_lengths(self, teams: Sequence[Team]) -> list[int]:
        """Returns how many requests of each team wait in its queue."""
        calls = [partial(self._store.run, "HLEN", TeamKeys(team.id).queue) for team in teams]
        return [reply if isinstance(reply, int) else 0 for reply in await gather_pages(self._store, calls, faults=True)]

    def _credit_ttls(self) -> list[str]:
        return [str(self._idempotency_ttl_ms), str(self._journal_retention_ms)]


def _changed_by_others(name: str) -> GatewayError:
    return GatewayError(
        "request_in_progress", f"{name!r} is being changed by others. Nothing was changed.", wait_ms=1000
    )
