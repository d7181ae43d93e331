"""What must be true of a schedule: the requests as their clients saw them, against the books.

charged once     a settlement that was promised is in the journal once, with its amount; others at most once
nothing else     the journal has no charge for what was not served, and no id that nobody sent
the sums         the journal, added up, gives the balances; `granted = available + held + spent`
nothing is held  once everything is quiet: no hold, no slot, no spool
within limits    while nothing is lost: no more requests run than may, and nobody spends what the team has not; the same
                 for each end user, by limits of its own
expired          credits that expire end when they do: what nobody had asked for until then is in the journal as gone
end users        nothing of an end user runs for ever, and its budget has counted what the journal charges for it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Literal, NamedTuple

from gateway.accounts.entities import Lot
from tests.simulation.world import World
from tests.support.ledgers import Books

CLOCKS_DIFFER_MS: Final = 50
"""A server's clock differs by less from the true time."""


class Stage(Enum):
    """How far a request has come."""

    ASKED = auto()
    REFUSED = auto()
    RUNNING = auto()
    SETTLING = auto()
    SETTLED = auto()
    DEAD = auto()  # its gateway was killed before it was settled for certain


@dataclass
class Request:
    """One request. `promised`: its settlement is acknowledged by the store, or on disk, or its gateway lives."""

    id: str
    team_id: str
    end_user: str
    gateway: str
    amount: int
    stage: Stage = Stage.ASKED
    kind: Literal["settle", "void"] | None = None
    cost: int = 0
    promised: bool = False
    unchecked: bool = False
    asked_ms: int = 0


class EndUserLimits(NamedTuple):
    """The limits of each end user of a team: how many of its requests run, and what they cost; None: no limit."""

    concurrency: int | None = None
    budget: int | None = None


class Counted(NamedTuple):
    """What the store has counted for an end user: requests that run, by its entry and its limit, and what it spent."""

    running: int
    slots: int
    spent: int


class Violation(AssertionError):
    """Something that must never happen has happened."""


