"""What the scripts need to know of limits that they do not read by themselves: the field "rules". Pure.

    rule_fields(before, changes)    -> the fields to write beside a change, which hold for this version alone

meters.lua explains the form. A rule has an id for as long as the limit is there, whatever its value becomes: what it
has counted stays. A limit that is removed and set again gets another one, so that requests which ran meanwhile do not
count back what nobody has counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from gateway.accounts.entities import Account, Changes, Team
from gateway.accounts.limit_names import PLAIN, LimitName, in_order, read_limit_name
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


def rule_fields(before: Account | None, changes: Changes) -> dict[str, str]:
    """Returns the fields that a change makes necessary, "" for one that goes; none where nothing is compiled.

    They are true of the version that was read, so that they must not be written over another one.
    """
    moves = changes.timezone is not None or changes.anchor is not None
    had = before.rules if before is not None else ""
    if (
        not had
        and not moves
        and not any(name not in PLAIN and value is not None for name, value in changes.limits.items())
    ):
        return {}
    limits = {**(before.limits if before is not None else {}), **changes.limits}
    kept = {name: value for name, value in limits.items() if value is not None}
    timezone, anchor = _place(before, changes)
    compiled: dict[str, Any] = {}
    if rules := _compiled(kept, _ids(had), before.version if before is not None else 0):
        compiled["rules"] = rules
    if local := [period for period, follows in (("day", timezone), ("month", timezone or anchor)) if follows]:
        compiled |= {"local": local, "zone": f"{timezone} {anchor}"}
    if timezone:
        compiled["dated"] = True
    fields = {RULES: orjson.dumps(compiled).decode() if compiled else ""}
    return fields | ({CALENDAR: ""} if moves else {})


def _place(before: Account | None, changes: Changes) -> tuple[str, str]:
    """Returns the time zone and the anchor behind a change; keys have none."""
    timezone, anchor = (before.timezone, before.anchor) if isinstance(before, Team) else ("", "")
    return (
        timezone if changes.timezone is None else changes.timezone,
        anchor if changes.anchor is None else changes.anchor,
    )


def _compiled(limits: Mapping[str, int], ids: Mapping[str, str], version: int) -> list[list[str | int]]:
    rules: list[list[str | int]] = []
    for at, name in enumerate(in_order(name for name in limits if name not in PLAIN)):
        if (read := read_limit_name(name)) is not None:
            rules.append(
                [
                    ids.get(name, f"{version}.{at}"),
                    name,
                    _KINDS[read.what],
                    limits[name],
                    folded(read.pattern),
                    _period(read),
                ]
            )
    return rules


def _period(name: LimitName) -> str | int:
    return name.rolling_hours * _SLOT_MS if name.rolling_hours else name.period


def _ids(stored: str) -> dict[str, str]:
    """The ids of the rules that there are."""
    return {name: identifier for identifier, name, *_ in orjson.loads(stored or "{}").get("rules", ())}
