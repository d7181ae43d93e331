"""The last requests of one team or of all: what the journal settled, with what was refused; the newest first.

A page is cut between two milliseconds, never inside one: its cursor is a time, and serves any number of streams at once
without losing an entry. So a page may be a little longer than was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.errors import GatewayError
from gateway.ledger.journal import Entry, read_entry
from gateway.ledger.keyspace import TeamKeys
from gateway.ledger.refused import RefusedRequest, read_refused
from gateway.ledger.replies import gather
from gateway.ledger.store import Store
from gateway.ledger.team import Page

_REQUESTS: Final = frozenset({"settle", "void", "expire"})
_ROUNDS: Final = 20  # pages of the streams that are looked through for a filter that seldom matches
_FEWEST: Final = 10  # entries that are asked of a stream at once, however many teams there are
_LONGEST_CURSOR: Final = 15  # digits of a time in ms
Recent = tuple[str, Entry | RefusedRequest]


async def recent(
    store: Store, team_ids: Sequence[str], *, limit: int, after: str | None, outcome: str | None
) -> Page[Recent]:
    """(team id, entry or refusal) by time. `outcome`: the journal's, or "refused". Raises `invalid_field`."""
    if after is not None and not (after.isascii() and after.isdigit() and len(after) <= _LONGEST_CURSOR):
        raise GatewayError("invalid_field", f"{after!r} is no cursor of the requests.", param="after")
    end = int(after) if after is not None else None
    found: list[Recent] = []
    share = min(limit, max(_FEWEST, 2 * limit // max(1, len(team_ids))))
    if end == 0:  # nothing is older; the store knows no interval that ends before its beginning
        return Page((), None)
    for _ in range(_ROUNDS):
        page, end = await _round(store, team_ids, share, end)
        found += [item for item in page if _matches(item[1], outcome)]
        if end is None or len(found) >= limit:
            break
    if len(found) > limit:
        end = found[limit - 1][1].at_ms
        found = [item for item in found if item[1].at_ms >= end]
    return Page(tuple(found), None if end is None else str(end))


async def _round(
    store: Store, team_ids: Sequence[str], limit: int, before_ms: int | None
) -> tuple[list[Recent], int | None]:
    """One page of everything older than `before_ms`, and the time at which the next begins; None at the end."""
    end = "+" if before_ms is None else f"({before_ms}-0"
    replies = await _read(store, team_ids, end, "-", limit)
    found = sorted((item for items in replies for item in items), key=lambda item: item[1].at_ms, reverse=True)
    if all(len(items) < limit for items in replies):
        return found, None
    # Streams that gave all they were asked for may hold more: only what is newer than the end of each is complete.
    cut_ms = max(items[-1][1].at_ms for items in replies if len(items) == limit)
    last = await _read(store, team_ids, f"{cut_ms}-18446744073709551615", f"{cut_ms}-0", None)
    newer = [item for item in found if item[1].at_ms > cut_ms]
    return newer + [item for items in last for item in items], cut_ms


async def _read(store: Store, team_ids: Sequence[str], end: str, start: str, limit: int | None) -> list[list[Recent]]:
    count = () if limit is None else ("COUNT", str(limit))
    calls = []
    for team_id in team_ids:
        names = TeamKeys(team_id)
        calls += [store.run("XREVRANGE", name, end, start, *count) for name in (names.journal, names.refused)]
    replies = await gather(calls)
    out: list[list[Recent]] = []
    for index, team_id in enumerate(team_ids):
        journal, refused = replies[2 * index : 2 * index + 2]
        out.append([(team_id, read_entry(entry_id, fields)) for entry_id, fields in journal])
        out.append([(team_id, read_refused(team_id, entry_id, fields)) for entry_id, fields in refused])
    return out


def _matches(item: Entry | RefusedRequest, outcome: str | None) -> bool:
    if isinstance(item, RefusedRequest):
        return outcome in (None, "refused")
    if item.type not in _REQUESTS:
        return False
    return outcome is None or outcome == (item.outcome or "expired")
