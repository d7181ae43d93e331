"""Teams and keys as values, and the hash fields that store them. Pure.

hash field            value
name, status          text; the status is active, disabled, archived (deleted) or, for keys only, revoked; the last two
                      are permanent
models                patterns, one per line; an absent field permits all models
operations            names (operations.names_of), one per line; an absent field permits all operations
expires_ms            milliseconds since 1970; an absent field means no expiry
metered               "1" or "0" (teams)
paused                "<ms> <request id>": the beginning of the team's pause, and the request that caused it (teams)
a limit (limit_names) an integer; amounts of money are in nano-USD
t:<limit>             an override: the value that replaces this limit until a time (overrides.py)
rules                 the limits that the scripts do not read from fields of their own (rules.py)
timezone, anchor      decide when the periods begin (teams; periods.py): a name of the IANA database, a date
calendar              the beginnings and ends of the team's periods around now (teams)
s:<sha256>            a secret -> the time at which it stops working, 0 for never (keys)
u:<sha256>            a secret -> the time of its last use
e:<sha256>            an ended secret -> the time at which it ended (keys; rotate_v1)
o:<field>             the value that an operator set (keys; authority.py)
version, created_ms, updated_ms
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from gateway.accounts.limit_names import is_limit
from gateway.accounts.overrides import Override, read_overrides

UNREADABLE: Final = "unreadable"
ARCHIVED: Final = "archived"
ENDED: Final = frozenset({"revoked", ARCHIVED})
"""The permanent statuses. Lists leave such teams and keys out unless a caller requests them."""
SECRET_FIELD: Final = "s:"  # noqa: S105 - the prefix of a field, not a password
LAST_USED_FIELD: Final = "u:"
OPERATOR_FIELD: Final = "o:"
ORIGINS_KNOWN: Final = "o:known"


RESTRICTIONS: Final = ("status", "expires_ms", "models", "operations", "cut_at_cap")
"""The fields of a key that can restrict it, besides its limits."""


def is_restriction(name: str) -> bool:
    """Returns whether a field of a key can restrict it."""
    return name in RESTRICTIONS or is_limit(name)


@dataclass(frozen=True, slots=True)
class Account:
    """The fields that teams and keys share. `limits` maps names (limit_names.py) to values; money is in nano-USD.

    If the hash cannot be read, `fault` is the reason, `status` is UNREADABLE, and the other fields are empty.
    """

    id: str
    name: str
    status: str
    models: tuple[str, ...]
    operations: tuple[str, ...]
    limits: Mapping[str, int]
    expires_ms: int
    created_ms: int
    version: int
    fault: str = field(default="", kw_only=True)
    rules: str = field(default="", kw_only=True)
    overrides: Mapping[str, Override] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, slots=True)
class Pause:
    """The pause of a team: when it began, and the request that cost more than its hold."""

    at_ms: int
    request_id: str


@dataclass(frozen=True, slots=True)
class Team(Account):
    """A team. An unmetered team is charged, but no request is refused because of its balance.

    All requests of a paused team that cost something are refused. `timezone` and `anchor` decide when its periods begin
    (periods.py). A `timezone` of "" is UTC; an `anchor` of "" is the beginning of calendar weeks, months and quarters.
    """

    metered: bool
    paused: Pause | None = None
    timezone: str = ""
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class SecretState:
    """One secret of a key, identified by its SHA-256.

    An `until_ms` of 0 means that the secret works as long as the key does. A `last_used_ms` of 0 means never.
    """

    sha256: str
    until_ms: int
    last_used_ms: int


@dataclass(frozen=True, slots=True)
class Key(Account):
    """A key of a team. `name` is its label. With `cut_at_cap`, a stream ends before it would exceed its hold.

    `operator_values` maps fields that an operator set to their stored values. If `origins_known` is False, an older
    version wrote the key, and all of its restrictions count as an operator's.
    """

    team_id: str
    secrets: tuple[SecretState, ...]
    cut_at_cap: bool
    operator_values: Mapping[str, str]
    origins_known: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """Fields to change.

    None leaves a field as it is. In `limits`, None removes a limit. In `overrides`, None ends an override. An
    `expires_ms` of 0 removes the expiry; a time zone or an anchor of "" removes it (teams). `release` names fields of a
    key whose restriction its team's lead may lift from now on. `resume` ends the pause of a team.
    """

    name: str | None = None
    status: str | None = None
    models: tuple[str, ...] | None = None
    operations: tuple[str, ...] | None = None
    limits: Mapping[str, int | None] = field(default_factory=dict)
    overrides: Mapping[str, Override | None] = field(default_factory=dict)
    expires_ms: int | None = None
    metered: bool | None = None
    timezone: str | None = None
    anchor: str | None = None
    cut_at_cap: bool | None = None
    release: tuple[str, ...] = ()
    resume: bool = False

    def fields(self) -> dict[str, str]:
        """Returns the changes as hash fields, without those of overrides. An empty value removes a field."""
        values: dict[str, str | None] = {
            "name": self.name,
            "status": self.status,
            "models": None if self.models is None else "\n".join(self.models),
            "operations": None if self.operations is None else "\n".join(self.operations),
            "expires_ms": None if self.expires_ms is None else str(self.expires_ms or ""),
            "metered": None if self.metered is None else str(int(self.metered)),
            "timezone": self.timezone,
            "anchor": self.anchor,
            "cut_at_cap": None if self.cut_at_cap is None else "1" if self.cut_at_cap else "",
            "paused": "" if self.resume else None,
        }
        out = {name: value for name, value in values.items() if value is not None}
        for name, value in self.limits.items():
            out[name] = "" if value is None else str(value)
        return out


class Lot(NamedTuple):
    """What is available of the credits that expire at one time, in nano-USD."""

    expires_ms: int
    available: int


@dataclass(frozen=True, slots=True)
class Balance:
    """A team's money in nano-USD. granted = available + held + spent; what has expired is in none of them.

    `lots`: the part of what is available that expires, in the order of the expiry.
    """

    granted: int
    available: int
    held: int
    spent: int
    lots: tuple[Lot, ...] = ()


class Rule(NamedTuple):
    """The state of a limit with a meter of its own. `ends_ms`: the time at which all of it is left again, or 0."""

    name: str
    limit: int
    used: int
    left: int
    ends_ms: int


@dataclass(frozen=True, slots=True)
class View:
    """The enforced limits at `now_ms`.

    `team` and `key` map names to numbers: plain limits, `used_*` counters, `<period>_ends_ms` and `<rate>_left`.
    `team_rules` and `key_rules` are the other limits. `lacks_calendar`: the ends of their periods are not known yet.
    If the counters cannot be read, `fault` is the reason, and the other fields are empty.
    """

    now_ms: int
    balance: Balance
    team: Mapping[str, int]
    key: Mapping[str, int]
    team_rules: tuple[Rule, ...] = ()
    key_rules: tuple[Rule, ...] = ()
    lacks_calendar: bool = False
    fault: str = ""


def read_team(team_id: str, stored: Mapping[str, str]) -> Team:
    """Reads a team from its hash."""
    since, _, request_id = stored.get("paused", "").partition(" ")
    paused = Pause(int(since), request_id) if since.isdecimal() else None
    return Team(
        **_account(team_id, stored),
        metered=stored.get("metered") != "0",
        paused=paused,
        timezone=stored.get("timezone", ""),
        anchor=stored.get("anchor", ""),
    )


def read_key(team_id: str, key_id: str, stored: Mapping[str, str]) -> Key:
    """Reads a key from its hash. The secret that is valid longest comes first."""
    secrets = [
        SecretState(name[2:], _number(until), _number(stored.get(LAST_USED_FIELD + name[2:], "0")))
        for name, until in stored.items()
        if name.startswith(SECRET_FIELD)
    ]
    secrets.sort(key=lambda secret: (secret.until_ms != 0, -secret.until_ms))
    known = ORIGINS_KNOWN in stored
    operator_values = {
        name.removeprefix(OPERATOR_FIELD): value
        for name, value in stored.items()
        if (name.startswith(OPERATOR_FIELD) and name != ORIGINS_KNOWN if known else restricts(name, value))
    }
    return Key(
        **_account(key_id, stored),
        team_id=team_id,
        secrets=tuple(secrets),
        cut_at_cap=stored.get("cut_at_cap") == "1",
        operator_values=operator_values,
        origins_known=known,
    )


def restricts(name: str, value: str) -> bool:
    """Returns whether a field of a key's hash restricts the key."""
    if name == "status":
        return value == "disabled"
    return value != "" and is_restriction(name)


