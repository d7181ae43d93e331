"""What the ledger must do, in plain Python without a store: the state machine holds the real one to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["applied", "replayed", "late", "conflict"]


@dataclass(frozen=True)
class ModelHold:
    """A reservation."""

    id: str
    key_id: str
    amount: int
    tokens: int


@dataclass(frozen=True)
class Resolved:
    """How a hold ended."""

    kind: str
    cost: int


@dataclass
class Scope:
    """What is counted for the team or one key. A limit of None: there is none."""

    concurrency: int | None = None
    budget_usd: int | None = None
    budget_tokens: int | None = None
    open: int = 0
    usd: int = 0
    tokens: int = 0

    @property
    def is_full(self) -> bool:
        """Whether no slot is free: a refusal that waiting helps against."""
        return self.concurrency is not None and self.open >= self.concurrency

    def exceeded(self, amount: int, tokens: int) -> list[str]:
        """The words of the limits that refuse; a slot may be free soon, a total budget never is.

        Of a budget that is spent, what takes nothing may still be asked.
        """
        found = []
        if self.concurrency is not None and self.open >= self.concurrency:
            found.append("concurrency")
        if self.budget_usd is not None and amount and self.usd + amount > self.budget_usd:
            found.append("budget_usd_total")
        if self.budget_tokens is not None and tokens and self.tokens + tokens > self.budget_tokens:
            found.append("budget_tokens_total")
        return found


@dataclass
class ModelTeam:
    """One team's books. `overdue`: holds whose life is over; `graced`: those that were seen so once."""

    metered: bool
    scopes: dict[str, Scope]  # "" is the team; then its keys
    granted: int = 0
    available: int = 0
    spent: int = 0
    holds: dict[str, ModelHold] = field(default_factory=dict)
    overdue: set[str] = field(default_factory=set)
    graced: list[str] = field(default_factory=list)
    resolved: dict[str, Resolved] = field(default_factory=dict)
    expired: list[str] = field(default_factory=list)
    movements: dict[str, tuple[str, int]] = field(default_factory=dict)
    journal: list[tuple[str, int]] = field(default_factory=list)

    @property
    def held(self) -> int:
        return sum(hold.amount for hold in self.holds.values())

    def move(self, kind: str, amount: int, idempotency_key: str) -> bool:
        """Whether it was applied, or is a replay; False: the key was used for something else."""
        if idempotency_key in self.movements:
            return self.movements[idempotency_key] == (kind, amount)
        self.movements[idempotency_key] = (kind, amount)
        self.granted += amount
        self.available += amount
        self.journal.append((kind, amount))
        return True

    def admit(self, hold: ModelHold) -> str | None:
        """Reserves, or gives the word of what refuses: of key, team, credits the first that waiting does not help."""
        refusals = [word for name in (hold.key_id, "") for word in self.scopes[name].exceeded(hold.amount, hold.tokens)]
        if self.metered and hold.amount and self.available < hold.amount:  # what costs nothing needs no credits
            refusals.append("credits")
        if refusals:
            return next((word for word in refusals if word != "concurrency"), "concurrency")
        self.available -= hold.amount
        self.holds[hold.id] = hold
        self._count(hold.key_id, 1, hold.amount, hold.tokens)
        return None

    def expire(self) -> int:
        """Voids what was overdue when this was last called, and still is; how much."""
        voided = len(self.graced)
        for hold_id in self.graced:
            hold = self.holds.pop(hold_id)
            self.available += hold.amount
            self._count(hold.key_id, -1, -hold.amount, -hold.tokens)
            self.expired.append(hold_id)
            self.journal.append(("expire", 0))
        self.graced = sorted(self.overdue)
        self.overdue.clear()
        return voided

    def outlive(self, hold_id: str) -> None:
        """A hold's life ends."""
        self._forget(hold_id)
        if hold_id in self.holds:
            self.overdue.add(hold_id)

    def restore(self, hold: ModelHold) -> bool:
        """A hold that was voided, and whose request still runs, is there again."""
        if hold.id in self.holds or hold.id in self.resolved:
            return False
        self.available -= hold.amount
        self.holds[hold.id] = hold
        self._count(hold.key_id, 1, hold.amount, hold.tokens)
        return True

    def renew(self, hold_id: str) -> None:
        """A hold that is overdue and was not voided yet lives on."""
        self._forget(hold_id)

    def resolve(self, hold: ModelHold, kind: str, cost: int, tokens: int) -> Status:
        """Settles or voids, once."""
        resolution = Resolved(kind, cost)
        if hold.id in self.resolved:
            return "replayed" if self.resolved[hold.id] == resolution else "conflict"
        known = self.holds.pop(hold.id, None)
        self._forget(hold.id)
        if known is None and kind == "void":
            return "late"
        reserved, reserved_tokens = (known.amount, known.tokens) if known else (0, 0)
        self.available += reserved - cost
        self.spent += cost
        self._count(hold.key_id, -1 if known else 0, cost - reserved, tokens - reserved_tokens)
        self.resolved[hold.id] = resolution
        self.journal.append((kind, -cost))
        return "applied" if known else "late"

    def _forget(self, hold_id: str) -> None:
        self.overdue.discard(hold_id)
        if hold_id in self.graced:
            self.graced.remove(hold_id)

    def _count(self, key_id: str, slots: int, usd: int, tokens: int) -> None:
        for name in ("", key_id):
            scope = self.scopes[name]
            scope.open += slots
            scope.usd += usd
            scope.tokens += tokens
