"""Recomputes a team's balance from its journal, and compares it with the enforced numbers.

    name                    expected                          found
    opening_balance         0, if retention removed nothing   the balance before the first entry
    balance_after           the running sum                   the balance in an entry (with the entry's id)
    balance                 the journal's last balance        available + held
    granted                 available + held + spent          granted
    held                    the sum of the open holds         held
    holds                   open holds                        holds with an expiry
    open, open:<key>        open holds of the team or key     the counter that enforces concurrency
    slots:<key>:<rule>      open holds that the rule counts   the counter of a limit of concurrency for some models
    end_user:<whom>         open holds of an end user         how many of its requests run, by its entry (a digest)
    end_user:<whom> <rule>  open holds that the rule counts   the counter of its limit of concurrency
    total_usd               spent + held                      the counter that enforces budgets
    cost                    rates x quantities of its bill    what a settlement was charged (the entry's id)
    unreadable              nothing                           an entry, hold or counter that cannot be parsed (its name)
    deleted                 nothing                           the newest entry that was deleted by hand
    entries:granted         granted                           sum of grants and adjustments  (if nothing was trimmed)
    entries:spent           spent                             sum of settlements             (if nothing was trimmed)
    total_usd:<key>         settled + held by that key        its counter                    (if nothing was trimmed)
    key:<id>                1: the list, the counters or the journal name the key   0: its hash does not exist
    total_tokens[:<key>]    settled + held tokens             the counter for budgets        (if nothing was trimmed)
    lot:<time in ms>        at most what was granted with     what is left and held of       (if nothing was trimmed or
                            this expiry and has not expired   the credits that expire then    archived)

One script reads the balances at one moment. Then the journal is read up to that moment, and end users page by page,
while traffic continues.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from gateway.ledger.archived import Archived
from gateway.ledger.end_user_books import compare_end_users
from gateway.ledger.journal import UNREADABLE, Entry, Journal, OpenHold, read_hold
from gateway.store.keyspace import TeamKeys
from gateway.store.replies import gather, gather_pages
from gateway.store.script import Script
from gateway.store.store import Store, StoreError

BOOKS: Final = Script.load("books_v4")


@dataclass(frozen=True, slots=True)
class Difference:
    """Two figures that should be equal.

    They are in nano-USD, except `holds`, `open`, `end_user` and `unreadable` (counts) and tokens.

    `entry_id` is the place in the journal, or "".
    """

    name: str
    expected: int
    found: int
    entry_id: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of verifying one team. `complete` means that the journal reaches back to the team's creation."""

    team_id: str
    entries: int
    complete: bool
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        """Whether all figures agree."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class _LedgerState:
    state: Mapping[str, int]
    holds: frozenset[str]
    held: tuple[OpenHold, ...]
    first: str
    last: str
    is_complete: bool
    archived: Archived
    slots: tuple[tuple[str, str, int], ...]
    is_archived: bool
    lots: Mapping[int, int]
    unreadable: tuple[Difference, ...]


@dataclass(slots=True)
class _JournalTotals:
    """The sums of the journal, updated entry by entry. They begin with those of archived entries."""

    sums: Archived
    entries: int = 0
    opening: int = 0
    granted_until: Counter[int] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        if entry.type == UNREADABLE:
            self.differences.append(Difference("unreadable", 0, 1, entry.id))
            return
        before = self.sums.balance
        if not self.sums.entries:
            self.opening = before = entry.balance - entry.amount
        self.entries += 1
        if entry.balance != before + entry.amount:
            self.differences.append(Difference("balance_after", before + entry.amount, entry.balance, entry.id))
        if (cost := _recomputed(entry)) not in (None, -entry.amount):
            self.differences.append(Difference("cost", cost or 0, -entry.amount, entry.id))
        if entry.expires_ms:
            self.granted_until[entry.expires_ms] += entry.amount
        self.sums.add(entry)  # takes over its balance, so that a wrong entry is reported only once


def _recomputed(entry: Entry) -> int | None:
    """Returns what a settlement must have cost by its bill, or None if it has none."""
    if entry.bill is None or entry.settled_by not in ("usage", "estimate"):
        return None
    cost = entry.bill.nano_usd
    return min(cost, entry.hold) if entry.settled_by == "estimate" and entry.hold else cost


async def verify(store: Store, team_id: str) -> Verification:
    """Verifies one team. Raises GatewayError `store_unavailable`."""
    try:
        ledger_state = await _read_state(store, team_id)
    except StoreError:  # keys of a type that the gateway does not use
        return Verification(team_id, 0, complete=False, differences=(Difference(UNREADABLE, 0, 1),))
    totals = _JournalTotals(ledger_state.archived if ledger_state.is_complete else Archived())
    first = ""
    if ledger_state.last:
        async for page in Journal(store).export(team_id, to_ms=int(ledger_state.last.partition("-")[0]) + 1):
            first = first or page[0].id
            for entry in page:
                if _position(entry.id) <= _position(ledger_state.last):
                    totals.add(entry)
    complete = ledger_state.is_complete and first == ledger_state.first
    differences = [*ledger_state.unreadable, *totals.differences, *_compare(ledger_state, totals)]
    if complete:
        differences += _compare_whole(ledger_state, totals)
    try:
        miscounted = await compare_end_users(store, team_id, ledger_state.held)
        differences += [Difference(f"end_user:{name}", holds, counted) for name, holds, counted in miscounted]
    except StoreError:
        differences.append(Difference("unreadable:end-users", 0, 1))
    differences += await _missing_keys(store, team_id, _keys(ledger_state.state) | set(totals.sums.spent))
    return Verification(team_id, totals.entries, complete, tuple(differences))


async def _missing_keys(store: Store, team_id: str, named: set[str]) -> list[Difference]:
    """Returns the keys that the counters, the journal or the team's list name, and that do not exist."""
    names = TeamKeys(team_id)
    listed = (await gather([store.run("ZRANGE", names.keys, "0", "-1")]))[0]
    key_ids = sorted({raw.decode() for raw in listed} | {key_id for key_id in named if key_id})
    there = await gather_pages(store, [partial(store.run, "EXISTS", names.key(key_id)) for key_id in key_ids])
    return [Difference(f"key:{key_id}", 1, 0) for key_id, exists in zip(key_ids, there, strict=True) if not exists]