def read_view(reply: list[Any]) -> View:
    """Parses the reply of view_v4."""
    now_ms, money, team, key, team_rules, key_rules, lacks_calendar, lots, expired = reply
    sums = _pairs(money)
    sums["granted"] -= expired
    return View(
        now_ms,
        Balance(**sums, lots=tuple(map(Lot, lots[::2], lots[1::2]))),
        _pairs(team),
        _pairs(key),
        read_rules(team_rules),
        read_rules(key_rules),
        lacks_calendar=lacks_calendar == 1,
    )


def faulty_view(problem: object) -> View:
    """Returns the view of a subject whose counters cannot be read."""
    return View(0, Balance(0, 0, 0, 0), {}, {}, fault=f"its counters cannot be read: {problem}")


def read_rules(rows: list[Any]) -> tuple[Rule, ...]:
    """Parses the rows of a script that shows limits (meter_rows.lua)."""
    return tuple(Rule(name.decode(), *numbers) for name, *numbers in rows)


def _account(identifier: str, stored: Mapping[str, str]) -> dict[str, Any]:
    try:
        return _read_account(identifier, stored)
    except (KeyError, ValueError) as error:
        problem = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
        return {
            **dict.fromkeys(("expires_ms", "created_ms", "version"), 0),
            "id": identifier,
            "name": stored.get("name", ""),
            "status": UNREADABLE,
            "models": (),
            "operations": (),
            "limits": {},
            "fault": f"its settings cannot be read: {problem}",
        }


def _read_account(identifier: str, stored: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": identifier,
        "name": stored.get("name", ""),
        "status": stored["status"],
        "models": tuple(filter(None, stored.get("models", "").split("\n"))),
        "operations": tuple(filter(None, stored.get("operations", "").split("\n"))),
        "limits": {name: int(value) for name, value in stored.items() if is_limit(name)},
        "rules": stored.get("rules", ""),
        "overrides": read_overrides(stored),
        "expires_ms": int(stored.get("expires_ms", "0")),
        "created_ms": int(stored["created_ms"]),
        "version": int(stored["version"]),
    }


def _number(text: str) -> int:
    """Returns a time of a secret. An unreadable time is in the past, because the scripts refuse such a secret too."""
    return int(text) if text.isdecimal() else 1


def _pairs(flat: list[Any]) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}