@dataclass
class Model:
    """Mutable: the requests, and until when limits need not hold.

    `limits`: how many requests of a team may run. `each`: the limits of each of its end users. `lots`: what of its
    credits expires. `unsure_until_s`: until then
    requests may be admitted beyond a limit, because a server or a gateway was gone for longer than anybody can bridge.
    `overcommitted`: the teams for which more may have been held then than they had.
    """

    world: World
    granted: dict[str, int]
    limits: dict[str, int | None]
    each: dict[str, EndUserLimits]
    lots: dict[str, Lot] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    running: dict[str, set[str]] = field(default_factory=dict)
    unsure_until_s: float = 0.0
    was_unsure: bool = False
    overcommitted: set[str] = field(default_factory=set)
    last_end_s: float = 0.0
    refusals: Counter[str] = field(default_factory=Counter)

    def unsure(self, until_s: float) -> None:
        self.was_unsure = True
        self.unsure_until_s = max(self.unsure_until_s, until_s)

    def asked(self, request: Request) -> None:
        request.asked_ms = self.world.now_ms
        self.requests[request.id] = request

    def refused(self, request: Request, code: str) -> None:
        self.refusals[code] += 1
        request.stage = Stage.REFUSED
        self.last_end_s = self.world.now_s

    def admitted(self, request: Request) -> None:
        request.stage = Stage.RUNNING
        others = self.running.setdefault(request.team_id, set())
        limit = self.limits[request.team_id]
        committed = self._committed(request.team_id)
        granted = self.granted[request.team_id] - self._gone(request.team_id)
        if committed > granted:
            self.overcommitted.add(request.team_id)
        if self.world.now_s > self.unsure_until_s:
            if limit is not None and len(others) >= limit:
                raise Violation(f"{request.id} is admitted while {len(others)} requests run, and {limit} may")
            if not self.was_unsure and committed > granted:
                raise Violation(f"{request.id} is admitted: {committed} are spent or held of {granted}")
            self._check_end_user(request, others)
        others.add(request.id)

    def _check_end_user(self, request: Request, others: set[str]) -> None:
        """Raises Violation if a request is admitted beyond a limit of its end user."""
        limits, user = self.each[request.team_id], request.end_user
        running = sum(self.requests[one].end_user == user for one in others)
        if limits.concurrency is not None and running >= limits.concurrency:
            raise Violation(f"{request.id} is admitted while {running} requests of {user} run, and {limits} may")
        if limits.budget is not None and not self.was_unsure:
            committed = self._committed(request.team_id, user)
            if committed > limits.budget:
                raise Violation(f"{request.id} is admitted: {user} has spent or held {committed}, and {limits} may")

    def _committed(self, team_id: str, end_user: str | None = None) -> int:
        """What a team's requests have cost, or may cost while they run. `end_user`: its requests alone."""
        mine = [one for one in self.requests.values() if one.team_id == team_id and end_user in (None, one.end_user)]
        held = sum(one.amount for one in mine if one.stage is Stage.RUNNING)
        return held + sum(one.cost for one in mine if one.stage in (Stage.SETTLING, Stage.SETTLED))

    def _gone(self, team_id: str) -> int:
        """What must have expired by now: nobody who asked before the expiry can have taken it."""
        lot = self.lots.get(team_id, Lot(0, 0))
        expired_ms = lot.expires_ms + CLOCKS_DIFFER_MS
        if self.world.now_ms < expired_ms:
            return 0
        early = (one for one in self.requests.values() if one.team_id == team_id and one.asked_ms < expired_ms)
        return max(0, lot.available - sum(one.amount for one in early))

    def holds_are_back(self, lost: set[str]) -> None:
        """A server knows nothing of what these requests did last: some still hold there what they have paid for."""
        self.overcommitted |= {self.requests[one].team_id for one in lost if self.requests[one].kind is not None}

    def ends(self, request: Request, kind: Literal["settle", "void"], cost: int) -> None:
        """The request has ended, and is about to be settled."""
        self.left(request)
        request.stage, request.kind, request.cost = Stage.SETTLING, kind, cost

    def left(self, request: Request) -> None:
        """It does not run any more."""
        self.running.setdefault(request.team_id, set()).discard(request.id)
        self.last_end_s = self.world.now_s

    def killed(self, request: Request, *, on_disk: bool) -> None:
        """Its gateway was killed."""
        self.left(request)
        if on_disk:
            self.promise(request)
        elif not request.promised:
            request.stage = Stage.DEAD

    def promise(self, request: Request) -> None:
        request.stage, request.promised = Stage.SETTLED, True

    def check(self, team_id: str, books: Books, lots: list[int], counted: Mapping[str, Counted], slots: int) -> None:
        """Compares a team's books with its requests, once everything is quiet.

        `lots`: as scripts/lots.lua stores them. `counted`: what the store has counted for each end user. `slots`: those
        of limits for some models that are taken.
        """
        books.check()
        problems = [*self._problems(team_id, books), *self._lot_problems(team_id, books, lots)]
        problems += self._end_user_problems(team_id, books, counted)
        problems += [f"slots for some models that never come back: {slots}"] if slots else []
        if problems:
            raise Violation("; ".join(problems))

    def _problems(self, team_id: str, books: Books) -> list[str]:
        problems = []
        if books.held or books.holds:
            problems.append(f"held for ever: {books.held}, {sorted(books.holds)}")
        slots = {name: number for name, number in books.state.items() if name.endswith("open") and number}
        if slots:
            problems.append(f"slots that never come back: {slots}")
        granted = self.granted[team_id] - sum(_lapsed(books))
        if books.granted != granted:
            problems.append(f"granted {granted}, the books say {books.granted}")
        if books.available < 0 and not self.was_unsure:
            problems.append(f"spent what the team has not: {books.available} are available")
        charges = {entry["id"]: -int(entry["amount"]) for entry in books.journal if entry["type"] == "settle"}
        mine = {one.id: one for one in self.requests.values() if one.team_id == team_id}
        for request_id, cost in charges.items():
            one = mine.get(request_id)
            if one is None or one.kind != "settle":
                problems.append(f"{request_id} is charged {cost}, and was {one and one.stage.name}")
            elif cost != one.cost:
                problems.append(f"{request_id} is charged {cost} instead of {one.cost}")
        problems += [
            f"{one.id} of gateway {one.gateway} was served and is not charged its {one.cost}"
            for one in mine.values()
            if one.promised and one.kind == "settle" and one.id not in charges
        ]
        return problems

    def _end_user_problems(self, team_id: str, books: Books, counted: Mapping[str, Counted]) -> Iterator[str]:
        charged: Counter[str] = Counter()
        for entry in books.journal:
            if entry["type"] == "settle":
                charged[self.requests[entry["id"]].end_user] -= int(entry["amount"])
        limits = self.each[team_id]
        for user in {*counted, *charged}:
            running, slots, spent = counted.get(user, Counted(0, 0, 0))
            if running or slots:
                yield f"{running} requests of {user} run for ever, and {slots} of its slots are taken"
            # Where a failover has lost entries, nobody knows what they had counted.
            if limits.budget is not None and not self.was_unsure and spent != charged[user]:
                yield f"{user} is charged {charged[user]}, and its budget has counted {spent}"

    def _lot_problems(self, team_id: str, books: Books, lots: list[int]) -> list[str]:
        lot, lapsed, left = self.lots[team_id], sum(_lapsed(books)), sum(lots[1::2])
        charged = -sum(int(entry["amount"]) for entry in books.journal if entry["type"] == "settle")
        problems = []
        # Where more was held than the team has, a part of what is given back belonged to nobody, and does not expire.
        least = 0 if team_id in self.overcommitted else max(0, lot.available - charged)
        if not least <= lapsed + left <= lot.available:
            problems.append(
                f"of {lot.available} that expire, {lapsed} are gone and {left} left, with {charged} charged"
            )
        if left > max(0, books.available):
            problems.append(f"{left} are left of what expires, and {books.available} of all")
        if lapsed and self.world.now_ms < lot.expires_ms - CLOCKS_DIFFER_MS:
            problems.append(f"{lapsed} have expired early")
        return problems


def _lapsed(books: Books) -> list[int]:
    return [-int(entry["amount"]) for entry in books.journal if entry["type"] == "lapse"]
