"""Compiles the limits that scripts do not read from fields of their own into the field "rules". Pure.

    rule_fields(before, changes)             returns the fields to write with a change; valid for this version only
    derived_fields(before, changes, now_ms)  returns these and the fields of overrides, and the end of their validity

meters.lua describes the form. A rule has an id, which stays the same while the limit exists, so that a new value keeps
the counted amount. A limit that is removed and set again gets a new id, so that requests that ran meanwhile do not
return amounts that the new limit has not counted. So does a rate that becomes lower: what was used at the old rate
would drain at the new one for as many minutes as one fits into the other. A limit that only an override sets ends with
the override.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson

from gateway.accounts.entities import Account, Changes, Team
from gateway.accounts.limit_names import END_USER, PLAIN, LimitName, in_order, read_limit_name
from gateway.accounts.overrides import (
    ENDED_RATE_LIFE_MS,
    RATES,
    Override,
    changed_overrides,
    first_end_ms,
    in_force,
    is_rate,
    override_fields,
)
from gateway.protocol.model_spelling import folded

RULES: Final = "rules"
CALENDAR: Final = "calendar"
MAX_RULES: Final = 32
"""The maximum for a team or a key. Each rule costs a few microseconds of the store's time per request."""
_KINDS: Final[Mapping[str, int]] = MappingProxyType(
    {"rpm": 1, "tpm": 2, "concurrency": 3, "budget_usd": 4, "budget_tokens": 5}
)
_EACH: Final = "end_users"
_FIELDS: Final = ("rules", _EACH)
_SLOT_MS: Final = 3_600_000 // 24
"""The width of a slot for each rolling hour, because a budget of the last hours is counted in 24 slots."""
_NO_OVERRIDES: Final[Mapping[str, Override]] = MappingProxyType({})


class Derived(NamedTuple):
    """What follows from a change.

    By the store's clock the fields are valid until `until_ms`; with None, permanently. `cuts` names the plain rates
    whose buckets are cut if the change lowers them, one per line (config_v4).
    """

    fields: dict[str, str]
    until_ms: int | None
    cuts: str = ""


def derived_fields(before: Account, changes: Changes, now_ms: int, fixed: Collection[str] = ()) -> Derived:
    """Returns what follows from a change, with the fields of overrides.

    `now_ms` is the store's time, or 0 if there are no overrides. `fixed` names limits whose counts the change must not
    reduce: an operator set them, and the change is a lead's, who could lower and raise them to get a fresh minute.

    Raises GatewayError `invalid_field` for an override whose end has passed.
    """
    limits = {**before.limits, **changes.limits}
    overrides = changed_overrides(before.overrides, changes.overrides, limits, now_ms)
    fields = override_fields(before.overrides, overrides) | rule_fields(before, changes, overrides, now_ms, fixed)
    changed = {*changes.limits, *changes.overrides}
    cuts = [name for name in RATES if name in changed and name not in fixed]
    return Derived(fields, first_end_ms(overrides, now_ms), "\n".join(cuts))


def rule_fields(
    before: Account | None,
    changes: Changes,
    overrides: Mapping[str, Override] = _NO_OVERRIDES,
    now_ms: int = 0,
    fixed: Collection[str] = (),
) -> dict[str, str]:
    """Returns the compiled fields to write with a change; "" removes a field. Returns {} if nothing needs compiling.

    They were computed from the version `before`, so they must not be written to another version. With `overrides`, they
    are valid until the first override that applies at `now_ms` ends.
    """
    changes_calendar = changes.timezone is not None or changes.anchor is not None
    compiled_before = before.rules if before is not None else ""
    if (
        not compiled_before
        and not changes_calendar
        and not overrides
        and not any(name not in PLAIN and value is not None for name, value in changes.limits.items())
    ):
        return {}
    limits = {**(before.limits if before is not None else {}), **changes.limits}
    remaining = {name: value for name, value in limits.items() if value is not None}
    timezone, anchor = _zone_and_anchor(before, changes)
    compiled: dict[str, Any] = {}
    known = _ids(compiled_before, before, now_ms)
    if before is not None:
        lowered = _lowered_rates(before, in_force(remaining, overrides, now_ms), now_ms)
        known = {name: identifier for name, identifier in known.items() if name in fixed or name not in lowered}
    rules = _compile(remaining, overrides, known, before.version if before is not None else 0)
    compiled |= {field: some for field, some in rules.items() if some}
    if of_plain := {name: one for name, one in overrides.items() if name in PLAIN}:
        compiled["overrides"] = [
            [PLAIN.index(name) + 1, *_value_and_end(of_plain[name])] for name in in_order(of_plain)
        ]
    if local := [period for period, follows in (("day", timezone), ("month", timezone or anchor)) if follows]:
        compiled |= {"local": local, "zone": f"{timezone} {anchor}"}
    if timezone:
        compiled["dated"] = True
    if overrides and compiled.keys() <= {"overrides", *_FIELDS} and all(name in PLAIN for name in remaining):
        compiled = {"ends": max(one.until_ms for one in overrides.values()) + ENDED_RATE_LIFE_MS} | compiled
    fields = {RULES: orjson.dumps(compiled).decode() if compiled else ""}
    return fields | ({CALENDAR: ""} if changes_calendar else {})


def _zone_and_anchor(before: Account | None, changes: Changes) -> tuple[str, str]:
    """Returns the time zone and the anchor after a change. Keys have none."""
    timezone, anchor = (before.timezone, before.anchor) if isinstance(before, Team) else ("", "")
    return (
        timezone if changes.timezone is None else changes.timezone,
        anchor if changes.anchor is None else changes.anchor,
    )


def _compile(
    limits: Mapping[str, int], overrides: Mapping[str, Override], ids: Mapping[str, str], version: int
) -> dict[str, list[list[str | int]]]:
    rules: dict[str, list[list[str | int]]] = {field: [] for field in _FIELDS}
    for at, name in enumerate(in_order(name for name in {**limits, **overrides} if name not in PLAIN)):
        if (read := read_limit_name(name)) is not None:
            rules[_FIELDS[read.each]].append(
                [
                    ids.get(name, f"{version}.{at}"),
                    name.removeprefix(END_USER),
                    _KINDS[read.base],
                    limits.get(name, False),
                    folded(read.pattern),
                    _period(read),
                    *(_value_and_end(overrides[name]) if name in overrides else ()),
                ]
            )
    return rules


def _value_and_end(override: Override) -> tuple[int, int]:
    return (False if override.value is None else override.value), override.until_ms


def _period(name: LimitName) -> str | int:
    return name.rolling_hours * _SLOT_MS if name.rolling_hours else name.period


def _lowered_rates(before: Account, after: Mapping[str, int], now_ms: int) -> frozenset[str]:
    """Returns the rates that the limits `after` lower. 0, which refuses everything for a while, lowers none."""
    values = in_force(before.limits, before.overrides, now_ms)
    both = values.keys() & after.keys()
    return frozenset(name for name in both if is_rate(name) and 0 < after[name] < values[name])


def _ids(stored: str, before: Account | None, now_ms: int) -> dict[str, str]:
    """Returns the ids of the stored rules by the names of their limits."""
    compiled = orjson.loads(stored or "{}")
    ids = {
        (END_USER if field == _EACH else "") + name: identifier
        for field in _FIELDS
        for identifier, name, *_ in compiled.get(field, ())
    }
    if before is None:
        return ids
    limited = {*before.limits, *(name for name, one in before.overrides.items() if one.is_in_force(now_ms))}
    return {name: identifier for name, identifier in ids.items() if name in limited}
