"""The last requests of one team or of all teams: journal entries and refusals, merged, newest first.

A page ends between two milliseconds, never within one. Its cursor is therefore a time, which works for any number of
streams without losing an entry, and a page may be a little longer than requested. However many teams there are, a
bounded number of streams is read at once, and at most one page of their entries is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from re import fullmatch
from typing import Final

from gateway.errors import GatewayError
from gateway.ledger.journal import Entry, entries_of, read_entries
from gateway.reporting.refused_requests import RefusedRequest, read_refused
from gateway.routing.model_patterns import specificity
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather_pages
from gateway.store.store import Store, StoreError
from gateway.types import Page

_REQUESTS: Final = frozenset({"settle", "void", "expire"})
_ROUNDS: Final = 20  # pages that are searched for a filter that matches rarely
_FEWEST: Final = 10  # entries that are read per stream, however many teams there are
_BATCH_SIZE: Final = 256  # teams whose streams are read at once
_MAX_CURSOR_DIGITS: Final = 15  # digits of a time in ms
_OK: Final = 200
_ANSWERED: Final = frozenset({"completed", "incomplete"})
_NO_END: Final = 2**53
Recent = tuple[str, Entry | RefusedRequest]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which requests are wanted; None and "" match all.

    `outcome` is one of the journal's or "refused"; `model` is a pattern. `identifier` is the beginning of a request's
    id, with or without "req_", or the provider's id of a response. `status` is "429" or "4xx"; `statuses` has those of
    the last settled requests by id, and of an older one it is known only that it was answered.
    """

    outcome: str | None = None
    key_ids: frozenset[str] | None = None
    model: str | None = None
    identifier: str = ""
    status: str = ""
    statuses: Mapping[str, int] = field(default_factory=dict)
    from_ms: int = 0
    to_ms: int = _NO_END

    def includes(self, item: Entry | RefusedRequest) -> bool:
        """Whether an entry or a refusal matches, apart from its time."""
        if isinstance(item, RefusedRequest):
            outcome, identifier, status, response_id = "refused", item.request_id, item.status, ""
        elif item.type not in _REQUESTS:
            return False
        else:
            outcome, identifier, response_id = item.outcome or "expired", item.ref, item.response_id
            status = self.statuses.get(identifier, _OK if outcome in _ANSWERED else 0)
        return (
            self.outcome in (None, outcome)
            and (self.key_ids is None or item.key_id in self.key_ids)
            and (self.model is None or self.model in specificity(item.model))
            and (
                identifier.startswith((self.identifier, f"req_{self.identifier}"))
                or (response_id != "" and response_id == self.identifier)
            )
            and (not self.status or fullmatch(self.status.replace("x", r"\d"), str(status)) is not None)
        )


async def recent(
    store: Store, team_ids: Sequence[str], *, limit: int, after: str | None, wanted: Wanted
) -> Page[Recent]:
    """Returns (team id, entry or refusal) pairs, newest first. Raises `invalid_field` for an invalid cursor."""
    if after is not None and not (after.isascii() and after.isdigit() and len(after) <= _MAX_CURSOR_DIGITS):
        raise GatewayError("invalid_field", f"{after!r} is not a cursor of the requests.", param="after")
    end = int(after) if after is not None else None
    if wanted.to_ms < _NO_END:
        end = wanted.to_ms if end is None else min(end, wanted.to_ms)
    if end == 0:  # there is nothing older, and the store has no range that ends before its start
        return Page((), None)
    search = _Search(store, wanted)
    found: list[Recent] = []
    for _ in range(_ROUNDS):
        page, end = await search.read_page(team_ids, limit, end)
        found += page
        if end is None or len(found) >= limit:
            break
    found, cut_ms = _newest(_once(found), limit)
    end = cut_ms if cut_ms is not None else end
    return Page(tuple(found), None if end is None else str(end))


class _Search:
    """Reads the streams that can contain what is wanted. Immutable."""

    def __init__(self, store: Store, wanted: Wanted) -> None:
        self._store = store
        self._wanted = wanted
        self._start = str(wanted.from_ms)
        self._journal = wanted.outcome != "refused"
        self._refused = wanted.outcome in (None, "refused")

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
            for items in await self._read(team_ids[at : at + _BATCH_SIZE], end, self._start, share):
                if len(items) == share:
                    cut_ms = max(cut_ms or 0, items[-1][1].at_ms)
                found += [item for item in items if self._wanted.includes(item[1])]
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
                found += [item for item in items if self._wanted.includes(item[1])]
        return found, cut_ms

    async def _read(self, team_ids: Sequence[str], end: str, start: str, limit: int | None) -> list[list[Recent]]:
        most = "" if limit is None else str(limit)
        count = () if limit is None else ("COUNT", most)
        of_journal = partial(partial, read_entries, self._store)
        of_refused = partial(partial, self._store.run, "XREVRANGE")
        journals = [of_journal(team_id, "XREVRANGE", end, start, most) for team_id in team_ids if self._journal]
        refused = [of_refused(TeamKeys(one).refused, end, start, *count) for one in team_ids if self._refused]
        streams = await gather_pages(self._store, [*journals, *refused], faults=True)
        found: list[list[Recent]] = [
            [] if isinstance(reply, StoreError) else [(team_id, entry) for entry in entries_of(reply)]
            for team_id, reply in zip(team_ids, streams[: len(journals)], strict=False)
        ]
        found += [
            []
            if isinstance(reply, StoreError)
            else [(team_id, read_refused(team_id, entry_id, fields)) for entry_id, fields in reply]
            for team_id, reply in zip(team_ids, streams[len(journals) :], strict=False)
        ]
        return found


def _once(found: list[Recent]) -> list[Recent]:
    """Returns each refusal once: one whose writing was not confirmed is written again."""
    refused = {one.request_id: one for _, one in found if isinstance(one, RefusedRequest)}
    return [
        (team_id, one)
        for team_id, one in found
        if not isinstance(one, RefusedRequest) or refused[one.request_id] is one
    ]


def _newest(found: list[Recent], limit: int) -> tuple[list[Recent], int | None]:
    """Returns the newest entries, and the time of the oldest one if others were left out.

    A millisecond is never split.
    """
    found = sorted(found, key=lambda item: item[1].at_ms, reverse=True)
    if len(found) <= limit:
        return found, None
    cut_ms = found[limit - 1][1].at_ms
    return [item for item in found if item[1].at_ms >= cut_ms], cut_ms
