"""Limits that hold for a while instead of others: until when, and what holds again from then on. Pure.

The hash of a team or a key has a field `t:<limit>` for each: "<value, or none for no limit> <until, ms> <who set it>".
Each read compares its end with the store's clock, so that nothing has to run when it ends. rules.py compiles what the
scripts need.

A later change drops an override that has ended. That of a rate is kept for `ENDED_RATE_LIFE_MS` more: the first script
that reads the rate's bucket after the end has to know when the override ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from gateway.accounts.limit_names import PLAIN, read_limit_name
from gateway.errors import GatewayError
from gateway.protocol.timestamps import iso_time

OVERRIDE_FIELD: Final = "t:"
ENDED_RATE_LIFE_MS: Final = 86_400_000
_NONE: Final = "none"
RATES: Final = ("rpm", "tpm")


class Override(NamedTuple):
    """A limit for a while. A `value` of None: no limit. `by_operator`: a team's lead must not change it (keys)."""

    value: int | None
    until_ms: int
    by_operator: bool = True

    def stored(self) -> str:
        """Returns the value of its field."""
        value = _NONE if self.value is None else str(self.value)
        return f"{value} {self.until_ms} {'operator' if self.by_operator else 'lead'}"

    def differs(self, other: Override | None) -> bool:
        """Whether the other one says something else, whoever set it; None: it is to end."""
        return other is None or self[:2] != other[:2]

    def is_in_force(self, now_ms: int) -> bool:
        """Whether the override applies at a time of the store's clock."""
        return now_ms < self.until_ms


def read_overrides(stored: Mapping[str, str]) -> dict[str, Override]:
    """Reads the overrides of a team's or a key's hash. Raises ValueError."""
    found: dict[str, Override] = {}
    for field, text in stored.items():
        if field.startswith(OVERRIDE_FIELD):
            value, until_ms, who = text.split(" ")
            found[field.removeprefix(OVERRIDE_FIELD)] = Override(
                None if value == _NONE else int(value), int(until_ms), who == "operator"
            )
    return found


def is_rate(name: str) -> bool:
    """Whether a limit's name is one of a rate, also of some models or of each end user."""
    read = read_limit_name(name)
    return read is not None and read.base in RATES


def in_force(limits: Mapping[str, int], overrides: Mapping[str, Override], now_ms: int) -> dict[str, int]:
    """Returns the limits that apply at a time of the store's clock."""
    values: dict[str, int | None] = {
        **limits,
        **{name: one.value for name, one in overrides.items() if one.is_in_force(now_ms)},
    }
    return {name: value for name, value in values.items() if value is not None}


def changed_overrides(
    before: Mapping[str, Override],
    changes: Mapping[str, Override | None],
    limits: Mapping[str, int | None],
    now_ms: int,
) -> dict[str, Override]:
    """Returns the overrides after a change, without those that have ended and are not needed any more.

    `changes` has None for an override that ends now. `limits` are the account's after the change.

    Raises GatewayError `invalid_field` for one whose end has passed.
    """
    after = dict(before)
    for name, change in changes.items():
        known = before.get(name)
        if known is not None and change is not None and not known.differs(change):
            after[name] = known._replace(by_operator=known.by_operator or change.by_operator)
            continue  # a form sends what it has shown
        if change is not None and not change.is_in_force(now_ms):
            raise GatewayError(
                "invalid_field",
                f"overrides.{name}.until: {iso_time(change.until_ms)} has passed: it would never hold.",
                param=f"overrides.{name}.until",
            )
        if change is not None:
            after[name] = change
        elif known is not None and known.is_in_force(now_ms):
            after[name] = known._replace(until_ms=now_ms)
    return {
        name: one
        for name, one in after.items()
        if one.is_in_force(now_ms) or _is_still_needed(name, one, limits, now_ms)
    }


def override_fields(before: Mapping[str, Override], after: Mapping[str, Override]) -> dict[str, str]:
    """Returns the fields of the hash that make the difference, "" for one that goes."""
    gone = {OVERRIDE_FIELD + name: "" for name in before if name not in after}
    return gone | {OVERRIDE_FIELD + name: one.stored() for name, one in after.items() if before.get(name) != one}


def first_end_ms(overrides: Mapping[str, Override], now_ms: int) -> int | None:
    """Returns when the first of those that hold ends, or None."""
    return min((one.until_ms for one in overrides.values() if one.is_in_force(now_ms)), default=None)


def _is_still_needed(name: str, ended: Override, limits: Mapping[str, int | None], now_ms: int) -> bool:
    """Whether scripts may still meet the bucket of a rate whose override has ended."""
    has_bucket = name in PLAIN or limits.get(name) is not None
    return is_rate(name) and has_bucket and now_ms < ended.until_ms + ENDED_RATE_LIFE_MS
