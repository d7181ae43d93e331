"""Reads the numbers in a request's decoded fields that its hold depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.errors import GatewayError

MAX_TOKENS: Final = 1_000_000_000


def token_bound(fields: Mapping[str, Any], name: str) -> int | None:
    """Returns a bound on output, or None if the field is absent or null. Raises GatewayError `invalid_field`."""
    return whole_number(fields, name, maximum=MAX_TOKENS)


def whole_number(fields: Mapping[str, Any], name: str, *, maximum: int, minimum: int = 1) -> int | None:
    """Returns an integer within bounds, or None if it is absent or null. Raises GatewayError `invalid_field`."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise GatewayError("invalid_field", f"{name!r} must be a whole number from {minimum} to {maximum}.", param=name)
    return value


def count_inputs(value: object) -> tuple[int, int | None]:
    """Returns how many inputs a text field has, and how many tokens if they are given as token ids.

    A string is one input, a list of strings has one per string, a list of token ids is one, and a list of such lists
    has one per list. The tokens are None for text, for which the body's bytes are a bound.
    """
    if not isinstance(value, list) or not value:
        return 1, None
    if all(_is_id(entry) for entry in value):
        return 1, len(value)
    if all(isinstance(entry, list) and all(_is_id(token) for token in entry) for entry in value):
        return len(value), sum(len(entry) for entry in value)
    return len(value), None


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
