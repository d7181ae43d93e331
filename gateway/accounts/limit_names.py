"""The names of limits and their meaning. Pure.

    rpm, tpm, concurrency, max_output_tokens, queue_s, queue_length
    budget_usd_<period>, budget_tokens_<period>     of an hour, day, week, month, quarter, or total;
                                                    or of the last hours or days, as in budget_usd_24h, budget_tokens_7d
    <name>@<pattern>                                the same for the models of a pattern, as in rpm@openai/*
    end_user.<name>                                 the same for each end user by itself, as in end_user.rpm@openai/*

The hash of a team or a key has a field for each limit. The scripts read the fields of `PLAIN` limits. The other limits
are compiled into the field "rules" for them (rules.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import MappingProxyType
from typing import Final, NamedTuple

from gateway.routing.model_patterns import is_pattern

QUEUE_LIMITS: Final = ("queue_s", "queue_length")
"""How long requests wait in the queue instead of being refused, and how many may wait. Without both, none waits."""
UNITS: Final = ("usd", "tokens")
_PLAIN_PERIODS: Final = ("hour", "day", "month", "total")
PLAIN: Final = (
    "rpm",
    "tpm",
    "concurrency",
    "max_output_tokens",
    *(f"budget_{unit}_{period}" for unit in UNITS for period in _PLAIN_PERIODS),
    *QUEUE_LIMITS,
)
"""The limits that scripts read from the hash. limits.lua has the first twelve in the same order."""
CALENDAR_PERIODS: Final = ("day", "week", "month", "quarter")
"""The periods whose beginnings depend on a time zone and an anchor."""
FIXED_PERIODS: Final = ("hour", "day", "week", "month", "quarter", "total")
LIMITS: Final = (
    "rpm",
    "tpm",
    "concurrency",
    "max_output_tokens",
    *(f"budget_{unit}_{period}" for unit in UNITS for period in FIXED_PERIODS),
    *QUEUE_LIMITS,
)
"""Every limit without a number in its name, in the order of lists; without those of each end user."""
MAX_ROLLING_HOURS: Final = 366 * 24
MODELS: Final = "@"
"""The separator between a limit's name and the pattern of its models."""
MAX_PATTERN_LENGTH: Final = 256
END_USER: Final = "end_user."
"""The prefix of a limit that applies to each end user separately."""
_EACH: Final = ("rpm", "tpm", "concurrency", "budget_usd", "budget_tokens")
OF_EACH_END_USER: Final = tuple(
    END_USER + name for name in LIMITS if name.startswith(_EACH) and not name.endswith("_total")
)
_OF_MODELS: Final = frozenset(_EACH)
_SEPARATORS: Final = frozenset(",|=")
"""Separators that follow names of limits in lists, in roll-ups and on the command line."""
_HOURS: Final = MappingProxyType({"h": 1, "d": 24})
_BUDGET: Final = re.compile(r"budget_(usd|tokens)_(?:([1-9][0-9]{0,3})([hd])|([a-z]+))", re.ASCII)
_ORDER: Final = MappingProxyType({name: at for at, name in enumerate(LIMITS)})


class LimitName(NamedTuple):
    """The parts of a limit's name.

    `base`: the name without a period, such as rpm or budget_usd. `period`: the period of a budget, otherwise "".
    `rolling_hours`: for a budget of the last hours or days, the number of hours, otherwise 0. `pattern`: the pattern of
    its models; "" for all models. `each`: it applies to each end user separately.
    """

    base: str
    period: str = ""
    rolling_hours: int = 0
    pattern: str = ""
    each: bool = False

    @property
    def is_money(self) -> bool:
        """Returns whether its value is in nano-USD."""
        return self.base == "budget_usd"

    @property
    def is_budget(self) -> bool:
        """Returns whether it is a budget."""
        return self.base.startswith("budget_")


def read_limit_name(name: str) -> LimitName | None:
    """Reads the name of a limit. Returns None if there is no such limit."""
    if name.startswith(END_USER):
        read = read_limit_name(name.removeprefix(END_USER))
        # What an end user has used in total would have to be counted for ever.
        fits = read is not None and not read.each and read.base in _EACH and read.period != "total"
        return read._replace(each=True) if read is not None and fits else None
    plain, separator, pattern = name.partition(MODELS)
    if not separator:
        return _read_plain(name)
    is_valid = is_pattern(pattern) and len(pattern) <= MAX_PATTERN_LENGTH and _SEPARATORS.isdisjoint(pattern)
    read = _read_plain(plain) if is_valid else None
    return read._replace(pattern=pattern) if read is not None and read.base in _OF_MODELS else None


def _read_plain(name: str) -> LimitName | None:
    found = _BUDGET.fullmatch(name)
    if found is None:
        return LimitName(name) if name in _ORDER else None
    unit, number, scale, period = found.groups()
    if period is not None:
        return LimitName(f"budget_{unit}", period) if period in FIXED_PERIODS else None
    hours = int(number) * _HOURS[scale]
    return LimitName(f"budget_{unit}", number + scale, hours) if hours <= MAX_ROLLING_HOURS else None


def with_pattern(name: str, pattern: str) -> str:
    """Returns the name of a limit for the models of a pattern; "" for all models."""
    return f"{name}{MODELS}{pattern}" if pattern else name


def is_limit(name: str) -> bool:
    """Returns whether a limit has this name."""
    return read_limit_name(name) is not None


def in_order(names: Iterable[str]) -> list[str]:
    """Returns names of limits in the order of `LIMITS`, then those with patterns, sorted by pattern.

    Budgets of the last hours or days come before the total, limits of each end user after all others.
    """
    return sorted(names, key=_sort_key)


def period_in_words(name: LimitName) -> str:
    """Returns the period of a budget in words: "a week", "in total", "in any 7 days"."""
    if name.rolling_hours:
        number, scale = int(name.period[:-1]), "hour" if name.period.endswith("h") else "day"
        return f"in any {scale if number == 1 else f'{number} {scale}s'}"
    return {"total": "in total", "hour": "an hour"}.get(name.period, f"a {name.period}")


def _sort_key(name: str) -> tuple[bool, str, float, int, str]:
    each = name.startswith(END_USER)
    plain, _, pattern = name.removeprefix(END_USER).partition(MODELS)
    read = read_limit_name(plain)
    if read is not None and read.rolling_hours:
        return each, pattern, _ORDER[f"{read.base}_total"] - 0.5, read.rolling_hours, name
    return each, pattern, _ORDER.get(plain, len(_ORDER)), 0, name
