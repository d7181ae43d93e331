"""Fields of forms as the admin API's JSON. Nothing is validated here; the API refuses invalid values.

`form_of` leaves empty fields out, so an empty limit becomes null: "no limit".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from gateway.accounts.limit_names import LIMITS

_HOUR_S: Final = 3600
_MONEY: Final = "budget_usd_"
_LOCAL: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?")


def limits(form: Mapping[str, str]) -> dict[str, Any]:
    """Returns all limits: {"rpm": 60, "budget_usd_day": "1.5", "tpm": None, ...}.

    Those without a field of their own are lines such as budget_usd_7d=25; of those that were there (`limits.had`), the
    ones that have no line any more become None.
    """
    found = {name: _limit(name, form.get(f"limits.{name}")) for name in LIMITS}
    found |= dict.fromkeys(form.get("limits.had", "").split())
    return found | _lines(form.get("limits", ""))


def overrides(form: Mapping[str, str]) -> dict[str, Any]:
    """Returns overrides, from lines such as rpm=600 or rpm=none, all until one time; None for an override that ends."""
    if "end" in form:
        return {form["end"]: None}
    until = moment(form.get("until", ""))
    return {name: {"limit": value, "until": until} for name, value in _lines(form.get("overrides", "")).items()}


def _lines(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in filter(str.strip, text.splitlines()):
        name, _, value = (part.strip() for part in line.partition("="))
        found[name] = _limit(name, None if value == "none" else value)
    return found


def given_limits(form: Mapping[str, str]) -> dict[str, Any]:
    """Returns the limits that have a value, for a new team or key."""
    return {name: value for name, value in limits(form).items() if value is not None}


def permissions(form: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns the permitted models and operations, which commas or spaces separate; an empty list permits all."""
    return {name: form.get(name, "").replace(",", " ").split() for name in ("models", "operations")}


def periods(form: Mapping[str, str]) -> dict[str, str | None]:
    """Returns the time zone and the anchor of a team; None for an empty field."""
    return {name: form.get(name, "").strip() or None for name in ("timezone", "anchor")}


def number(text: str | None) -> int | str | None:
    """Returns a whole number, or other text unchanged, for the API to refuse."""
    if text is None:
        return None
    bare = text.strip().replace(",", "")
    return int(bare) if bare.isascii() and bare.isdigit() and len(bare) <= 18 else text  # noqa: PLR2004 - below 2**63


def expiry(form: Mapping[str, str]) -> str | None:
    """Returns the expiry in a form's field, or None for never."""
    return moment(form["expires_at"]) if "expires_at" in form else None


def overlap(form: Mapping[str, str]) -> dict[str, Any]:
    """Returns for how long a rotation leaves the present secrets valid. The form states hours, by default a day."""
    hours = number(form.get("overlap_hours", "24"))
    return {"overlap_s": hours * _HOUR_S if isinstance(hours, int) else hours}


def moment(text: str) -> str:
    """Returns a browser's time field such as "2026-11-25T10:30" as UTC, or other text unchanged."""
    return f"{text}Z" if _LOCAL.fullmatch(text) else text


def segment(text: str) -> str:
    """Returns text as one segment of a path."""
    return quote(text, safe="") if text.strip(".") else text.replace(".", "%2E")  # ".." would be the segment above


def _limit(name: str, text: str | None) -> int | str | None:
    if name.startswith(_MONEY):
        return text.strip().removeprefix("$") if text is not None else None
    return number(text)
