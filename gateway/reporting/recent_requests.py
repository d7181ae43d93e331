"""The last requests of one team or of all teams: journal entries and refusals, merged, newest first.

A page ends between two milliseconds, never within one. Its cursor is therefore a time, which works for any number of
streams without losing an entry, and a page may be a little longer than requested. However many teams there are, a
bounded number of streams is read at once, and at most one page of their entries is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from gateway.errors import GatewayError
from gateway.ledger.journal import Entry, read_entry
from gateway.reporting.refused_requests import RefusedRequest, read_refused
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather_pages
from gateway.store.store import Store, StoreError
from gateway.types import Page

_REQUESTS: Final = frozenset({"settle", "void", "expire"})
_ROUNDS: Final = 20  # pages that are searched for a filter that matches rarely
_FEWEST: Final = 10  # entries that are read per stream, however many teams there are
_BATCH_SIZE: Final = 256  # teams whose streams are read at once
_LONGEST_CURSOR: Final = 15  # digits of a time in ms
Recent = tuple[str, Entry | RefusedRequest]


async def recent(
    store: Store, team_ids: Sequence[str], *, limit: int, after: str | None, outcome: str | None
) -> Page[Recent]:
    """Returns (team id, entry or refusal) pairs, newest first.

    `outcome` is one of the journal's outcomes or "refused". Raises `invalid_field` for an invalid cursor.
    """
    if after is not None and not (after.isascii() and after.isdigit() and len(after) <= _LONGEST_CURSOR):
        raise GatewayError("invalid_field", f"{after!r} is not a cursor of the requests.", param="after")
    end = int(after) if after is not None else None
    if end == 0:  # there is nothing older, and the store has no range that ends before its start
        return Page((), None)
    search = _Search(store, outcome)
    found: list[Recent] = []
    for _ in range(_ROUNDS):
        page, end = await search.read_page(team_ids, limit, end)
        found += page
        if end is None or len(found) >= limit:
            break
    found, cut_ms = _newest(found, limit)
    end = cut_ms if cut_ms is not None else end
    return Page(tuple(found), None if end is None else str(end))


class _Search:
    """Reads the streams that can contain an outcome. Immutable."""

    def __init__(self, store: Store, outcome: str | None) -> None:
        self._store = store
        self._outcome = outcome
        self._journal = outcome != "refused"
        self._refused = outcome in (None, "refused")

    async def read_page(
        self, team_ids: Sequence[str], limit: int, before_ms: int | None
    ) -> tuple[list[Recent], int | None]:
        """Returns one page of entries older than `before_ms`, and the time at which the next page starts, or None."""
        end = "+" if before_ms is None else f"({before_ms}-0"
        share = min(limit, max(_FEWEST, 2 * limit // max(1, len(team_ids))))
        found: list[Recent] = []
        # older entries may be missing: a stream returned as many as requested, or the page is full
        cut_ms: int | None = None
        for at in range(0, len(team_ids), _BATCH_SIZE):
            for items in await self._read(team_ids[at : at + _BATCH_SIZE], end, "-", share):
                if len(items) == share:
                    cut_ms = max(cut_ms or 0, items[-1][1].at_ms)
                found += [item for item in items if self._matches(item[1])]
            found, enough_ms = _newest(found, limit)
            if enough_ms is not None:
                cut_ms = max(cut_ms or 0, enough_ms)
        if cut_ms is None:
            return found, None
        # The last millisecond is read completely.
        found = [item for item in found if item[1].at_ms > cut_ms]
        for at in range(0, len(team_ids), _BATCH_SIZE):
            part = team_ids[at : at + _BATCH_SIZE]
            for items in await self._read(part, f"{cut_ms}-18446744073709551615", f"{cut_ms}-0", None):
                found += [item for item in items if self._matches(item[1])]
        return found, cut_ms

    async def _read(self, team_ids: Sequence[str], end: str, start: str, limit: int | None) -> list[list[Recent]]:
        count = () if limit is None else ("COUNT", str(limit))
        names = [TeamKeys(team_id) for team_id in team_ids]
        read = partial(partial, self._store.run, "XREVRANGE")
        journals = [read(name.journal, end, start, *count) for name in names if self._journal]
        refused = [read(name.refused, end, start, *count) for name in names if self._refused]
        streams = await gather_pages(self._store, [*journals, *refused], faults=True)
        replies = [() if isinstance(stream, StoreError) else stream for stream in streams]
        found: list[list[Recent]] = [
            [(team_id, read_entry(entry_id, fields)) for entry_id, fields in reply]
            for team_id, reply in zip(team_ids, replies[: len(journals)], strict=False)
        ]
        found += [
            [(team_id, read_refused(team_id, entry_id, fields)) for entry_id, fields in reply]
            for team_id, reply in zip(team_ids, replies[len(journals) :], strict=False)
        ]
        return found

    def _matches(self, item: Entry | RefusedRequest) -> bool:
        if isinstance(item, RefusedRequest):
            return True
        if item.type not in _REQUESTS:
            return False
        return self._outcome is None or self._outcome == (item.outcome or "expired")


def _newest(found: list[Recent], limit: int) -> tuple[list[Recent], int | None]:
    """Returns the newest entries, and the time of the oldest one if others were left out.

    A millisecond is never split.
    """
    found = sorted(found, key=lambda item: item[1].at_ms, reverse=True)
    if len(found) <= limit:
        return found, None
    cut_ms = found[limit - 1][1].at_ms
    return [item for item in found if item[1].at_ms >= cut_ms], cut_ms
