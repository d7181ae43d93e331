"""Stored values as JSON: money as decimal strings in USD, times as ISO 8601, limits with their remaining amounts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from gateway.accounts.entities import Account, Balance, Pause, Rule, View
from gateway.accounts.limit_names import END_USER, QUEUE_LIMITS, in_order, read_limit_name
from gateway.accounts.overrides import Override
from gateway.billing.money import format_usd
from gateway.protocol.timestamps import iso_time

_NO_OVERRIDES: Final[Mapping[str, Override]] = MappingProxyType({})


def time_json(ms: int) -> str | None:
    """Returns a time in ms as ISO 8601, or None for 0, which means never."""
    return iso_time(ms) if ms else None


def balance_json(balance: Balance) -> dict[str, Any]:
    """Returns a balance in USD. granted = available + held + spent. `expiring`: the available part that expires."""
    sums = {f"{name}_usd": format_usd(getattr(balance, name)) for name in ("granted", "available", "held", "spent")}
    lots = [
        {"expires_at": iso_time(lot.expires_ms), "available_usd": format_usd(lot.available)} for lot in balance.lots
    ]
    return {**sums, "expiring": lots}


def pause_json(pause: Pause | None) -> dict[str, str] | None:
    """Returns when the pause of a team began, and the request that cost more than its hold; None without a pause."""
    return None if pause is None else {"at": iso_time(pause.at_ms), "request_id": pause.request_id}


def limits_json(view: View, scope: Literal["team", "key"], account: Account | None = None) -> dict[str, dict[str, Any]]:
    """Returns each present limit of a team or a key as {"limit", "remaining", "resets_at"}.

    `resets_at` is the time at which the whole limit is available again, or null. If the account is given, a limit with
    an override has "override": the override's end, and the limit that applies after it. The limit is null if the
    override removes it. Limits of each end user come from the account, without what remains of them.
    """
    plain, rows = (view.team, view.team_rules) if scope == "team" else (view.key, view.key_rules)
    rules = {rule.name: rule for rule in rows}
    overrides = account.overrides if account is not None else _NO_OVERRIDES
    overrides = {name: one for name, one in overrides.items() if one.is_in_force(view.now_ms)}
    names = {name for name in plain if read_limit_name(name) is not None} | set(rules)
    found: dict[str, dict[str, Any]] = {}
    each = {name for name in account.limits if name.startswith(END_USER)} if account is not None else set()
    for name in in_order(names | each | set(overrides)):
        if name.startswith(END_USER) and account is not None:
            value = overrides[name].value if name in overrides else account.limits[name]
            found[name] = _amount("limit", name, value)
        elif name in names:
            found[name] = _rule_json(rules[name]) if name in rules else _limit_json(name, plain, view.now_ms)
        else:
            usd = "_usd" if _is_money(name) else ""
            found[name] = dict.fromkeys((f"limit{usd}", f"remaining{usd}", "resets_at"))
        if name in overrides and account is not None:
            found[name]["override"] = _override_json(name, overrides[name], account.limits.get(name))
    return found


def each_json(rules: Iterable[Rule]) -> dict[str, dict[str, Any]]:
    """Returns the limits of each end user with what remains of them for one, in the form of `limits_json`."""
    shown = {END_USER + rule.name: _rule_json(rule) for rule in rules}
    return {name: shown[name] for name in in_order(shown)}


def _amount(field: str, name: str, value: int | None) -> dict[str, Any]:
    shown = None if value is None else format_usd(value)
    return {f"{field}_usd": shown} if _is_money(name) else {field: value}


def _override_json(name: str, override: Override, otherwise: int | None) -> dict[str, Any]:
    shown = format_usd(otherwise) if otherwise is not None and _is_money(name) else otherwise
    return {"until": iso_time(override.until_ms), "otherwise": shown}


def _is_money(name: str) -> bool:
    read = read_limit_name(name)
    return read is not None and read.is_money


def _rule_json(rule: Rule) -> dict[str, Any]:
    name = read_limit_name(rule.name)
    if name is not None and name.is_budget:
        return _budget_json(rule.limit, rule.used, time_json(rule.ends_ms), in_usd=name.is_money)
    return {"limit": rule.limit, "remaining": rule.left, "resets_at": time_json(rule.ends_ms)}


def _limit_json(name: str, view: Mapping[str, int], now_ms: int) -> dict[str, Any]:
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
    return _budget_json(limit, used, resets_at, in_usd=unit == "usd")


def _budget_json(limit: int, used: int, resets_at: str | None, *, in_usd: bool) -> dict[str, Any]:
    if in_usd:
        return {
            "limit_usd": format_usd(limit),
            "used_usd": format_usd(used),
            "remaining_usd": format_usd(max(0, limit - used)),
            "resets_at": resets_at,
        }
    return {"limit": limit, "used": used, "remaining": max(0, limit - used), "resets_at": resets_at}
