"""Teams and keys in the store, and movements of credits: what admins do. Off the warm path.

    create_team, teams, team, update_team      a name is taken once; a team is found by id or by name
    create_key, keys, key, update_key          a key's secret is returned once and kept as SHA-256
    move_credits                               grant or adjust, once per idempotency key
    view                                       the numbers that are enforced, as they stand now

`LIMITS` names every limit a team or a key may have; scripts/common.lua reads the same fields.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.identity import is_id, new_id, new_secret
from gateway.ledger.faults import StoreUnavailable
from gateway.ledger.keyspace import TEAM_NAMES, TEAMS, TeamKeys
from gateway.ledger.script import Script
from gateway.ledger.store import Store
from gateway.money import MAX_NANO_USD, format_usd

LIMITS: Final = (
    "rpm",
    "tpm",
    "concurrency",
    "max_output_tokens",
    "budget_usd_hour",
    "budget_usd_day",
    "budget_usd_month",
    "budget_usd_total",
    "budget_tokens_hour",
    "budget_tokens_day",
    "budget_tokens_month",
    "budget_tokens_total",
)

CONFIG: Final = Script.load("config_v1")
CREDIT: Final = Script.load("credit_v1")
VIEW: Final = Script.load("view_v1")
_SECRET: Final = "s:"  # noqa: S105 - a field's prefix
_LAST_USED: Final = "u:"


@dataclass(frozen=True, slots=True)
class Account:
    """What a team and a key have in common. `limits`: name of `LIMITS` -> value, money in nano-USD."""

    id: str
    name: str
    status: str
    models: tuple[str, ...]
    limits: Mapping[str, int]
    expires_ms: int
    created_ms: int
    version: int


@dataclass(frozen=True, slots=True)
class Team(Account):
    """A team. An unmetered one is charged but never refused for its balance."""

    metered: bool


@dataclass(frozen=True, slots=True)
class SecretState:
    """One secret of a key, by its SHA-256. `until_ms` 0: for as long as the key; `last_used_ms` 0: never used."""

    sha256: str
    until_ms: int
    last_used_ms: int


@dataclass(frozen=True, slots=True)
class Key(Account):
    """A key of a team; `name` is its label."""

    team_id: str
    secrets: tuple[SecretState, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """Fields to set; None: as it is. In `limits`, None removes a limit."""

    name: str | None = None
    status: str | None = None
    models: tuple[str, ...] | None = None
    limits: Mapping[str, int | None] = field(default_factory=dict)
    expires_ms: int | None = None
    metered: bool | None = None

    def fields(self) -> dict[str, str]:
        """The same as fields of the hash; "" removes one."""
        out: dict[str, str] = {}
        if self.name is not None:
            out["name"] = self.name
        if self.status is not None:
            out["status"] = self.status
        if self.models is not None:
            out["models"] = "\n".join(self.models)
        if self.expires_ms is not None:
            out["expires_ms"] = str(self.expires_ms) if self.expires_ms else ""
        if self.metered is not None:
            out["metered"] = "1" if self.metered else "0"
        for name, value in self.limits.items():
            out[name] = "" if value is None else str(value)
        return out


@dataclass(frozen=True, slots=True)
class Balance:
    """A team's money, nano-USD: granted = available + held + spent."""

    granted: int
    available: int
    held: int
    spent: int


@dataclass(frozen=True, slots=True)
class View:
    """What is enforced, at `now_ms`. `team` and `key`: limits, `used_*` counters, `<period>_ends_ms`, `<rate>_left`."""

    now_ms: int
    balance: Balance
    team: Mapping[str, int]
    key: Mapping[str, int]


