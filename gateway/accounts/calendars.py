"""Writes the calendars of teams: the beginnings and ends of their periods in the near future (periods.py).

A script that needs a period that the calendar does not contain reports that. The caller then writes the calendar and
runs the script again. For a team with such budgets or a time zone of its own, this happens about once a month.
"""

from __future__ import annotations

from typing import Final

from gateway.accounts.periods import Calendar
from gateway.errors import GatewayError
from gateway.store.keyspace import TeamKeys
from gateway.store.script import Script
from gateway.store.store import Store

CALENDAR: Final = Script.load("calendar_v1")


async def write_calendar(store: Store, team_id: str, now_ms: int) -> None:
    """Writes a team's calendar around `now_ms`, the store's time.

    Raises StoreUnavailable and StoreError, and GatewayError `internal_error` if this system lacks the time zone.
    """
    name = TeamKeys(team_id).team
    timezone, anchor = (raw.decode() if raw else "" for raw in await store.run("HMGET", name, "timezone", "anchor"))
    try:
        calendar = Calendar.around(now_ms, timezone, anchor)
    except ValueError as error:
        raise GatewayError("internal_error", f"The team's periods cannot be computed here: {error}.") from None
    await store.call(CALENDAR, [name], [timezone, anchor, calendar.to_json()])
