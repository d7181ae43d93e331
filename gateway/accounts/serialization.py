"""Stored values as JSON: money as decimal strings in USD, times as ISO 8601, limits with what remains of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.accounts.entities import LIMITS, QUEUE_LIMITS, Balance, Pause
from gateway.billing.money import format_usd
from gateway.protocol.timestamps import iso_time

NOTHING: Final[Mapping[str, int]] = MappingProxyType({})


def time_json(ms: int) -> str | None:
    """Returns a time in ms as ISO 8601, or None for 0, which means never."""
    return iso_time(ms) if ms else None


def balance_json(balance: Balance) -> dict[str, str]:
    """Returns a balance in USD. granted = available + held + spent."""
    return {f"{name}_usd": format_usd(getattr(balance, name)) for name in ("granted", "available", "held", "spent")}


def pause_json(pause: Pause | None) -> dict[str, str] | None:
    """Returns since when a team is paused, and the request that cost more than was held for it; None: it is not."""
    return None if pause is None else {"at": iso_time(pause.at_ms), "request_id": pause.request_id}


def limits_json(view: Mapping[str, int], now_ms: int, limits: Mapping[str, int] = NOTHING) -> dict[str, dict[str, Any]]:
    """Returns each configured limit as {"limit", "remaining", "resets_at"}.

    `resets_at` is the time at which the whole limit is available again, or null. `limits` are the account's own: the
    view has those that are counted.
    """
    queue = {name: limits[name] for name in QUEUE_LIMITS if name in limits}
    return {name: _limit(name, {**view, **queue}, now_ms) for name in LIMITS if name in view or name in queue}


def _limit(name: str, view: Mapping[str, int], now_ms: int) -> dict[str, Any]:
    limit = view[name]
    if name in ("rpm", "tpm"):
        wait_ms = view[f"{name}_reset_ms"]
        resets_at = iso_time(now_ms + wait_ms) if wait_ms else None
        return {"limit": limit, "remaining": view[f"{name}_left"], "resets_at": resets_at}
    if name == "concurrency":
        return {"limit": limit, "remaining": max(0, limit - view["used_open"]), "resets_at": None}
    if name == "max_output_tokens" or name in QUEUE_LIMITS:
        return {"limit": limit}
    _, unit, period = name.split("_")
    used = view[f"used_{period}_{unit}"]
    resets_at = None if period == "total" else iso_time(view[f"{period}_ends_ms"])
    if unit == "usd":
        return {
            "limit_usd": format_usd(limit),
            "used_usd": format_usd(used),
            "remaining_usd": format_usd(max(0, limit - used)),
            "resets_at": resets_at,
        }
    return {"limit": limit, "used": used, "remaining": max(0, limit - used), "resets_at": resets_at}
