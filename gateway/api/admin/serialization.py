"""The JSON of the admin API's answers. Numbers are those that are enforced."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from gateway.accounts.accounts import Key, Team, View
from gateway.accounts.admin_keys import Admin
from gateway.accounts.authority import param_of
from gateway.accounts.serialization import balance_json, limits_json, pause_json, time_json
from gateway.billing.bill import bill_json
from gateway.billing.money import format_usd
from gateway.ledger.journal import MOVEMENTS, Entry, FoundRequest
from gateway.ledger.verification import Verification
from gateway.reporting.audit_log import Action
from gateway.reporting.refused_requests import RefusedRequest

_STATES: Final = MappingProxyType({"settle": "settled", "void": "voided", "expire": "expired"})
_PREFIX: Final = 12
"""Characters of a secret's SHA-256 that are shown, to tell secrets apart."""


def team_json(team: Team, view: View) -> dict[str, Any]:
    """A team, its balance, and what remains of its limits.

    If its settings or its counters cannot be read, `fault` says why, and `balance` is null.
    """
    return {
        "object": "team",
        "id": team.id,
        "name": team.name,
        "status": team.status,
        "metered": team.metered,
        "paused": pause_json(team.paused),
        "timezone": team.timezone or "UTC",
        "anchor": team.anchor or None,
        "models": list(team.models),
        "operations": list(team.operations),
        "expires_at": time_json(team.expires_ms),
        "expired": _has_expired(team, view),
        "created_at": time_json(team.created_ms),
        "version": team.version,
        "balance": None if view.fault else balance_json(view.balance),
        "limits": limits_json(view, "team", team),
        "fault": team.fault or view.fault or None,
    }


def key_json(key: Key, view: View) -> dict[str, Any]:
    """A key and what remains of its limits. Of its secrets, it shows only enough to distinguish them."""
    return {
        "object": "key",
        "id": key.id,
        "name": key.name,
        "team_id": key.team_id,
        "status": key.status,
        "models": list(key.models),
        "operations": list(key.operations),
        "expires_at": time_json(key.expires_ms),
        "expired": _has_expired(key, view),
        "created_at": time_json(key.created_ms),
        "version": key.version,
        "limits": limits_json(view, "key", key),
        "fault": key.fault or view.fault or None,
        "cut_at_cap": key.cut_at_cap,
        "set_by_operator": sorted([*map(param_of, key.operator_values), *_overridden_by_operator(key, view)]),
        "secrets": [
            {
                "sha256_prefix": secret.sha256[:_PREFIX],
                "until": time_json(secret.until_ms),
                "last_used_at": time_json(secret.last_used_ms),
            }
            for secret in key.secrets
        ],
    }


def _overridden_by_operator(key: Key, view: View) -> list[str]:
    overrides = key.overrides.items()
    return [f"overrides.{name}" for name, one in overrides if one.by_operator and one.is_in_force(view.now_ms)]


def _has_expired(account: Team | Key, view: View) -> bool:
    """Whether a team or key has expired, by the store's clock."""
    return bool(account.expires_ms) and view.now_ms >= account.expires_ms


def credits_json(team: Team, view: View) -> dict[str, Any]:
    """A team's balance."""
    return {"object": "credits", "team_id": team.id, "metered": team.metered, **balance_json(view.balance)}


def entry_json(entry: Entry) -> dict[str, Any]:
    """A journal entry. `request_id` is null for movements of credits. `expires_at`: of credits that expire."""
    movement = entry.type in MOVEMENTS
    return {
        "object": "entry",
        "id": entry.id,
        "at": time_json(entry.at_ms),
        "type": entry.type,
        "request_id": None if movement else entry.ref,
        "key_id": entry.key_id or None,
        "amount_usd": format_usd(entry.amount),
        "balance_usd": format_usd(entry.balance),
        "hold_usd": format_usd(entry.hold),
        "model": entry.model or None,
        "upstream": entry.upstream or None,
        "outcome": entry.outcome or None,
        "settled_by": entry.settled_by or None,
        "usage": _usage(entry),
        "note": entry.note or None,
        "expires_at": time_json(entry.expires_ms),
        "bill": None if entry.bill is None else bill_json(entry.bill),
        "over_usd": format_usd(entry.over),
        "attempt": orjson.loads(entry.attempt) if entry.attempt else None,
        "response_id": entry.response_id or None,
    }


