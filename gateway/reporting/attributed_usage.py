"""Usage by tag and by end user, for each team and day.

    gw:{T}:attributed:<day>   "<name>=<value>" -> "requests input cached output cost"; see store/scripts/attribution.lua

The script that posts a cost also writes these fields. `by_value` yields a row for each value of one name, a row for the
values that were too many (OTHER), and a row for the requests without a value (NONE). Together they are the usage of
the day. A later correction counts on the day of its request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from functools import partial
from operator import add, sub
from typing import Final, NamedTuple

from gateway.protocol.attribution import END_USER, TAG
from gateway.reporting.usage_rollups import ROLLUPS, UsageRow
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather_pages
from gateway.store.store import Store

NONE: Final = ""
OTHER: Final = "\n"
"""Stand for values. A real value is not empty and contains no line end."""
_DAYS: Final = 2  # of one team, read by one call
_BATCH_SIZE: Final = 4  # calls per write to the store
_LARGE: Final = 2000  # fields of a hash; after so many, other requests are served
_NOTHING: Final = (0, 0, 0, 0, 0)
Sums = tuple[int, ...]
"""Requests, tokens of input, of cached input, of output, and cost in nano-USD."""


class Day(NamedTuple):
    """The usage of one team on one day: its total (None: no longer kept), and that of each requested name and value."""

    team_id: str
    start_ms: int
    total: Sums | None
    values: Mapping[tuple[str, str], Sums]


async def by_value(
    store: Store, team_ids: AsyncIterable[str], starts: Sequence[int], name: str
) -> AsyncIterator[UsageRow]:
    """Yields a row for each value of a name (END_USER, or TAG and its name) and day.

    Raises GatewayError `store_unavailable`.
    """
    async for day in _days(store, team_ids, starts, f"{name}=".encode()):
        rest = day.total or _NOTHING
        for (_, value), sums in day.values.items():
            rest = tuple(map(sub, rest, sums))
            yield _row(day, value, sums)
        if day.total is not None and any(rest):  # a correction on the day of another time zone may make it negative
            yield _row(day, NONE, rest)


class TagUse(NamedTuple):
    """The usage of all requests with a tag of one name, and the largest number of values on one day."""

    values: int
    sums: Sums


async def tag_names(store: Store, team_ids: AsyncIterable[str], starts: Sequence[int]) -> dict[str, TagUse]:
    """Returns the names of tags. OTHER stands for those that were counted together.

    Raises GatewayError `store_unavailable`.
    """
    found: dict[str, TagUse] = {}
    async for day in _days(store, team_ids, starts, b""):
        on_this: dict[str, TagUse] = {}
        for (name, _), sums in day.values.items():
            if name == END_USER:
                continue
            shown = name.removeprefix(TAG) or OTHER
            before = on_this.get(shown, TagUse(0, _NOTHING))
            on_this[shown] = TagUse(before.values + 1, tuple(map(add, before.sums, sums)))
        for shown, use in on_this.items():
            before = found.get(shown, TagUse(0, _NOTHING))
            found[shown] = TagUse(max(before.values, use.values), tuple(map(add, before.sums, use.sums)))
    return found


async def _days(store: Store, team_ids: AsyncIterable[str], starts: Sequence[int], prefix: bytes) -> AsyncIterator[Day]:
    """Yields the fields with this prefix of each team and day, team by team."""
    parts = [starts[at : at + _DAYS] for at in range(0, len(starts), _DAYS)]
    wanted: list[tuple[str, Sequence[int]]] = []
    async for team_id in team_ids:
        for part in parts:
            wanted.append((team_id, part))
            if len(wanted) == _BATCH_SIZE:
                async for day in _read(store, wanted, prefix):
                    yield day
                wanted = []
    async for day in _read(store, wanted, prefix):
        yield day


async def _read(store: Store, wanted: list[tuple[str, Sequence[int]]], prefix: bytes) -> AsyncIterator[Day]:
    calls = []
    for team_id, starts in wanted:
        names = TeamKeys(team_id)
        keys = [*(names.usage("day", at) for at in starts), *(names.attributed(at) for at in starts)]
        calls.append(partial(store.call, ROLLUPS, keys, []))
    for (team_id, starts), reply in zip(wanted, await gather_pages(store, calls), strict=True):
        hashes = dict(zip(reply[::2], reply[1::2], strict=True))
        for place, start_ms in enumerate(starts, 1):
            used, attributed = hashes.get(place, []), hashes.get(place + len(starts), [])
            if used or attributed:
                yield Day(team_id, start_ms, _total(used[1::2]), _values(attributed, prefix))
            if len(used) + len(attributed) > _LARGE:
                await asyncio.sleep(0)


def _values(flat: Sequence[bytes], prefix: bytes) -> dict[tuple[str, str], Sums]:
    values = {}
    for field, totals in zip(flat[::2], flat[1::2], strict=True):
        if field.startswith(prefix) and not field.startswith(b"#"):
            name, _, value = field.decode(errors="replace").partition("=")
            values[name, value or OTHER] = _sums(totals)
    return values


def _total(rows: Sequence[bytes]) -> Sums | None:
    return tuple(map(sum, zip(*map(_sums, rows), strict=True))) or None


def _sums(totals: bytes) -> Sums:
    return tuple(map(int, totals.split()))


def _row(day: Day, value: str, sums: Sums) -> UsageRow:
    requests, read, cached, made, cost = sums
    return UsageRow(day.team_id, "", "", day.start_ms, requests, read, cached, made, cost, value)
