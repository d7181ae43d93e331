"""Entries of the audit log as text: what was done, to what, and what changed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import orjson

from gateway.dashboard.render import moment

ACTION_TEXTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "POST /teams": "created the team",
        "PATCH /teams/{team}": "changed the team",
        "DELETE /teams/{team}": "deleted the team",
        "pause the team": "paused the team",
        "POST /teams/{team}/credits": "moved credits of",
        "POST /teams/{team}/journal/archived": "archived a part of the journal of",
        "DELETE /teams/{team}/state": "deleted the stored responses of",
        "POST /teams/{team}/keys": "created the key",
        "PATCH /teams/{team}/keys/{key}": "changed the key",
        "DELETE /teams/{team}/keys/{key}": "deleted the key",
        "POST /teams/{team}/keys/{key}/rotate": "rotated the key",
        "POST /admin-keys": "created the admin key",
        "DELETE /admin-keys/{admin_key}": "revoked the admin key",
        "POST /admin-keys/{admin_key}/rotate": "rotated the admin key",
        "DELETE /sign-in": "signed out",
        "POST /upstreams/{upstream}/disable": "disabled the upstream",
        "POST /upstreams/{upstream}/enable": "enabled the upstream",
        "POST /notices/test": "sent a test notice to",
        "POST /config/reload": "reloaded the configuration",
    }
)
_UNREPORTED_FIELDS: Final = frozenset(
    {
        *("version", "limits", "balance", "expiring", "secrets", "last_used_at", "key", "waiting"),
        *("workers", "healthy", "state", "until", "models_affected"),
    }
)
_MAX_TEXT_CHARACTERS: Final = 80


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry. `changes` are (field, before, after) as text."""

    at: str
    who: str
    did: str
    to: str
    action: str
    request_id: str
    changes: tuple[tuple[str, str, str], ...]


def audit_entry(action: Mapping[str, Any], teams: Mapping[str, str]) -> AuditEntry:
    """Returns the text of an entry of GET /audit. `teams` maps ids to names."""
    before, after = action["before"] or {}, action["after"] or {}
    name = after.get("name") or before.get("name") or after.get("recipient")
    name = name or teams.get(action["team_id"] or "") or action["subject"]
    if action["action"].startswith("POST /config"):
        name = ""
    if "/keys" in action["action"] and action["team_id"]:
        name = f"{teams.get(action['team_id'], action['team_id'])} / {name}"
    changes = tuple(_changes(before, after)) if before and "deleted" not in after else ()
    did = ACTION_TEXTS.get(action["action"], action["action"])
    return AuditEntry(action["at"], action["actor_name"], did, name, action["action"], action["request_id"], changes)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for field, new in after.items():
        old = before.get(field)
        if field in before and field not in _UNREPORTED_FIELDS and old != new:
            yield field.replace("_usd", " USD").replace("_", " "), _text(old), _text(new)
    limits = before.get("limits") or {}, after.get("limits") or {}
    for name in sorted({*limits[0], *limits[1]}):
        old, new = (_limit(found.get(name)) for found in limits)
        if old != new:
            yield name, old, new
    credits_ = _expiring(before), _expiring(after)
    for expires_at in sorted({*credits_[0], *credits_[1]}):
        old, new = (found.get(expires_at, "none") for found in credits_)
        if old != new:
            yield f"USD until {moment(expires_at)}", old, new


def _expiring(balance: Mapping[str, Any]) -> dict[str, str]:
    return {lot["expires_at"]: lot["available_usd"] for lot in balance.get("expiring") or ()}


def _limit(limit: Mapping[str, Any] | None) -> str:
    if limit is None:
        return "none"
    value, override = limit.get("limit_usd", limit.get("limit")), limit.get("override")
    until = f" until {moment(override['until'])}" if override else ""
    return f"{'none' if value is None else value}{until}"


def _text(value: Any) -> str:
    if value in (None, "", []):
        return "none"
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= _MAX_TEXT_CHARACTERS else text[:_MAX_TEXT_CHARACTERS] + "…"