def entry_line(entry: Entry) -> bytes:
    """A journal entry as a line of an archive."""
    return orjson.dumps(entry_json(entry), option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def request_json(request_id: str, found: FoundRequest, took: Mapping[str, Any] | None) -> dict[str, Any]:
    """A request. `state` is running, settled, voided or expired; `entry` is its journal entry if it is still kept.

    `took` is the result of `request_reporter.timing`, if it is still kept.
    """
    shape = _request(request_id, found.team_id)
    if found.open is not None:
        return shape | {
            "state": "running",
            "key_id": found.open.key_id,
            "admitted_at": time_json(found.open.admitted_ms),
            "hold_usd": format_usd(found.open.amount),
            "hold_tokens": found.open.tokens,
        }
    shape |= {
        "state": _STATES[found.kind],
        "cost_usd": format_usd(found.cost),
        "settled_by": found.settled_by,
        **(took or {}),
    }
    if found.entry is not None and found.entry.response_id:
        shape["upstream_response_id"] = found.entry.response_id
    return shape | (_of_entry(found.entry) | {"entry": entry_json(found.entry)} if found.entry else {})


def verification_json(team_name: str, verification: Verification) -> dict[str, Any]:
    """Whether a team's ledger is consistent. Each difference has a name, and is in nano-USD or a count."""
    return {
        "object": "verification",
        "team_id": verification.team_id,
        "team_name": team_name,
        "ok": verification.ok,
        "entries": verification.entries,
        "complete": verification.complete,
        "differences": [
            {
                "name": difference.name,
                "expected": difference.expected,
                "found": difference.found,
                "entry_id": difference.entry_id or None,
            }
            for difference in verification.differences
        ],
    }


def _usage(entry: Entry) -> dict[str, int] | None:
    usage = entry.usage
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def admin_json(admin: Admin) -> dict[str, Any]:
    """An admin key. Only the answer to its creation contains its text."""
    return {
        "object": "admin_key",
        "id": admin.id,
        "name": admin.name,
        "scope": admin.scope,
        "team_id": admin.team_id or None,
        "expires_at": time_json(admin.expires_ms),
        "created_at": time_json(admin.created_ms),
        "created_by": admin.created_by or None,
        "last_used_at": time_json(admin.used_ms),
        "subject": admin.subject or None,
        "ending_secrets": [
            {"sha256_prefix": secret.sha256[:_PREFIX], "until": time_json(secret.until_ms)} for secret in admin.ending
        ],
    }


def action_json(action: Action) -> dict[str, Any]:
    """An entry of the audit log."""
    return {
        "object": "action",
        "id": action.id,
        "at": time_json(action.at_ms),
        "actor": action.actor,
        "actor_name": action.actor_name,
        "action": action.action,
        "subject": action.subject,
        "team_id": action.team_id or None,
        "before": action.before,
        "after": action.after,
        "request_id": action.request_id,
    }


def recent_json(team_id: str, item: Entry | RefusedRequest, took: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One of the last requests. If `outcome` is "refused", `code`, `message`, `detail`, `limit` and `scope` say why.

    `took` is the result of `request_reporter.timing`, if it is still kept.
    """
    if isinstance(item, RefusedRequest):
        return _request(item.request_id, team_id) | {
            "state": "refused",
            "at": time_json(item.refused_ms or item.at_ms),
            "key_id": item.key_id or None,
            "model": item.model or None,
            "asked_model": item.asked_model or None,
            "client": item.client or None,
            "end_user": item.end_user or None,
            "timings": dict(item.timings) or None,
            "outcome": "refused",
            "status": item.status,
            "code": item.code,
            "message": item.message,
            "detail": item.detail or None,
            "limit": item.limit or None,
            "scope": item.scope or None,
        }
    cost = {"cost_usd": format_usd(-item.amount), "settled_by": item.settled_by or None}
    return _request(item.ref, team_id) | {"state": _STATES[item.type]} | cost | _of_entry(item) | dict(took or {})


def _request(request_id: str, team_id: str) -> dict[str, Any]:
    """Returns all fields of a request as unknown, so that every request has all fields."""
    return {
        "object": "request",
        "id": request_id,
        "state": None,
        "team_id": team_id,
        **dict.fromkeys(("team", "key", "client", "queued_ms", "asked_model", "answered_model")),
        **dict.fromkeys(("tags", "end_user")),
        **dict.fromkeys(("response_id", "upstream_response_id", "upstream_request_id")),
        **dict.fromkeys(("key_id", "at", "model", "outcome", "upstream", "cost_usd", "settled_by", "usage")),
        **dict.fromkeys(("status", "code", "message", "detail", "limit", "scope")),
        **dict.fromkeys(("admitted_at", "hold_usd", "hold_tokens", "entry")),
        **dict.fromkeys(("stream", "tried", "chosen_by", "bytes_in", "bytes_out", "timings")),
    }


def _of_entry(entry: Entry) -> dict[str, Any]:
    return {
        "at": time_json(entry.at_ms),
        "key_id": entry.key_id or None,
        "model": entry.model or None,
        "outcome": entry.outcome or "expired",
        "upstream": entry.upstream or None,
        "usage": _usage(entry),
    }
