"""Finds a request by what its answer or its provider called it: the id of a response, or the upstream's request id.

where it is looked for                      which ids                         how far back
what is remembered of responses             the client's id of a response     `routing.response_ttl_s`
the timings of each team's last requests    both ids of the response, and     the last requests of a day
                                            the upstream's request id
the journal's newest entries                the provider's id of a response   a few pages; more for one team
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
_ADMITTED: Final = 4  # its place in what is remembered of a response (known_responses.py)


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
    """The same as `find_response`, of a response that an older version remembered."""
    known = await gather_pages(
        store, [partial(store.run, "GET", TeamKeys(team_id).response(text)) for team_id in team_ids]
    )
    for team_id, remembered in zip(team_ids, known, strict=True):
        if remembered is not None:
            return team_id, int(orjson.loads(remembered)[_ADMITTED])
    return None


async def _in_journal(store: Store, team_id: str, text: str, *, pages: int, from_ms: int = 0) -> Entry | None:
    """Looks through a journal for the answer with this id: from a time on, or from the newest entry back."""
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
