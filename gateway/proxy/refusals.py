"""Decides which of several upstreams' refusals the client receives, and whose account a refusal concerns. Pure.

The most helpful one is chosen, in this order and whenever it came:

    1. 429: retry after the shortest time that any of them states
    2. 5xx: retry; one that states a time before one that does not, a readable one before an unreadable one
    3. 401, 402, and a 429 with `insufficient_quota`: the gateway's own account, which the caller cannot change
    4. 404 of an upstream that does not offer the operation
"""

from __future__ import annotations

from typing import Final

from gateway.protocol.lenient_json import parse_object
from gateway.upstream.upstream import ACCOUNT_REFUSED, RATE_LIMITED

PAYMENT_REQUIRED: Final = 402
_QUOTA: Final = "insufficient_quota"
_MAX_PARSED_BYTES: Final = 64 * 1024

Rank = tuple[int, bool, float]
"""The largest rank wins."""
NOT_OFFERED: Final[Rank] = (-1, False, 0.0)


def account_status(status: int, body: bytes) -> int:
    """Returns a refusal's status, or 402 for a 429 that reports a spent account, because waiting does not help then."""
    return PAYMENT_REQUIRED if status == RATE_LIMITED and _is_spent(body) else status


def rank(status: int, body: bytes, wait_s: float | None) -> Rank:
    """Returns the rank of a refusal. `status` is that of `account_status`."""
    soonest = (wait_s is not None, -wait_s if wait_s is not None else 0.0)
    if status in ACCOUNT_REFUSED:
        return (0, *soonest)
    if status == RATE_LIMITED:
        return (3, *soonest)
    return (2 if _is_readable(body) else 1, *soonest)


def _is_spent(body: bytes) -> bool:
    if _QUOTA.encode() not in body or len(body) > _MAX_PARSED_BYTES:
        return False
    error = (parse_object(body) or {}).get("error")
    return isinstance(error, dict) and _QUOTA in (error.get("code"), error.get("type"))


def _is_readable(body: bytes) -> bool:
    return len(body) <= _MAX_PARSED_BYTES and parse_object(body) is not None
