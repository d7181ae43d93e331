"""What a response used, as its upstream reports it: one value, one parser, for streams and for whole answers alike.

    OpenResponses `usage`                   Usage
    input_tokens                            input_tokens
    input_tokens_details.cached_tokens      cached_input_tokens    (0 where absent)
    output_tokens                           output_tokens
    output_tokens_details.reasoning_tokens  reasoning_tokens       (0 where absent)
    total_tokens                            total_tokens           (input + output where absent)
    cost (number or string, USD)            cost_usd               (not in the spec; some upstreams report it)

A usage without sound input and output counts is no usage at all: charging half of a bill would hide the other half.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Final, NamedTuple

MAX_TOKENS: Final = 2**53  # the largest range in which every JSON implementation counts exactly (RFC 8259, section 6)

# Decimal() would also read "NaN", "1_0" and exponents that make a number of a million digits.
_COST: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,2})?")
_MAX_COST_USD: Final = Decimal(10) ** 12


class Usage(NamedTuple):
    """Token counts of one response. `cost_usd`: the upstream's own price, a plain decimal string in USD, or None."""

    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    cost_usd: str | None


def parse_usage(obj: object) -> Usage | None:
    """The usage in a decoded JSON value; None where it has no sound input and output counts. Never raises."""
    if not isinstance(obj, dict):
        return None
    get = obj.get
    input_tokens, output_tokens = _count(get("input_tokens")), _count(get("output_tokens"))
    if input_tokens is None or output_tokens is None:
        return None
    total = _count(get("total_tokens"))
    cached = _detail(get("input_tokens_details"), "cached_tokens")
    reasoning = _detail(get("output_tokens_details"), "reasoning_tokens")
    cost = get("cost")
    return Usage(
        input_tokens,
        cached,
        output_tokens,
        reasoning,
        input_tokens + output_tokens if total is None else total,
        None if cost is None else _cost(cost),
    )


def _count(value: object) -> int | None:
    if type(value) is int:  # no bool
        return value if 0 <= value <= MAX_TOKENS else None
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_TOKENS:
        value = int(value)  # "12.0" is what some JSON writers make of 12
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_TOKENS else None


def _detail(details: object, name: str) -> int:
    return (_count(details.get(name)) or 0) if isinstance(details, dict) else 0


def _cost(value: object) -> str | None:
    """A float's repr is the shortest text that means it: the digits that the upstream wrote, up to 17 of them."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, int) and not 0 <= value < _MAX_COST_USD:
        return None  # before repr: Python refuses to write very long integers
    text = value if isinstance(value, str) else repr(value)
    if _COST.fullmatch(text) is None:
        return None
    cost = Decimal(text)
    return f"{cost:f}" if cost < _MAX_COST_USD else None


def find_usage(tail: bytes) -> Usage | None:
    """The last usage in the last bytes of a JSON text that is too large to hold; None if none is whole. Never raises.

    A quoted key cannot stand inside a JSON string, where its quotes would be escaped.
    """
    at = len(tail)
    while (at := tail.rfind(b'"usage"', 0, at)) >= 0:
        text = tail[at + len(b'"usage"') :].decode("utf-8", "replace").lstrip(" \t\r\n:")
        try:
            usage = parse_usage(json.JSONDecoder().raw_decode(text)[0])
        except (ValueError, RecursionError):
            continue
        if usage is not None:
            return usage
    return None