class Accounts:
    """Teams, keys and credits in one store. Raises GatewayError; `store_unavailable` where the store is away."""

    def __init__(self, store: Store, *, idempotency_ttl_s: int, journal_retention_s: int) -> None:
        self._store = store
        self._idempotency_ttl_ms = idempotency_ttl_s * 1000
        self._journal_retention_ms = journal_retention_s * 1000

    async def create_team(self, changes: Changes) -> Team:
        """A new team. Raises `already_exists` for a name that is taken."""
        name = changes.name or ""
        team_id = new_id()
        if not await self._run("HSETNX", TEAM_NAMES, name, team_id):
            owner = await self._run("HGET", TEAM_NAMES, name)
            team_id = owner.decode()
            if await self._find_team(team_id) is not None:
                raise GatewayError("already_exists", f"There is a team {name!r} already.", param="name")
            # The name was taken by a creation that did not get further: this one completes it.
        fields = {"status": "active", "metered": "1", **changes.fields()}
        await self._configure([TeamKeys(team_id).team], "create", "", "", fields)
        await self._run("ZADD", TEAMS, "0", team_id)
        return await self.team(team_id)

    async def teams(self) -> list[Team]:
        """All teams, by id."""
        ids = [raw.decode() for raw in await self._run("ZRANGE", TEAMS, "0", "-1")]
        found = [await self._find_team(team_id) for team_id in ids]
        return sorted((team for team in found if team is not None), key=lambda team: team.created_ms)

    async def team(self, name_or_id: str) -> Team:
        """A team by id or name. Raises `team_not_found`."""
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
        """Changes a team; in force with its next request. Raises `version_mismatch`."""
        keys = TeamKeys(team.id)
        await self._configure([keys.team], "update", "" if version is None else str(version), "", changes.fields())
        return await self.team(team.id)

    async def create_key(self, team: Team, changes: Changes) -> tuple[Key, str]:
        """A new key of a team, and the key's text: shown once, never stored."""
        key_id = new_id()
        text, secret_hash = new_secret(team.id, key_id)
        keys = TeamKeys(team.id)
        fields = {"status": "active", **changes.fields(), _SECRET + secret_hash: "0"}
        await self._configure([keys.key(key_id), keys.keys], "create", "", key_id, fields)
        return await self.key(team, key_id), text

    async def keys(self, team: Team) -> list[Key]:
        """A team's keys, the oldest first."""
        ids = [raw.decode() for raw in await self._run("ZRANGE", TeamKeys(team.id).keys, "0", "-1")]
        return [await self.key(team, key_id) for key_id in ids]

    async def key(self, team: Team, key_id: str) -> Key:
        """One key of a team. Raises `key_not_found`."""
        stored = await self._hash(TeamKeys(team.id).key(key_id)) if is_id(key_id) else {}
        if not stored:
            raise GatewayError("key_not_found", f"The team {team.name!r} has no key {key_id!r}.")
        secrets = tuple(
            SecretState(name[2:], int(until), int(stored.get(_LAST_USED + name[2:], "0")))
            for name, until in stored.items()
            if name.startswith(_SECRET)
        )
        return Key(**_account(key_id, stored), team_id=team.id, secrets=secrets)

    async def update_key(self, team: Team, key: Key, changes: Changes, *, version: int | None = None) -> Key:
        """Changes a key; in force with its next request. Raises `version_mismatch`."""
        seen = "" if version is None else str(version)
        await self._configure([TeamKeys(team.id).key(key.id)], "update", seen, "", changes.fields())
        return await self.key(team, key.id)

    async def move_credits(
        self, team: Team, kind: str, amount_nano_usd: int, *, note: str = "", idempotency_key: str | None = None
    ) -> Balance:
        """Grants (> 0) or adjusts (either sign) a team's credits, once per idempotency key.

        Raises `idempotency_mismatch` for a key that another movement used, `invalid_field` beyond the largest balance.
        """
        keys = TeamKeys(team.id)
        movement = uuid.uuid4().hex
        try:
            reply = await self._store.call(
                CREDIT,
                [keys.team, keys.state, keys.journal, keys.grant(idempotency_key or movement)],
                [
                    kind,
                    str(amount_nano_usd),
                    movement,
                    note,
                    str(MAX_NANO_USD),
                    str(self._idempotency_ttl_ms),
                    str(self._journal_retention_ms),
                ],
            )
        except StoreUnavailable as error:
            raise _unavailable(error) from None
        if reply[0] == 0:
            raise GatewayError("team_not_found", f"There is no team {team.name!r}.")
        if reply[0] == -1:
            raise GatewayError("idempotency_mismatch", "This idempotency key was used for another movement.")
        if reply[0] == -2:  # noqa: PLR2004 - the script's word
            raise GatewayError(
                "invalid_field", f"A team can hold {format_usd(MAX_NANO_USD)} USD at most.", param="amount_usd"
            )
        return (await self.view(team)).balance

    async def view(self, team: Team, key_id: str | None = None) -> View:
        """Limits, what is used of them, and the balance, by the very functions that enforce them."""
        keys = TeamKeys(team.id)
        names = [keys.team, keys.state, *([keys.key(key_id)] if key_id else [])]
        try:
            now_ms, money, team_view, key_view = await self._store.call(VIEW, names, [key_id or ""])
        except StoreUnavailable as error:
            raise _unavailable(error) from None
        return View(now_ms, Balance(**_pairs(money)), _pairs(team_view), _pairs(key_view))

    async def _find_team(self, team_id: str) -> Team | None:
        stored = await self._hash(TeamKeys(team_id).team)
        return Team(**_account(team_id, stored), metered=stored.get("metered") != "0") if stored else None

    async def _configure(self, keys: list[str], mode: str, version: str, member: str, fields: dict[str, str]) -> None:
        flat = [word for pair in fields.items() for word in pair]
        try:
            status, now = await self._store.call(CONFIG, keys, [mode, version, member, *flat])
        except StoreUnavailable as error:
            raise _unavailable(error) from None
        if status == -2:  # noqa: PLR2004 - the script's word
            raise GatewayError("version_mismatch", f"It was changed meanwhile: its version is {now} now.")

    async def _hash(self, name: str) -> dict[str, str]:
        flat = await self._run("HGETALL", name)
        words = [word.decode() for word in flat]
        return dict(zip(words[::2], words[1::2], strict=True))

    async def _run(self, *command: str) -> Any:
        try:
            return await self._store.run(*command)
        except StoreUnavailable as error:
            raise _unavailable(error) from None


def _account(identifier: str, stored: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": identifier,
        "name": stored.get("name", ""),
        "status": stored["status"],
        "models": tuple(filter(None, stored.get("models", "").split("\n"))),
        "limits": {name: int(stored[name]) for name in LIMITS if name in stored},
        "expires_ms": int(stored.get("expires_ms", "0")),
        "created_ms": int(stored["created_ms"]),
        "version": int(stored["version"]),
    }


def _pairs(flat: list[Any]) -> dict[str, int]:
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _unavailable(error: StoreUnavailable) -> GatewayError:
    return GatewayError(
        "store_unavailable", f"The gateway cannot reach its store just now ({error.reason}).", wait_ms=1000
    )