def _compare(ledger_state: _LedgerState, totals: _JournalTotals) -> Iterator[Difference]:
    state = ledger_state.state
    balance = _value(state, "available") + _value(state, "held")
    checks = [
        ("balance", totals.sums.balance, balance),
        ("granted", balance + _value(state, "spent"), _value(state, "granted")),
        ("held", sum(hold.amount for hold in ledger_state.held), _value(state, "held")),
        ("holds", len(ledger_state.held), len(ledger_state.holds & {hold.id for hold in ledger_state.held})),
        ("holds", len(ledger_state.held), len(ledger_state.holds)),
        ("open", len(ledger_state.held), _value(state, "open")),
        ("total_usd", _value(state, "spent") + _value(state, "held"), _value(state, "total_usd")),
    ]
    running = Counter(hold.key_id for hold in ledger_state.held)
    checks += [
        (f"open:{key_id}", running[key_id], _value(state, f"{key_id}:open")) for key_id in _keys(state) | set(running)
    ]
    for key_id, rule, found in ledger_state.slots:
        meter = f"k{rule}" if key_id else f"t{rule}"
        counted = sum(meter in hold.counted and key_id in ("", hold.key_id) for hold in ledger_state.held)
        checks.append((f"slots:{key_id}:{rule}", counted, found))
    seen = set()
    for name, expected, found in checks:
        if expected != found and name not in seen:
            seen.add(name)
            yield Difference(name, expected, found)


def _compare_whole(ledger_state: _LedgerState, totals: _JournalTotals) -> Iterator[Difference]:
    state = ledger_state.state
    held: Counter[str] = Counter()
    held_tokens: Counter[str] = Counter()
    for hold in ledger_state.held:
        held[hold.key_id] += hold.amount
        held_tokens[hold.key_id] += hold.tokens
    checks = [
        ("opening_balance", 0, totals.opening),
        ("entries:granted", _value(state, "granted"), totals.sums.granted),
        ("entries:spent", _value(state, "spent"), totals.sums.spent.total()),
        ("total_tokens", totals.sums.tokens.total() + held_tokens.total(), _value(state, "total_tokens")),
    ]
    for key_id in sorted(_keys(state) | set(held)):
        usd, tokens = totals.sums.spent[key_id] + held[key_id], totals.sums.tokens[key_id] + held_tokens[key_id]
        checks += [
            (f"total_usd:{key_id}", usd, _value(state, f"{key_id}:total_usd")),
            (f"total_tokens:{key_id}", tokens, _value(state, f"{key_id}:total_tokens")),
        ]
    if not ledger_state.is_archived:  # the sums of archived entries do not say what expires when
        lots = Counter(ledger_state.lots)
        for hold in ledger_state.held:
            lots.update(hold.taken)
        checks += [
            (f"lot:{expires_ms}", min(totals.granted_until[expires_ms], found), found)
            for expires_ms, found in lots.items()
        ]
    for name, expected, found in checks:
        if expected != found:
            yield Difference(name, expected, found)


async def _read_state(store: Store, team_id: str) -> _LedgerState:
    keys = TeamKeys(team_id)
    reply = (await gather([store.call(BOOKS, [keys.state, keys.holds, keys.held, keys.journal, keys.archived], [])]))[0]
    state, holds, held, first, last, length, added, deleted, archived, slots, lots = reply
    unreadable: list[Difference] = []
    counters: dict[str, int] = {}
    for raw, value in zip(state[::2], state[1::2], strict=True):
        name = raw.decode(errors="replace")
        try:
            if not name.endswith("window"):  # packed counters of rates and periods, which verification does not cover
                counters[name] = int(value)
        except ValueError:
            unreadable.append(Difference(f"unreadable:{name}", 0, 1))
    open_holds: list[OpenHold] = []
    for raw, text in zip(held[::2], held[1::2], strict=True):
        name = raw.decode(errors="replace")
        try:
            open_holds.append(read_hold(name, text.decode()))
        except ValueError:
            unreadable.append(Difference(f"unreadable:{name}", 0, 1))
    sums = Archived()
    try:
        sums = Archived.read(archived)
    except ValueError:
        unreadable.append(Difference("unreadable:archived", 0, 1))
    if deleted != b"0-0":
        unreadable.append(Difference("deleted", 0, 1, deleted.decode()))
    return _LedgerState(
        state=counters,
        holds=frozenset(raw.decode(errors="replace") for raw in holds),
        held=tuple(open_holds),
        first=first.decode(),
        last=last.decode(),
        is_complete=length + sums.entries == added,
        archived=sums,
        slots=tuple(_slots(slots)),
        is_archived=sums.entries > 0,
        lots=dict(zip(lots[::2], lots[1::2], strict=True)),
        unreadable=tuple(unreadable),
    )


def _slots(flat: list[Any]) -> Iterator[tuple[str, str, int]]:
    for key_id, rule, running in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        yield key_id.decode(), rule.decode(), running


def _keys(state: Mapping[str, int]) -> set[str]:
    return {key_id for key_id, separator, _ in (name.partition(":") for name in state) if separator}


def _value(state: Mapping[str, int], name: str) -> int:
    return state.get(name, 0)


def _position(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)
