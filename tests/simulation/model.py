"""What must be true of a schedule: the requests as their clients saw them, against the books.

charged once     a settlement that was promised is in the journal once, with its amount; others at most once
nothing else     the journal has no charge for what was not served, and no id that nobody sent
the sums         the journal, added up, gives the balances; `granted = available + held + spent`
nothing is held  once everything is quiet: no hold, no slot, no spool
within limits    while nothing is lost: no more requests run than may, and nobody spends what the team has not
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

from tests.simulation.world import World
from tests.support.ledgers import Books


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
    gateway: str
    amount: int
    stage: Stage = Stage.ASKED
    kind: Literal["settle", "void"] | None = None
    cost: int = 0
    promised: bool = False
    unchecked: bool = False


class Violation(AssertionError):
    """Something that must never happen has happened."""


@dataclass
class Model:
    """Mutable: the requests, and until when limits need not hold.

    `limits`: how many requests of a team may run. `unsure_until_s`: until then requests may be admitted beyond a
    limit, because a server or a gateway was gone for longer than anybody can bridge.
    """

    world: World
    granted: dict[str, int]
    limits: dict[str, int | None]
    requests: dict[str, Request] = field(default_factory=dict)
    running: dict[str, set[str]] = field(default_factory=dict)
    unsure_until_s: float = 0.0
    was_unsure: bool = False
    last_end_s: float = 0.0
    refusals: Counter[str] = field(default_factory=Counter)

    def unsure(self, until_s: float) -> None:
        self.was_unsure = True
        self.unsure_until_s = max(self.unsure_until_s, until_s)

    def asked(self, request: Request) -> None:
        self.requests[request.id] = request

    def refused(self, request: Request, code: str) -> None:
        self.refusals[code] += 1
        request.stage = Stage.REFUSED
        self.last_end_s = self.world.now_s

    def admitted(self, request: Request) -> None:
        request.stage = Stage.RUNNING
        others = self.running.setdefault(request.team_id, set())
        limit = self.limits[request.team_id]
        if self.world.now_s > self.unsure_until_s:
            if limit is not None and len(others) >= limit:
                raise Violation(f"{request.id} is admitted while {len(others)} requests run, and {limit} may")
            committed, granted = self._committed(request.team_id), self.granted[request.team_id]
            if not self.was_unsure and committed > granted:
                raise Violation(f"{request.id} is admitted: {committed} are spent or held of {granted}")
        others.add(request.id)

    def _committed(self, team_id: str) -> int:
        """What a team's requests have cost, or may cost while they run."""
        mine = [one for one in self.requests.values() if one.team_id == team_id]
        held = sum(one.amount for one in mine if one.stage is Stage.RUNNING)
        return held + sum(one.cost for one in mine if one.stage in (Stage.SETTLING, Stage.SETTLED))

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

    def check(self, team_id: str, books: Books) -> None:
        """Compares a team's books with its requests, once everything is quiet."""
        books.check()
        problems = list(self._problems(team_id, books))
        if problems:
            raise Violation("; ".join(problems))

    def _problems(self, team_id: str, books: Books) -> list[str]:
        problems = []
        if books.held or books.holds:
            problems.append(f"held for ever: {books.held}, {sorted(books.holds)}")
        slots = {name: number for name, number in books.state.items() if name.endswith("open") and number}
        if slots:
            problems.append(f"slots that never come back: {slots}")
        if books.granted != self.granted[team_id]:
            problems.append(f"granted {self.granted[team_id]}, the books say {books.granted}")
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
