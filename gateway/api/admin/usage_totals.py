"""Adds usage up in bounded memory, however many teams there are.

    UsageTotals.add(row)     adds a row to its group and step, and to the total
    UsageTotals.complete()   after each team: its groups are final, and the smallest may be merged into `others`

Merging is exact: groups and `others` together always equal the total. Rows of usage and of outcomes may come in any
order.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from gateway.billing.money import format_usd
from gateway.errors import GatewayError
from gateway.reporting.latency_buckets import quantile
from gateway.reporting.outcome_rollups import OutcomeCounts, outcomes_of, refusals, times
from gateway.reporting.usage_rollups import UsageRow

MAX_ROWS: Final = 20_000
MAX_ROWS_OF_A_TEAM: Final = 4 * MAX_ROWS
By = Literal["model", "key", "team", "value"]
"""By what rows are grouped. "value": by the values of a tag, or by end users."""
Group = tuple[str, str]
"""(team id, name of the group); the team id is "" for groups that span teams."""


@dataclass(slots=True)
class UsageSum:
    """One sum of usage. Mutable. `outcomes` maps `what` to counts, as in outcome_rollups.py."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)

    def add(self, row: UsageRow | OutcomeCounts) -> None:
        """Adds a row of the roll-ups."""
        if isinstance(row, UsageRow):
            self.requests += row.requests
            self.input_tokens += row.input_tokens
            self.cached_input_tokens += row.cached_input_tokens
            self.output_tokens += row.output_tokens
            self.cost += row.cost
        else:
            for what, count in row.counts.items():
                self.outcomes[what] = self.outcomes.get(what, 0) + count

    def merge(self, other: UsageSum) -> None:
        """Adds another sum."""
        self.requests += other.requests
        self.input_tokens += other.input_tokens
        self.cached_input_tokens += other.cached_input_tokens
        self.output_tokens += other.output_tokens
        self.cost += other.cost
        for what, count in other.outcomes.items():
            self.outcomes[what] = self.outcomes.get(what, 0) + count

    def to_json(self, *, with_outcomes: bool) -> dict[str, Any]:
        """Returns the sum as JSON."""
        used = {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": format_usd(self.cost),
        }
        return used | (self._outcomes_json() if with_outcomes else {})

    def _outcomes_json(self) -> dict[str, Any]:
        refused = refusals(self.outcomes)
        return {
            "outcomes": outcomes_of(self.outcomes),
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
            "total_ms": _times_json(times("total", self.outcomes)),
            "first_byte_ms": _times_json(times("first", self.outcomes)),
        }


@dataclass(slots=True)
class GroupUsage:
    """The usage of one group, in total and by step. Mutable."""

    total: UsageSum = field(default_factory=UsageSum)
    steps: dict[int, UsageSum] = field(default_factory=dict)

    def at(self, start_ms: int) -> UsageSum:
        """Returns the sum of one step."""
        found = self.steps.get(start_ms)
        if found is None:
            found = self.steps[start_ms] = UsageSum()
        return found


class UsageTotals:
    """The totals of one query. `limit` is the number of groups that are kept apart. Mutable."""

    def __init__(self, by: By | None, limit: int) -> None:
        self.total = UsageSum()
        self.groups: dict[Group, GroupUsage] = {}
        self.others = GroupUsage()
        self.merged = 0  # groups that were merged into `others`
        self._by = by
        self._limit = limit
        self._rows = 0
        self._team = ""
        self._final: list[tuple[int, int, Group]] = []
        self._open: list[Group] = []

    def add(self, row: UsageRow | OutcomeCounts) -> None:
        """Adds a row.

        Raises GatewayError `invalid_field` if a single team, or the number of models, exceeds the bounds.
        """
        if row.team_id != self._team:
            self.complete()
            self._team = row.team_id
        group = self._group(row)
        group_usage = self.groups.get(group)
        if group_usage is None:
            group_usage = self.groups[group] = GroupUsage()
            self._open.append(group)
        before = len(group_usage.steps)
        for total in (self.total, group_usage.total, group_usage.at(row.start_ms)):
            total.add(row)
        self._rows += len(group_usage.steps) - before
        if self._rows > (MAX_ROWS if self._by == "model" else MAX_ROWS_OF_A_TEAM):
            raise GatewayError(
                "invalid_field",
                "This query would return too many rows: ask for a shorter time or step=day.",
                param="from",
            )

    def complete(self) -> None:
        """Marks the rows of one team as complete."""
        if self._by in ("team", "key", "value"):  # any other group may still grow
            for group in self._open:
                total = self.groups[group].total
                heapq.heappush(self._final, (total.cost, total.requests, group))
            self._open.clear()
            while self._final and (len(self.groups) > self._limit or self._rows > MAX_ROWS):
                self._merge(heapq.heappop(self._final)[2])

    def end(self) -> None:
        """Marks all rows as complete."""
        self.complete()
        if self._by == "model":
            for group in self.order()[self._limit :]:
                self._merge(group)

    def order(self) -> list[Group]:
        """Returns the groups that were kept apart, the most expensive first."""
        return sorted(self.groups, key=lambda group: (-self.groups[group].total.cost, group))

    def has_step(self, start_ms: int) -> bool:
        """Whether anything was used in a step."""
        return any(start_ms in usage.steps for usage in (*self.groups.values(), self.others))

    def rows(self) -> Iterator[tuple[int, Group, UsageSum]]:
        """Yields (start, group, sum) in order of time."""
        found = [(start_ms, group) for group, group_usage in self.groups.items() for start_ms in group_usage.steps]
        for start_ms, group in sorted(found):
            yield start_ms, group, self.groups[group].steps[start_ms]

    def _group(self, row: UsageRow | OutcomeCounts) -> Group:
        if self._by == "model":
            return "", row.model
        if isinstance(row, UsageRow) and self._by in ("key", "value"):
            return row.team_id, row.key_id if self._by == "key" else row.value
        return (row.team_id, "") if self._by else ("", "")

    def _merge(self, group: Group) -> None:
        group_usage = self.groups.pop(group)
        self.merged += 1
        self._rows -= len(group_usage.steps)
        self.others.total.merge(group_usage.total)
        for start_ms, found in group_usage.steps.items():
            self.others.at(start_ms).merge(found)


def _times_json(counts: dict[int, int]) -> dict[str, Any] | None:
    if not counts:
        return None
    return {"requests": sum(counts.values()), "median": quantile(counts, 0.5), "p95": quantile(counts, 0.95)}
