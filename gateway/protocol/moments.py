"""Dates and times as people write them, the same for the command line and the admin API. Pure.

2026-11-01                  a day: its first moment, in UTC or in the zone that the caller gives
2026-11-01T06:00:00Z        a time in ISO 8601, in the same zone where it names none
now, yesterday, today, tomorrow
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from types import MappingProxyType
from typing import Final

_DAYS: Final = MappingProxyType({"yesterday": -1, "today": 0, "tomorrow": 1})
FORMS: Final = "2026-11-01, 2026-11-01T06:00:00Z, yesterday, today or tomorrow"


def parse_moment(text: str, now: datetime, zone: tzinfo = UTC) -> datetime:
    """Returns a moment with its time zone. Raises ValueError, which names the forms."""
    word = text.strip().lower()
    if word == "now":
        return now
    if word in _DAYS:
        day = now.astimezone(zone).date() + timedelta(days=_DAYS[word])
        return datetime(day.year, day.month, day.day, tzinfo=zone)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is no time or day, such as {FORMS}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)
