"""Says why no limit has a name, and which name was probably meant. Pure."""

from __future__ import annotations

import difflib
import re
from types import MappingProxyType
from typing import Final

from gateway.accounts.limit_names import (
    END_USER,
    LIMITS,
    MAX_ROLLING_HOURS,
    MODELS,
    OF_EACH_END_USER,
    is_limit,
    with_pattern,
)

_ROLLING_BUDGET: Final = re.compile(r"budget_(usd|token)s?_?([0-9]{0,9})_?([a-z]+?)(?:s|ly)?", re.ASCII)
"""A budget of the last hours or days as people write it: budget_usd_500d, budget_tokens_2weeks, budget_usd_yearly."""
_HOURS: Final = MappingProxyType(
    {"h": 1, "hour": 1, "d": 24, "day": 24, "w": 168, "week": 168, "month": 720, "y": 8760, "year": 8760}
)
_UNITS: Final = MappingProxyType({"usd": "usd", "token": "tokens"})
_SUCH_AS: Final = "budgets of the last hours or days are such as budget_usd_24h or budget_tokens_7d"
_FURTHEST: Final = f"budgets of the last hours or days reach back {MAX_ROLLING_HOURS // 24}d at most"


def why_no_limit(name: str) -> str:
    """Returns how the message "NAME is not a limit" goes on: "; is it rpm?", or ": " and the reason."""
    prefix = END_USER if name.startswith(END_USER) else ""
    plain, _, pattern = name.removeprefix(prefix).partition(MODELS)
    if is_limit(plain) and MODELS in name and is_limit(with_pattern(prefix + plain, "*")):
        return f": {pattern!r} names no models: name one model, or all below one part, as in a/*"
    if is_limit(plain) and prefix and not is_limit(prefix + plain):
        return ": limits of each end user are rates, concurrency, and budgets of a period; none is in total"
    if is_limit(plain) and MODELS in name:
        return f": {plain} holds for all models; rates, concurrency and budgets can hold for some, as in rpm@openai/*"
    if (found := _ROLLING_BUDGET.fullmatch(plain.lower())) is not None and (found[2] or found[3] == "year"):
        return _rolling_budget(found, prefix, pattern)
    near = difflib.get_close_matches(prefix + plain.lower(), (*LIMITS, *OF_EACH_END_USER), n=1)
    return _is_it(near[0], pattern) if near else f": {', '.join(LIMITS)}; {_SUCH_AS}"


def _rolling_budget(found: re.Match[str], prefix: str, pattern: str) -> str:
    number, unit = int(found[2] or 1), found[3]
    hours = number * _HOURS.get(unit, 0)
    if not hours:
        return f": {_SUCH_AS}"
    if hours > MAX_ROLLING_HOURS:
        return f": {_FURTHEST}"
    period = f"{number}h" if _HOURS[unit] == 1 else f"{hours // 24}d"
    return _is_it(f"{prefix}budget_{_UNITS[found[1]]}_{period}", pattern)


def _is_it(name: str, pattern: str) -> str:
    meant = with_pattern(name, pattern)
    return f"; is it {meant if is_limit(meant) else name}?"
