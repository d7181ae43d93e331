"""The settings of the ledger, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LedgerPolicy:
    """Lifetimes, bounds, and what happens while the store is unavailable."""

    hold_ttl_s: float
    resolution_ttl_s: int
    journal_retention_s: int
    usage_retention_s: int
    idempotency_ttl_s: int
    on_failure: str
    lease_s: float
    unreplicated_max: int
    burst: float
    max_end_users: int
