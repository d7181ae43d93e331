"""The journal: every movement of a team's credits, with the balance after it. It can be read, searched and exported.

    entries(team, ...)   one page, oldest or newest first
    export(team, ...)    all entries of a period, page by page
    find(team, request)  how a request was settled, or that it is running, or None

    type      amount          balance after
    grant     + the grant     + amount
    adjust    either sign     + amount
    lapse     - what was left + amount: credits that expired
    settle    - the cost      + amount
    void      0               unchanged
    expire    0               unchanged; the gateway that made the hold has died
    attempt   0               unchanged; an upstream that failed may have started work, and may charge for it

An entry's id is that of the stream: "<server time, ms>-<number>". A cursor is such an id. verification.py checks the
balances against the journal.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from gateway.billing.bill import Bill, read_bill
from gateway.errors import GatewayError
from gateway.ledger.packed_entry import expand_fields, fingerprint, plain_fields, read_known
from gateway.protocol.quantities import Usage
from gateway.store.keyspace import WEEK_MS, TeamKeys
from gateway.store.replies import gather, gather_pages
from gateway.store.script import Script
from gateway.store.store import Store
from gateway.types import Page

ENTRIES: Final = Script.load("entries_v1")
FIND: Final = Script.load("find_v1")
PAGE: Final = 100
"""How many entries are read at once. They keep the store and the event loop busy for a millisecond or two."""
UNREADABLE: Final = "unreadable"
MOVEMENTS: Final = frozenset({"grant", "adjust", "lapse"})
"""The types of entries that change what was granted."""
_ROUNDS: Final = 200  # pages that are searched for a rare type
_NO_END: Final = 2**63 - 1
_NO_TEXTS: Final[Mapping[int, bytes]] = MappingProxyType({})
_OF_LOTS: Final = re.compile(r"l(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One movement. Money is in nano-USD, `at_ms` is the server's time. Fields that do not apply are "" or 0.

    `ref` is the id of the request, or of the movement for grants and adjustments. `usage` and `bill` belong to a
    settlement, and `over` is the part of its cost that the hold did not cover. `attempt` describes a failed attempt
    that may have started work. `response_id` is the provider's id of the answer.
    """

    id: str
    at_ms: int
    type: str
    ref: str
    amount: int
    balance: int
    key_id: str = ""
    hold: int = 0
    model: str = ""
    upstream: str = ""
    outcome: str = ""
    settled_by: str = ""
    note: str = ""
    usage: Usage | None = None
    bill: Bill | None = None
    over: int = 0
    attempt: str = ""
    response_id: str = ""
    expires_ms: int = 0


@dataclass(frozen=True, slots=True)
class OpenHold:
    """A running request: its reservation in nano-USD and tokens, when it was admitted, and the names behind these.

    `counted`: the meters that count it, and what it took of credits that expire.
    """

    id: str
    key_id: str
    amount: int
    tokens: int
    admitted_ms: int
    counted: frozenset[str] = frozenset()

    @property
    def taken(self) -> dict[int, int]:
        """What it took of credits that expire: the time in ms -> nano-USD (scripts/lots.lua)."""
        found = (_OF_LOTS.fullmatch(name) for name in self.counted)
        return {int(one[1]): int(one[2]) for one in found if one}


@dataclass(frozen=True, slots=True)
class FoundRequest:
    """A request that was found, which is open or has ended. `entry` is None if retention has removed it."""

    team_id: str
    open: OpenHold | None = None
    kind: str = ""
    cost: int = 0
    settled_by: str = ""
    entry: Entry | None = None


