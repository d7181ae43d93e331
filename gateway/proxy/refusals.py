"""Which of several upstreams' refusals a client is told, and whose account a refusal is about. Pure.

The one that helps most is told, in whatever order they came:

    1. 429: come back, after the shortest time that any of them says
    2. 5xx: come back; one that says when before one that does not, one that can be read before one that cannot
    3. 401, 402, a 429 of `insufficient_quota`: the gateway's own account, of which a caller can do nothing
"""

from __future__ import annotations

from typing import Final

from gateway.protocol.lenient_json import parse_object
from gateway.upstream.upstream import ACCOUNT_REFUSED, RATE_LIMITED

PAYMENT_REQUIRED: Final = 402
_QUOTA: Final = "insufficient_quota"
_LONGEST_READ: Final = 64 * 1024

Rank = tuple[int, bool, float]
"""The largest is told."""


def account_status(status: int, body: bytes) -> int:
    """A refusal's status: 402 for a 429 that says that the account is spent, where waiting is no help."""
    return PAYMENT_REQUIRED if status == RATE_LIMITED and _is_spent(body) else status


def rank(status: int, body: bytes, wait_s: float | None) -> Rank:
    """`status`: as `account_status` gives it."""
    soonest = (wait_s is not None, -wait_s if wait_s is not None else 0.0)
    if status in ACCOUNT_REFUSED:
        return (0, *soonest)
    if status == RATE_LIMITED:
        return (3, *soonest)
    return (2 if _is_readable(body) else 1, *soonest)


def _is_spent(body: bytes) -> bool:
    if _QUOTA.encode() not in body or len(body) > _LONGEST_READ:
        return False
    error = (parse_object(body) or {}).get("error")
    return isinstance(error, dict) and _QUOTA in (error.get("code"), error.get("type"))


def _is_readable(body: bytes) -> bool:
    return len(body) <= _LONGEST_READ and parse_object(body) is not None
