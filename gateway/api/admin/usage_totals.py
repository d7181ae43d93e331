"""Usage added up, in bounded room however many teams there are.

    Board.add(row)     sums by group and step, and in all
    Board.complete()   between two teams: the groups of the one before are final, and the smallest may go to the others

What goes to the others is added up there to the last digit: groups and others together are always the total. Rows of
usage and of what was seen come in any order.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from gateway.billing.money import format_usd
from gateway.errors import GatewayError
from gateway.reporting.latency_buckets import quantile
from gateway.reporting.outcome_rollups import OutcomeCounts, endings, refusals, times
from gateway.reporting.usage_rollups import Used

MAX_ROWS: Final = 20_000
MAX_ROWS_OF_A_TEAM: Final = 4 * MAX_ROWS
By = Literal["model", "key", "team"]
Group = tuple[str, str]
"""(team id, what a row is about); "" where it is not of one team."""


@dataclass(slots=True)
class Sum:
    """State that changes: all of it. `seen`: counts by `what`, as in ledger.seen."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    seen: dict[str, int] = field(default_factory=dict)

    def add(self, row: Used | OutcomeCounts) -> None:
        """Adds a row of the roll-ups."""
        if isinstance(row, Used):
            self.requests += row.requests
            self.input_tokens += row.input_tokens
            self.cached_input_tokens += row.cached_input_tokens
            self.output_tokens += row.output_tokens
            self.cost += row.cost
        else:
            for what, count in row.counts.items():
                self.seen[what] = self.seen.get(what, 0) + count

    def merge(self, other: Sum) -> None:
        """Adds a sum."""
        self.requests += other.requests
        self.input_tokens += other.input_tokens
        self.cached_input_tokens += other.cached_input_tokens
        self.output_tokens += other.output_tokens
        self.cost += other.cost
        for what, count in other.seen.items():
            self.seen[what] = self.seen.get(what, 0) + count

    def shape(self, *, with_seen: bool) -> dict[str, Any]:
        """As JSON."""
        used = {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": format_usd(self.cost),
        }
        return used | (self._seen_shape() if with_seen else {})

    def _seen_shape(self) -> dict[str, Any]:
        refused = refusals(self.seen)
        return {
            "outcomes": endings(self.seen),
            "refused": sum(reason.requests for reason in refused),
            "refusals": [
                {
                    "code": reason.code,
                    "limit": reason.limit or None,
                    "scope": reason.scope or None,
                    "requests": reason.requests,
                }
                for reason in refused
            ],
            "total_ms": _times_shape(times("total", self.seen)),
            "first_byte_ms": _times_shape(times("first", self.seen)),
        }


@dataclass(slots=True)
class Tally:
    """One group. State that changes: all of it."""

    total: Sum = field(default_factory=Sum)
    steps: dict[int, Sum] = field(default_factory=dict)

    def at(self, start_ms: int) -> Sum:
        """The sum of a step."""
        found = self.steps.get(start_ms)
        if found is None:
            found = self.steps[start_ms] = Sum()
        return found


class Board:
    """Sums of one question. `most`: groups that stay apart. State that changes: all of it."""

    def __init__(self, by: By | None, most: int) -> None:
        self.total = Sum()
        self.groups: dict[Group, Tally] = {}
        self.others = Tally()
        self.merged = 0  # groups that went to the others
        self._by = by
        self._most = most
        self._rows = 0
        self._team = ""
        self._final: list[tuple[int, int, Group]] = []
        self._open: list[Group] = []

    def add(self, row: Used | OutcomeCounts) -> None:
        """Adds a row. Raises GatewayError `invalid_field` where even one team, or the models alone, are too many."""
        if row.team_id != self._team:
            self.complete()
            self._team = row.team_id
        group = self._group(row)
        tally = self.groups.get(group)
        if tally is None:
            tally = self.groups[group] = Tally()
            self._open.append(group)
        before = len(tally.steps)
        for total in (self.total, tally.total, tally.at(row.start_ms)):
            total.add(row)
        self._rows += len(tally.steps) - before
        if self._rows > (MAX_ROWS if self._by == "model" else MAX_ROWS_OF_A_TEAM):
            raise GatewayError(
                "invalid_field", "That is too much at once: ask for a shorter time or step=day.", param="from"
            )

    def complete(self) -> None:
        """A team's rows are all here."""
        if self._by in ("team", "key"):  # any other group may still grow
            for group in self._open:
                total = self.groups[group].total
                heapq.heappush(self._final, (total.cost, total.requests, group))
            self._open.clear()
            while self._final and (len(self.groups) > self._most or self._rows > MAX_ROWS):
                self._merge(heapq.heappop(self._final)[2])

    def end(self) -> None:
        """All rows are here."""
        self.complete()
        if self._by == "model":
            for group in self.order()[self._most :]:
                self._merge(group)

    def order(self) -> list[Group]:
        """The groups that stayed apart, the dearest first."""
        return sorted(self.groups, key=lambda group: (-self.groups[group].total.cost, group))

    def rows(self) -> Iterator[tuple[int, Group, Sum]]:
        """(start, group, sum) by time."""
        found = [(start_ms, group) for group, tally in self.groups.items() for start_ms in tally.steps]
        for start_ms, group in sorted(found):
            yield start_ms, group, self.groups[group].steps[start_ms]

    def _group(self, row: Used | OutcomeCounts) -> Group:
        if self._by == "model":
            return "", row.model
        if self._by == "key" and isinstance(row, Used):
            return row.team_id, row.key_id
        return (row.team_id, "") if self._by else ("", "")

    def _merge(self, group: Group) -> None:
        tally = self.groups.pop(group)
        self.merged += 1
        self._rows -= len(tally.steps)
        self.others.total.merge(tally.total)
        for start_ms, found in tally.steps.items():
            self.others.at(start_ms).merge(found)


def _times_shape(counts: dict[int, int]) -> dict[str, Any] | None:
    if not counts:
        return None
    return {"requests": sum(counts.values()), "median": quantile(counts, 0.5), "p95": quantile(counts, 0.95)}
