"""Idempotency keys of creations: the first request claims one, a repeat finds the claim and completes the same.

value of a claim    "<id> <digest of the request> <salt>", and " done" where a script marks it so
"""

from __future__ import annotations

import secrets

from gateway.errors import GatewayError
from gateway.ledger.replies import gather
from gateway.ledger.store import Store
from gateway.ledger.team import Once


async def claim(store: Store, name: str, new: str, once: Once, ttl_ms: int) -> tuple[str, str]:
    """The id and salt under which this creation runs: the new ones, or those of the request that it repeats.

    Raises GatewayError `idempotency_mismatch` where the key was used for another request, `store_unavailable`.
    """
    mine = f"{new} {once.request} {secrets.token_hex(32)}"
    before = (await gather([store.run("SET", name, mine, "NX", "GET", "PX", str(ttl_ms))]))[0]
    claimed, request, salt = (before.decode() if before is not None else mine).split(" ")[:3]
    if request != once.request:
        raise mismatch()
    return claimed, salt


def mismatch() -> GatewayError:
    """The refusal of an idempotency key that was used for something else."""
    return GatewayError(
        "idempotency_mismatch", "This Idempotency-Key was used for another request.", param="Idempotency-Key"
    )
