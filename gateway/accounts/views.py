"""The enforced limits with their present usage, computed by the same Lua functions that enforce them.

read_views(store, subjects, burst)      returns the views of many teams and keys; a view may have a fault
view_call(store, team_id, key_id, ...)  sends one of these calls
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from gateway.accounts.calendars import write_calendar
from gateway.accounts.entities import View, faulty_view, read_view
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather, gather_pages
from gateway.store.script import Script
from gateway.store.store import Store, StoreError

VIEW: Final = Script.load("view_v4")
Subject = tuple[str, str | None]
"""(team id, key id), or (team id, None) for a team without a key."""


async def read_views(store: Store, subjects: Sequence[Subject], burst: str) -> list[View]:
    """Returns the views of teams and keys. `burst`: the share of a minute's limit that may be used at once, in 1/1000.

    Raises GatewayError, `store_unavailable` among others.
    """
    views = await _read(store, subjects, burst)
    without_calendar = {
        team_id: view.now_ms for (team_id, _), view in zip(subjects, views, strict=True) if view.lacks_calendar
    }
    if not without_calendar:
        return views
    await gather([asyncio.ensure_future(write_calendar(store, *one)) for one in without_calendar.items()])
    return await _read(store, subjects, burst)


def view_call(store: Store, team_id: str, key_id: str | None, burst: str) -> asyncio.Future[Any]:
    """Sends the call for one view. `entities.read_view` parses the reply."""
    keys = TeamKeys(team_id)
    names = [keys.team, keys.state, *([keys.key(key_id)] if key_id else [])]
    return store.call(VIEW, names, [key_id or "", burst])


async def _read(store: Store, subjects: Sequence[Subject], burst: str) -> list[View]:
    calls = [partial(view_call, store, team_id, key_id, burst) for team_id, key_id in subjects]
    return await gather_pages(store, calls, _view, faults=True)


def _view(reply: list[Any] | StoreError) -> View:
    return faulty_view(reply) if isinstance(reply, StoreError) else read_view(reply)
