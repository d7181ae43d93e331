"""Reads the `provider` object of a request: the upstreams that its caller prefers, and the highest price. Pure.

    {"order": [...], "only": [...], "ignore": [...], "allow_fallbacks": false, "max_price": {"prompt", "completion"}}

`max_price` is in USD per million tokens. Members of another form are ignored here, and passed on to the provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

MEMBERS: Final = frozenset({"order", "only", "ignore", "allow_fallbacks", "max_price"})
"""The members that are read here."""
_MAX_NAMES: Final = 100
_NANO: Final = 10**9
_MAX_PRICE_USD: Final = Decimal(10**9)


class Preferences(NamedTuple):
    """A caller's preferences. `prompt_nano_usd`, `completion_nano_usd`: the most for a million tokens, or None."""

    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    allow_fallbacks: bool = True
    prompt_nano_usd: int | None = None
    completion_nano_usd: int | None = None


def read_preferences(value: object) -> Preferences | None:
    """Returns the preferences in a `provider` object, or None if it has none."""
    if not isinstance(value, dict):
        return None
    price = value.get("max_price")
    price = price if isinstance(price, dict) else {}
    found = Preferences(
        _names(value, "order"),
        _names(value, "only"),
        _names(value, "ignore"),
        value.get("allow_fallbacks") is not False,
        _nano_usd(price.get("prompt")),
        _nano_usd(price.get("completion")),
    )
    return None if found == Preferences() else found


def _names(value: Mapping[str, Any], field: str) -> tuple[str, ...]:
    names = value.get(field)
    return tuple(name for name in names[:_MAX_NAMES] if isinstance(name, str)) if isinstance(names, list) else ()


def _nano_usd(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return int(amount * _NANO) if amount.is_finite() and 0 <= amount <= _MAX_PRICE_USD else None
