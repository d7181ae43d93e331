"""Idempotency keys of creations: the first request claims one, a repeat finds the claim and completes the same.

value of a claim    "<id> <digest of the request> <salt>", and " done" where a script marks it so
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
    """The id and salt under which this creation runs: the new ones, or those of the request that it repeats.

    Raises GatewayError `idempotency_mismatch` where the key was used for another request, `store_unavailable`.
    """
    mine = f"{new} {idempotency_key.request} {secrets.token_hex(32)}"
    before = (await gather([store.run("SET", name, mine, "NX", "GET", "PX", str(ttl_ms))]))[0]
    claimed, request, salt = (before.decode() if before is not None else mine).split(" ")[:3]
    if request != idempotency_key.request:
        raise mismatch()
    return claimed, salt


def mismatch() -> GatewayError:
    """The refusal of an idempotency key that was used for something else."""
    return GatewayError(
        "idempotency_mismatch", "This Idempotency-Key was used for another request.", param="Idempotency-Key"
    )


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """An admin's Idempotency-Key on a creation. `request`: digest of what was asked; `pepper`: the operator's."""

    key: str = field(repr=False)
    request: str
    pepper: bytes = field(repr=False)

    def seed(self, salt: str) -> bytes:
        """64 bytes that a new API key's secret is made of: the same for a repeat, known to nobody without the pepper.

        HMAC-SHA-512 over a random salt (kept in the store for as long as repeats are recognised) and the idempotency
        key (of which the store knows the SHA-256 alone). So a repeat whose first answer was lost gets the same API
        key, and yet no secret is stored.
        """
        return hmac.digest(self.pepper, f"api-key\0{salt}\0{self.key}".encode(), hashlib.sha512)
