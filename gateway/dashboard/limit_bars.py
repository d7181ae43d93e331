"""Limits as bars that show their usage. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.accounts.limit_names import LIMITS
from gateway.dashboard.render import count, limit_label, usd

_NEARLY: Final = 0.8
NO_LIMIT: Final = "no limit"


@dataclass(frozen=True, slots=True)
class LimitBar:
    """One limit. `state` is ok, nearly or full. `share` is the used share, 0 to 1, or None for a limit per request.

    One that holds for a while has a time `until`, and `then`, the limit that holds again.
    """

    name: str
    label: str
    used: str
    limit: str
    share: float | None
    state: str
    resets_at: str | None
    until: str | None = None
    then: str = ""


def limit_bars(limits: Mapping[str, Mapping[str, Any]]) -> list[LimitBar]:
    """Returns the API's limits of a team or a key as bars."""
    return [_for_a_while(_bar(name, limit), limit.get("override")) for name, limit in limits.items()]


def values(limits: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns the configured limits, for the fields of a form, without what holds for a while instead.

    Those that have no field of their own are `others`, a line for each, and `had` names them.
    """
    set_to = {
        name: limit["override"]["otherwise"] if limit.get("override") else limit.get("limit_usd", limit.get("limit"))
        for name, limit in limits.items()
    }
    found = {name: str(value) for name, value in set_to.items() if value is not None}
    others = {name: value for name, value in found.items() if name not in LIMITS}
    lines = "\n".join(f"{name}={value}" for name, value in others.items())
    return found | {"others": lines, "had": " ".join(others)}


def _for_a_while(bar: LimitBar, override: Mapping[str, Any] | None) -> LimitBar:
    if override is None:
        return bar
    otherwise = override["otherwise"]
    then = usd(otherwise) if isinstance(otherwise, str) else count(otherwise)
    return replace(bar, until=override["until"], then=then or NO_LIMIT)


def _bar(name: str, limit: Mapping[str, Any]) -> LimitBar:
    if limit.get("limit_usd", limit.get("limit")) is None:
        return LimitBar(name, limit_label(name), "", NO_LIMIT, None, "ok", None)
    if "used_usd" in limit:
        # inexact, which is enough for the length of a bar
        limit_value, used = float(limit["limit_usd"]), float(limit["used_usd"])
        texts = usd(limit["used_usd"]), usd(limit["limit_usd"])
    elif "remaining" in limit:
        limit_value, used = limit["limit"], limit["limit"] - limit["remaining"]
        texts = count(used), count(limit_value)
    else:
        limit_text = usd(limit["limit_usd"]) if "limit_usd" in limit else count(limit["limit"])
        return LimitBar(name, limit_label(name), "", f"{limit_text} at most", None, "ok", None)
    share = min(1.0, max(0.0, used / limit_value)) if limit_value else 1.0
    state = "full" if share >= 1 else "nearly" if share >= _NEARLY else "ok"
    return LimitBar(name, limit_label(name), *texts, round(share, 4), state, limit.get("resets_at"))
