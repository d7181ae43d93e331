"""Ids that the gateway makes, and can tell from those of providers without a store. Pure.

    new_id("resp")      "resp_", 40 random digits, and 8 that follow from them
    is_own(identifier)  whether an id has this form

A route with `foreign_ids = "pass"` names what is not kept here to the provider. What this gateway has made and does not
have any more, or has for another team, must not be looked for there: on such a route every response has an own id.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

_RANDOM_BYTES: Final = 20
_CHECK_DIGITS: Final = 8


def new_id(prefix: str) -> str:
    """Returns a new id: 49 characters and the prefix."""
    random = secrets.token_hex(_RANDOM_BYTES)
    return f"{prefix}_{random}{_check(prefix, random)}"


def is_own(identifier: str) -> bool:
    """Whether this gateway, or another one, has made the id. Of other ids one in four billion looks so."""
    prefix, _, digits = identifier.partition("_")
    return digits[-_CHECK_DIGITS:] == _check(prefix, digits[:-_CHECK_DIGITS])


def _check(prefix: str, random: str) -> str:
    return hashlib.sha256(f"gateway {prefix} {random}".encode("utf-8", "replace")).hexdigest()[:_CHECK_DIGITS]