class Journal:
    """The journals of one store. Raises GatewayError `store_unavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def entries(
        self,
        team_id: str,
        *,
        limit: int = 100,
        after: str | None = None,
        from_ms: int = 0,
        to_ms: int = _NO_END,
        type_: str | None = None,
        newest: bool = False,
    ) -> Page[Entry]:
        """Returns entries with from_ms <= time < to_ms after the cursor, optionally of one type, or newest first.

        A page of one type may be short or even empty, although more pages follow. `next` is None only on the last one.
        """
        start, end = str(from_ms), f"({to_ms}-0"
        if after is not None and newest and _position(after) < (to_ms, 0):
            end = f"({after}"
        elif after is not None and not newest and _position(after) >= (from_ms, 0):
            start = f"({after}"
        if end == "(0-0" or to_ms <= 0:  # the store refuses an interval that ends before its beginning
            return Page((), None)
        found: list[Entry] = []
        for _ in range(_ROUNDS if type_ is not None else limit // PAGE + 1):
            count = PAGE if type_ is not None else min(PAGE, limit + 1 - len(found))
            bounds = ("XREVRANGE", team_id, end, start) if newest else ("XRANGE", team_id, start, end)
            async with self._store.large_reads:
                page = await self._range(*bounds, count)
            found += [entry for entry in page if type_ in (None, entry.type)]
            if len(found) > limit or len(page) < count:
                break
            end, start = (f"({page[-1].id}", start) if newest else (end, f"({page[-1].id}")
        else:
            return Page(tuple(found), (end if newest else start).removeprefix("("))
        return Page(tuple(found[:limit]), found[limit - 1].id if len(found) > limit else None)

    async def export(self, team_id: str, *, from_ms: int = 0, to_ms: int = _NO_END) -> AsyncIterator[tuple[Entry, ...]]:
        """Yields all entries of a period, in pages."""
        after: str | None = None
        while True:
            page = await self.entries(team_id, limit=PAGE - 1, after=after, from_ms=from_ms, to_ms=to_ms)
            if page.data:
                yield page.data
            if page.next is None:
                return
            after = page.next

    async def find(self, team_ids: Sequence[str], request_id: str, *, remembered_s: int) -> FoundRequest | None:
        """Finds a request of any of these teams, running or ended. For expired holds see `find_expired`.

        `remembered_s` is `ledger.resolution_ttl_s`.
        """
        replies = await self._find(team_ids, request_id, remembered_s, "")
        for team_id, reply in zip(team_ids, replies, strict=True):
            match reply:
                case [b"open", held]:
                    return FoundRequest(team_id, open=read_hold(request_id, held.decode()))
                case [b"done", done]:
                    return await self._ended(team_id, done.decode())
                case [b"entry", entry_id, packed, row, ending]:
                    entry = read_entry(entry_id, expand_fields(packed, row, ending))
                    return FoundRequest(team_id, None, entry.type, -entry.amount, entry.settled_by, entry)
        return None

    async def find_response(
        self, team_ids: Sequence[str], response_id: str, *, remembered_s: int
    ) -> tuple[str, int] | None:
        """Returns the team's id and the admission time in ms of a remembered response, or None."""
        replies = await self._find(team_ids, response_id, remembered_s, "12")
        for team_id, reply in zip(team_ids, replies, strict=True):
            if reply:
                return team_id, read_known(*reply[2:]).admitted_ms
        return None

    async def _find(self, team_ids: Sequence[str], name: str, remembered_s: int, place: str) -> list[Any]:
        now_ms = time.time_ns() // 1_000_000
        since_ms, sought = max(0, now_ms - remembered_s * 1000 - WEEK_MS), [name, fingerprint(name), place]

        def look(team_id: str) -> asyncio.Future[Any]:
            names = TeamKeys(team_id)
            indexes = names.ended_since(since_ms, now_ms + WEEK_MS)
            return self._store.call(
                FIND, [names.held, names.journal, names.words, names.resolution(name), *indexes], sought
            )

        return await gather_pages(self._store, [partial(look, team_id) for team_id in team_ids])

    async def find_expired(self, team_id: str, request_id: str, *, since_ms: int = 0) -> FoundRequest | None:
        """Finds the entry of an expired hold, beginning with the newest entry."""
        end = "+"
        while found := await self._range("XREVRANGE", team_id, end, str(since_ms), PAGE):
            for entry in found:
                if entry.ref == request_id:
                    return FoundRequest(team_id, kind=entry.type, cost=-entry.amount, settled_by="expired", entry=entry)
            end = f"({found[-1].id}"
        return None

    async def _ended(self, team_id: str, done: str) -> FoundRequest:
        kind, cost, _balance, entry_id, settled_by = done.split(" ", 4)
        found = await self._range("XRANGE", team_id, entry_id, entry_id, 1)
        return FoundRequest(team_id, None, kind, int(cost), settled_by, found[0] if found else None)

    async def _range(self, command: str, team_id: str, start: str, end: str, count: int) -> list[Entry]:
        reply = (await gather([read_entries(self._store, team_id, command, start, end, str(count))]))[0]
        return list(entries_of(reply))


