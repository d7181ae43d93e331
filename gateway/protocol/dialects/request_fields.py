"""Numbers in a request's decoded fields, checked as far as a hold depends on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.errors import GatewayError

MAX_TOKENS: Final = 1_000_000_000


def token_bound(fields: Mapping[str, Any], name: str) -> int | None:
    """Returns a bound on output, or None if the field is absent or null. Raises GatewayError `invalid_field`."""
    return whole_number(fields, name, most=MAX_TOKENS)


def whole_number(fields: Mapping[str, Any], name: str, *, most: int, least: int = 1) -> int | None:
    """Returns an integer within bounds, or None if it is absent or null. Raises GatewayError `invalid_field`."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise GatewayError("invalid_field", f"{name!r} must be a whole number from {least} to {most}.", param=name)
    return value


def written_tokens(value: object) -> tuple[int, int | None]:
    """Returns how many inputs a text field has, and their tokens if they are given as token ids.

    A string is one input, a list of strings has one per string, a list of token ids is one, and a list of such lists
    has one per list. Tokens are None for text: then the body's bytes tell.
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
