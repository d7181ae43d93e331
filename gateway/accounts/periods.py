"""Computes when the periods of budgets begin, in a team's time zone and from its anchor. Pure.

A day begins with the first moment of a date in the team's time zone. It has 23 or 25 hours when clocks are changed. A
week, a month and a quarter begin on the day of the team's anchor, and every 7 days, one month or three months before
and after it. A month that has no such day begins on its last day. Without an anchor, weeks begin on Mondays, months on
their first day, and quarters in January, April, July and October. Hours are those of UTC.

An edge is the time at which one period ends and the next begins. This module computes edges in advance (`Calendar`).
The store decides by its own clock whether an edge has passed.
"""

from __future__ import annotations

import calendar
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from types import MappingProxyType
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

import orjson

from gateway.accounts.limit_names import CALENDAR_PERIODS

NO_ANCHOR: Final = date(2001, 1, 1)
"""The first day of a week, a month, a quarter and a year."""
MAX_ZONE_LENGTH: Final = 64
VALID_DAYS: Final = 31
"""How long a calendar is valid. Rules of time zones change, and updates of the system bring them."""
_MONTHS: Final = MappingProxyType({"month": 1, "quarter": 3})
_DAYS: Final = MappingProxyType({"day": 1, "week": 7})
_DAY_MS: Final = 86_400_000
_MIN_SIMILARITY: Final = 0.8
_MIN_SPELT: Final = 5
"""From this length on a name may be misspelt: shorter ones are abbreviations, of which many resemble one another.
Those with digits, such as UTC+2, are distances."""


class UnknownZone(ValueError):
    """A time zone that the system does not know."""


def zone_of(name: str) -> tzinfo:
    """Returns a time zone by its name in the IANA database; "" is UTC. Raises UnknownZone."""
    if name in ("", "UTC"):
        return UTC
    if len(name) > MAX_ZONE_LENGTH:
        raise UnknownZone(f"a time zone's name has at most {MAX_ZONE_LENGTH} characters")
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        meant = _zone_meant(name)
        such_as = f"; is it {meant}?" if meant else ", such as Asia/Kolkata, Europe/Berlin or UTC"
        raise UnknownZone(f"{name!r} is not a time zone{such_as}") from None


def _zone_meant(name: str) -> str | None:
    """Returns the zone that was probably meant: in other letter case, by its city alone, or misspelt."""
    known = {zone.casefold(): zone for zone in sorted(available_timezones(), reverse=True)}
    # The signs of zones such as Etc/GMT+2 are the opposite of what people mean by them.
    cities = {zone.rpartition("/")[2]: full for zone, full in known.items() if not zone.startswith("etc/")}
    asked = name.strip().replace(" ", "_").casefold()
    found = known.get(asked) or cities.get(asked)
    if found is not None or len(asked) < _MIN_SPELT or any(map(str.isdigit, asked)):
        return found
    near = (difflib.get_close_matches(asked, names, n=1, cutoff=_MIN_SIMILARITY) for names in (known, cities))
    return next((known.get(one[0]) or cities[one[0]] for one in near if one), None)


def anchor_of(text: str) -> date:
    """Returns the anchor for its stored text, and NO_ANCHOR for "". Raises ValueError."""
    return date.fromisoformat(text) if text else NO_ANCHOR


def day_of(at_ms: int, zone: tzinfo) -> date:
    """Returns the date of a moment in a time zone."""
    return datetime.fromtimestamp(at_ms / 1000, zone).date()


def begin_ms(day: date, zone: tzinfo) -> int:
    """Returns the first moment of a date in a time zone."""
    # If a clock change skips midnight, this is the time of the change. If midnight comes twice, this is the first one.
    return round(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp() * 1000)


def edges(period: str, zone: tzinfo, anchor: date, from_ms: int, to_ms: int) -> list[int]:
    """Returns the edges of a kind of period, from the last one not after `from_ms` to the first one after `to_ms`."""
    found: list[int] = []
    for edge in _edges_since(period, zone, anchor, from_ms):
        if found and edge <= found[-1]:
            continue  # the time zone skipped a date
        if edge <= from_ms:
            found.clear()
        found.append(edge)
        if edge > to_ms:
            break
    return found


def _edges_since(period: str, zone: tzinfo, anchor: date, from_ms: int) -> Iterator[int]:
    """Yields the edges, beginning with some edge before `from_ms`."""
    day = day_of(from_ms, zone)
    months, days = _MONTHS.get(period), _DAYS.get(period)
    if months is not None:
        number = (day.year - anchor.year) * 12 + day.month - anchor.month
        number = (number // months - 1) * months
        while True:
            yield begin_ms(_months_later(anchor, number), zone)
            number += months
    elif days is not None:
        first = anchor + timedelta(days=((day - anchor).days // days - 1) * days)
        while True:
            yield begin_ms(first, zone)
            first += timedelta(days=days)


def _months_later(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


@dataclass(frozen=True, slots=True)
class Calendar:
    """The edges around a time and for `VALID_DAYS` after it, for a time zone and an anchor.

    It is stored in the team's hash. `until_ms`: the end of its validity. `days_from`: the date of the first edge of a
    day, in days after 1970-01-01.
    """

    until_ms: int
    days_from: int
    edges: dict[str, list[int]]

    @classmethod
    def around(cls, now_ms: int, timezone: str, anchor: str) -> Calendar:
        """Computes a calendar. Raises ValueError for an invalid time zone or anchor."""
        zone, first = zone_of(timezone), anchor_of(anchor)
        until_ms = now_ms + VALID_DAYS * _DAY_MS
        found = {period: edges(period, zone, first, now_ms, until_ms) for period in CALENDAR_PERIODS}
        return cls(until_ms, (day_of(found["day"][0], zone) - date(1970, 1, 1)).days, found)

    def to_json(self) -> str:
        """Returns the calendar in the form that meters.lua reads."""
        return orjson.dumps({"until_ms": self.until_ms, "days_from": self.days_from, **self.edges}).decode()
