"""What the scripts need to know of limits that they do not read by themselves: the field "rules". Pure.

    rule_fields(before, changes)             -> the fields to write beside a change, which hold for this version alone
    derived_fields(before, changes, now_ms)  -> the same with those of overrides, and until when they hold

meters.lua explains the form. A rule has an id for as long as the limit is there, whatever its value becomes: what it
has counted stays. A limit that is removed and set again gets another one, so that requests which ran meanwhile do not
count back what nobody has counted. One that only an override sets is removed when that ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson

from gateway.accounts.entities import Account, Changes, Team
from gateway.accounts.limit_names import PLAIN, LimitName, in_order, read_limit_name
from gateway.accounts.overrides import KEPT_MS, Override, changed_overrides, first_end_ms, override_fields
from gateway.protocol.model_spelling import folded

RULES: Final = "rules"
CALENDAR: Final = "calendar"
MAX_RULES: Final = 32
"""Of a team or a key. Each costs a few microseconds of the store's time per request."""
_KINDS: Final[Mapping[str, int]] = MappingProxyType(
    {"rpm": 1, "tpm": 2, "concurrency": 3, "budget_usd": 4, "budget_tokens": 5}
)
_SLOT_MS: Final = 3_600_000 // 24
"""A budget of the last hours is counted in 24 slots."""
_NONE_YET: Final[Mapping[str, Override]] = MappingProxyType({})


class Derived(NamedTuple):
    """Fields that follow from a change. They are true before `until_ms`, by the store's clock; None: for good."""

    fields: dict[str, str]
    until_ms: int | None


def derived_fields(before: Account, changes: Changes, now_ms: int) -> Derived:
    """Returns what a change makes necessary, of overrides too. `now_ms` is the store's time, or 0 where there are none.

    Raises GatewayError `invalid_field` for an override whose end has passed.
    """
    limits = {**before.limits, **changes.limits}
    overrides = changed_overrides(before.overrides, changes.overrides, limits, now_ms)
    fields = override_fields(before.overrides, overrides) | rule_fields(before, changes, overrides, now_ms)
    return Derived(fields, first_end_ms(overrides, now_ms))


def rule_fields(
    before: Account | None, changes: Changes, overrides: Mapping[str, Override] = _NONE_YET, now_ms: int = 0
) -> dict[str, str]:
    """Returns the fields that a change makes necessary, "" for one that goes; none where nothing is compiled.

    They are true of the version that was read, so that they must not be written over another one; and, where there are
    `overrides`, until the first of those that hold at `now_ms` ends.
    """
    moves = changes.timezone is not None or changes.anchor is not None
    had = before.rules if before is not None else ""
    if (
        not had
        and not moves
        and not overrides
        and not any(name not in PLAIN and value is not None for name, value in changes.limits.items())
    ):
        return {}
    limits = {**(before.limits if before is not None else {}), **changes.limits}
    kept = {name: value for name, value in limits.items() if value is not None}
    timezone, anchor = _place(before, changes)
    compiled: dict[str, Any] = {}
    known = _ids(had, before, now_ms)
    if rules := _compiled(kept, overrides, known, before.version if before is not None else 0):
        compiled["rules"] = rules
    if of_plain := {name: one for name, one in overrides.items() if name in PLAIN}:
        compiled["overrides"] = [[PLAIN.index(name) + 1, *_for_a_while(of_plain[name])] for name in in_order(of_plain)]
    if local := [period for period, follows in (("day", timezone), ("month", timezone or anchor)) if follows]:
        compiled |= {"local": local, "zone": f"{timezone} {anchor}"}
    if timezone:
        compiled["dated"] = True
    if overrides and compiled.keys() <= {"overrides", "rules"} and all(name in PLAIN for name in kept):
        compiled = {"ends": max(one.until_ms for one in overrides.values()) + KEPT_MS} | compiled
    fields = {RULES: orjson.dumps(compiled).decode() if compiled else ""}
    return fields | ({CALENDAR: ""} if moves else {})


def _place(before: Account | None, changes: Changes) -> tuple[str, str]:
    """Returns the time zone and the anchor behind a change; keys have none."""
    timezone, anchor = (before.timezone, before.anchor) if isinstance(before, Team) else ("", "")
    return (
        timezone if changes.timezone is None else changes.timezone,
        anchor if changes.anchor is None else changes.anchor,
    )


def _compiled(
    limits: Mapping[str, int], overrides: Mapping[str, Override], ids: Mapping[str, str], version: int
) -> list[list[str | int]]:
    rules: list[list[str | int]] = []
    for at, name in enumerate(in_order(name for name in {**limits, **overrides} if name not in PLAIN)):
        if (read := read_limit_name(name)) is not None:
            rules.append(
                [
                    ids.get(name, f"{version}.{at}"),
                    name,
                    _KINDS[read.what],
                    limits.get(name, False),
                    folded(read.pattern),
                    _period(read),
                    *(_for_a_while(overrides[name]) if name in overrides else ()),
                ]
            )
    return rules


def _for_a_while(override: Override) -> tuple[int, int]:
    return (False if override.value is None else override.value), override.until_ms


def _period(name: LimitName) -> str | int:
    return name.rolling_hours * _SLOT_MS if name.rolling_hours else name.period


def _ids(stored: str, before: Account | None, now_ms: int) -> dict[str, str]:
    """The ids of the rules that there are."""
    ids = {name: identifier for identifier, name, *_ in orjson.loads(stored or "{}").get("rules", ())}
    if before is None:
        return ids
    there = {*before.limits, *(name for name, one in before.overrides.items() if one.holds(now_ms))}
    return {name: identifier for name, identifier in ids.items() if name in there}
