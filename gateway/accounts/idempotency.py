"""Idempotency keys of creations. The first request stores a claim. A repeat finds it and completes the same creation.

A claim's value is "<id> <digest of the request> <salt>". A script that marks the claim as completed appends " done".
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from gateway.errors import GatewayError
from gateway.store.replies import gather
from gateway.store.store import Store


async def claim(store: Store, name: str, new: str, idempotency_key: IdempotencyKey, ttl_ms: int) -> tuple[str, str]:
    """Returns the id and the salt for this creation: new ones, or those of an earlier request with the same key.

    Raises GatewayError `idempotency_mismatch` if the key was used for another request, and `store_unavailable`.
    """
    mine = f"{new} {idempotency_key.request} {secrets.token_hex(32)}"
    before = (await gather([store.run("SET", name, mine, "NX", "GET", "PX", str(ttl_ms))]))[0]
    claimed, request, salt = (before.decode() if before is not None else mine).split(" ")[:3]
    if request != idempotency_key.request:
        raise mismatch()
    return claimed, salt


def mismatch() -> GatewayError:
    """Returns the error for an idempotency key that was used for another request."""
    return GatewayError(
        "idempotency_mismatch", "This Idempotency-Key was used for another request.", param="Idempotency-Key"
    )


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """An admin's Idempotency-Key on a creation.

    `request` is the digest of the body; `pepper` is the operator's secret.
    """

    key: str = field(repr=False)
    request: str
    pepper: bytes = field(repr=False)

    def seed(self, salt: str) -> bytes:
        """Returns the 64 bytes from which a new API key's secret is derived.

        They are HMAC-SHA-512 over a random salt and the idempotency key, keyed by the pepper. The store keeps the salt
        for as long as repeats are recognised, and only the SHA-256 of the idempotency key. A repeat whose first answer
        was lost therefore returns the same API key, although no secret is stored.
        """
        return hmac.digest(self.pepper, f"api-key\0{salt}\0{self.key}".encode(), hashlib.sha512)
