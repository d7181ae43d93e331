"""Writes the calendars of teams: the edges of their periods, ahead of time, by the store's clock (periods.py).

A script that meets a period whose end nobody has computed says so, and is asked again behind this: about once a month
for a team with such budgets or a time zone of its own.
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
    """Writes a team's calendar around a time. `now_ms` is the store's.

    Raises StoreUnavailable and StoreError, and GatewayError `internal_error` where this system lacks the time zone.
    """
    name = TeamKeys(team_id).team
    timezone, anchor = (raw.decode() if raw else "" for raw in await store.run("HMGET", name, "timezone", "anchor"))
    try:
        calendar = Calendar.around(now_ms, timezone, anchor)
    except ValueError as error:
        raise GatewayError("internal_error", f"The team's periods cannot be computed here: {error}.") from None
    await store.call(CALENDAR, [name], [timezone, anchor, calendar.stored()])