def read_entries(
    store: Store, team_id: str, command: str, start: str, end: str, count: str = ""
) -> asyncio.Future[Any]:
    """Starts to read entries. `entries_of` parses the reply. `command` is XRANGE or XREVRANGE."""
    names = TeamKeys(team_id)
    return store.call(ENTRIES, [names.journal, names.words], [command, start, end, count])


def entries_of(reply: list[Any]) -> Iterator[Entry]:
    """Returns the entries in the reply of `read_entries`."""
    found, flat = reply
    texts = {int(number): text for number, text in zip(flat[::2], flat[1::2], strict=True)}
    return (read_entry(entry_id, fields, texts) for entry_id, fields in found)


def read_hold(hold_id: str, text: str) -> OpenHold:
    """Parses a hold as the scripts store it: "amount tokens admitted_ms key_id ..."."""
    amount, tokens, admitted_ms, key_id, *rest = text.split(" ")
    counted = frozenset(rest[1].split(",")) if len(rest) > 1 else frozenset[str]()
    return OpenHold(hold_id, key_id, int(amount), int(tokens), int(admitted_ms), counted)


def check_cursor(after: str | None) -> None:
    """Raises GatewayError `invalid_field` if a cursor is not an entry's id."""
    if after is not None:
        _position(after)


def _position(entry_id: str) -> tuple[int, int]:
    ms, separator, number = entry_id.partition("-")
    if not (separator and ms.isascii() and ms.isdigit() and number.isascii() and number.isdigit()):
        raise GatewayError("invalid_field", f"{entry_id!r} is not a cursor of a journal.", param="after")
    return int(ms), int(number)


def read_entry(entry_id: bytes, flat: list[bytes], texts: Mapping[int, bytes] = _NO_TEXTS) -> Entry:
    """Parses an entry. It has the type UNREADABLE if the gateway has not written it.

    `texts` are the texts that numbers in packed entries stand for.
    """
    try:
        return _read_entry(entry_id, plain_fields(flat, texts))
    except (ValueError, TypeError, LookupError):
        entry = entry_id.decode()
        return Entry(entry, _position(entry)[0], UNREADABLE, "", 0, 0)


def _read_entry(entry_id: bytes, flat: list[bytes]) -> Entry:
    words = [word.decode() for word in flat]
    fields = dict(zip(words[::2], words[1::2], strict=True))
    entry = entry_id.decode()
    usage, bill = None, None
    if fields["type"] == "settle":
        input_tokens, cached, output_tokens, reasoning = (
            int(fields[name]) for name in ("in", "cached", "out", "reasoning")
        )
        usage = Usage(input_tokens, cached, output_tokens, reasoning, input_tokens + output_tokens, None)
        bill = read_bill(fields.get("bill", ""), usage)
    return Entry(
        id=entry,
        at_ms=_position(entry)[0],
        type=fields["type"],
        ref=fields["id"],
        amount=int(fields["amount"]),
        balance=int(fields["balance"]),
        key_id=fields.get("key", ""),
        hold=int(fields.get("hold", "0")),
        model=fields.get("model", ""),
        upstream=fields.get("upstream", ""),
        outcome=fields.get("outcome", ""),
        settled_by=fields.get("by", "attempt" if fields["type"] == "attempt" else ""),
        note=fields.get("note", ""),
        usage=usage,
        bill=bill,
        over=int(fields.get("over", "0")),
        attempt=fields.get("attempt", ""),
        response_id=fields.get("response", ""),
        expires_ms=int(fields.get("expires", "0")),
    )
