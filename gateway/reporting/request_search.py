"""Finds a request by the id of its response, or by the upstream's request id.

These places are searched in turn:

| place                     | ids                             | how far back                          |
|---------------------------|---------------------------------|---------------------------------------|
| the index of the journal  | the client's id of a response   | `ledger.resolution_ttl_s`             |
| each team's timings       | both ids of a response, and the | the last requests of a day            |
|                           | upstream's request id           |                                       |
| the newest entries of the | the provider's id of a response | one page; `_PAGES` pages for a single |
| journal                   |                                 | team                                  |
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import orjson

from gateway.ledger.journal import Entry, Journal
from gateway.reporting.request_timings import RequestTimings
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather_pages
from gateway.store.store import Store

_BATCH_SIZE: Final = 16
_PAGE: Final = 1000
_PAGES: Final = 20  # of one team's journal; of many teams' journals one each
_ADMITTED: Final = 4  # the place of the admission's time in the JSON of a known response (known_responses.py)


async def find_by_other_id(
    store: Store, team_ids: Sequence[str], text: str, *, remembered_s: int
) -> tuple[str, str] | None:
    """Returns (team id, request id), or None. Raises GatewayError `store_unavailable`.

    `remembered_s` is `ledger.resolution_ttl_s`.
    """
    known = await Journal(store).find_response(team_ids, text, remembered_s=remembered_s)
    if known is None:
        known = await _remembered_before(store, team_ids, text)
    if known is not None:
        team_id, admitted_ms = known
        entry = await _in_journal(store, team_id, text, from_ms=admitted_ms, pages=_PAGES)
        if entry is not None:
            return team_id, entry.ref
    timings = RequestTimings(store)
    for at in range(0, len(team_ids), _BATCH_SIZE):
        found = await timings.find_named(team_ids[at : at + _BATCH_SIZE], text)
        if found is not None:
            return found
    pages = _PAGES if len(team_ids) == 1 else 1
    for team_id in team_ids:
        entry = await _in_journal(store, team_id, text, pages=pages)
        if entry is not None:
            return team_id, entry.ref
    return None


async def _remembered_before(store: Store, team_ids: Sequence[str], text: str) -> tuple[str, int] | None:
    """The same as `find_response`, for a response that an earlier version stored."""
    known = await gather_pages(
        store, [partial(store.run, "GET", TeamKeys(team_id).response(text)) for team_id in team_ids]
    )
    for team_id, remembered in zip(team_ids, known, strict=True):
        if remembered is not None:
            return team_id, int(orjson.loads(remembered)[_ADMITTED])
    return None


async def _in_journal(store: Store, team_id: str, text: str, *, pages: int, from_ms: int = 0) -> Entry | None:
    """Searches a journal for the response with this id: from a time on, or backwards from the newest entry."""
    journal, after = Journal(store), None
    for _ in range(pages):
        page = await journal.entries(team_id, limit=_PAGE, after=after, from_ms=from_ms, newest=from_ms == 0)
        for entry in page.data:
            if entry.response_id == text:
                return entry
        after = page.next
        if after is None:
            break
    return None
