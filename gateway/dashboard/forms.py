"""Fields of forms as the admin API's JSON. What is wrong with a value, the API says: here nothing is judged.

An empty field is not sent by `form_of`; so an empty limit is null, "no limit".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from gateway.dashboard.render import WHY

_MONEY: Final = "budget_usd_"
_LOCAL: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?")


def limits(form: Mapping[str, str]) -> dict[str, Any]:
    """All limits: {"rpm": 60, "budget_usd_day": "1.5", "tpm": None, ...}."""
    return {name: _limit(name, form.get(f"limits.{name}")) for name in WHY}


def given_limits(form: Mapping[str, str]) -> dict[str, Any]:
    """Those that have a value: for what is new."""
    return {name: value for name, value in limits(form).items() if value is not None}


def models(form: Mapping[str, str]) -> list[str]:
    """Patterns, apart by commas or spaces."""
    return form.get("models", "").replace(",", " ").split()


def number(text: str | None) -> int | str | None:
    """A whole number; other text as it is, for the API to refuse."""
    if text is None:
        return None
    bare = text.strip().replace(",", "")
    return int(bare) if bare.isascii() and bare.isdigit() and len(bare) <= 18 else text  # noqa: PLR2004 - below 2**63


def expiry(form: Mapping[str, str]) -> str | None:
    """When something ends, as a form's field says; None: never."""
    return moment(form["expires_at"]) if "expires_at" in form else None


def moment(text: str) -> str:
    """What a browser's field for a time holds, "2026-11-25T10:30", as UTC; other text as it is."""
    return f"{text}Z" if _LOCAL.fullmatch(text) else text


def segment(text: str) -> str:
    """Text as one segment of a path."""
    return quote(text, safe="") if text.strip(".") else text.replace(".", "%2E")  # "..": the segment above


def _limit(name: str, text: str | None) -> int | str | None:
    if name.startswith(_MONEY):
        return text.strip().removeprefix("$") if text is not None else None
    return number(text)
