"""Compares the journal with a provider's export: what is missing on either side, what differs, and by how much. Pure.

    books = Reconciliation()
    books.add_journal(row)       every charge of the journal first
    books.add_export(row)        then every row of the export
    books.report()               -> Report

A row of the journal and one of the export belong together by their response id where both have it. Whatever finds no
partner by id is compared by day (UTC) and model, but only with what the other side states without an id: a row counts
once. The sum of all findings is therefore the sum of the export minus the sum of the journal.

Rows are added up as they come. What is kept is one pair of sums for each id, and one for each day and model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

MAX_KEYS: Final = 2_000_000
_DATED: Final = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")
"""Providers bill a model under the name of its snapshot: gpt-5.2-2025-12-11."""

Kind = Literal["missing in the export", "missing in the journal", "differs"]
Source = Literal["usage", "estimate", "attempt"]


class TooManyKeysError(Exception):
    """More ids, days and models than are held in memory."""


class Row(NamedTuple):
    """One charge. `day` is a date in UTC, `model` and `response_id` are "" where they are not stated.

    `nano_usd` and the tokens are None where an export does not state them. `source` says what a charge of the journal
    rests on: reported usage, an estimate, or a failed attempt that may have begun the work.
    """

    day: str
    model: str
    response_id: str = ""
    nano_usd: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    source: Source = "usage"


@dataclass(slots=True)
class Sums:
    """What one side states under one key. `estimates` and `attempts` are how many of its rows rest on these."""

    rows: int = 0
    nano_usd: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    estimates: int = 0
    attempts: int = 0

    def add(self, row: Row) -> None:
        """Adds a row."""
        self.rows += 1
        self.nano_usd += row.nano_usd or 0
        self.input_tokens += row.input_tokens or 0
        self.output_tokens += row.output_tokens or 0
        self.estimates += row.source == "estimate"
        self.attempts += row.source == "attempt"

    def merge(self, other: Sums) -> None:
        """Adds the sums of another key."""
        self.rows += other.rows
        self.nano_usd += other.nano_usd
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.estimates += other.estimates
        self.attempts += other.attempts


class Finding(NamedTuple):
    """Something on which the two sides do not agree. `response_id` is "" for a comparison by day and model.

    `model` is "" where the export does not say which model a day's rows are of.
    """

    kind: Kind
    day: str
    model: str
    response_id: str
    journal: Sums
    export: Sums

    @property
    def difference_nano_usd(self) -> int:
        """What the export states above the journal."""
        return self.export.nano_usd - self.journal.nano_usd

    @property
    def difference_tokens(self) -> int:
        """How many tokens the two sides differ by, input and output added up without their signs."""
        return abs(self.export.input_tokens - self.journal.input_tokens) + abs(
            self.export.output_tokens - self.journal.output_tokens
        )


class Report(NamedTuple):
    """The result. `has_costs` is False for an export of tokens alone: what differs is then counted in tokens.

    `agreed` counts the keys on which both sides agree.
    """

    findings: tuple[Finding, ...]
    journal: Sums
    export: Sums
    agreed: int
    has_costs: bool

    @property
    def difference_nano_usd(self) -> int:
        """What the export states above the journal, in all."""
        return self.export.nano_usd - self.journal.nano_usd

    @property
    def absolute_nano_usd(self) -> int:
        """All differences added up without their signs, so that two of them do not hide each other."""
        return sum(abs(finding.difference_nano_usd) for finding in self.findings)

    def is_within(self, tolerance_nano_usd: int) -> bool:
        """Whether the two sides agree up to an amount. Tokens without costs must be equal."""
        return self.absolute_nano_usd <= tolerance_nano_usd if self.has_costs else not self.findings


@dataclass(slots=True)
class _Side:
    day: str
    model: str
    sums: Sums = field(default_factory=Sums)


@dataclass(slots=True)
class _Group:
    """A day and a model: what each side states without an id."""

    journal: Sums | None = None
    export: Sums | None = None


class Reconciliation:
    """Adds up both sides. `models`: the journal's name of a model by that of the export, where they differ.

    State that changes: the sums. Raises TooManyKeysError instead of growing beyond `max_keys`.
    """

    def __init__(self, models: Mapping[str, str] = MappingProxyType({}), *, max_keys: int = MAX_KEYS) -> None:
        self._models = {theirs.casefold(): ours.casefold() for theirs, ours in models.items()}
        self._max_keys = max_keys
        self._journal_ids: dict[str, _Side] = {}
        self._export_ids: dict[str, _Side] = {}
        self._journal_days: dict[tuple[str, str], Sums] = {}
        self._export_days: dict[tuple[str, str], Sums] = {}
        self._journal, self._export = Sums(), Sums()
        self._has_costs = self._has_tokens = False

    def knows(self, response_id: str) -> bool:
        """Whether the journal has charges under a response id."""
        return bool(response_id) and response_id in self._journal_ids

    def add_journal(self, row: Row) -> None:
        """Adds a charge of the journal."""
        self._journal.add(row)
        self._add(row, self._journal_ids, self._journal_days)

    def add_export(self, row: Row) -> None:
        """Adds a row of the export."""
        self._export.add(row)
        self._has_costs |= row.nano_usd is not None
        self._has_tokens |= row.input_tokens is not None or row.output_tokens is not None
        self._add(row, self._export_ids, self._export_days)

    def report(self) -> Report:
        """The findings, the largest first."""
        has_costs = self._has_costs or not self._has_tokens
        found = [*self._by_id(), *self._by_day()]
        findings = [one for one in found if _differs(one, has_costs=has_costs)]
        findings.sort(key=lambda one: (-abs(one.difference_nano_usd), -one.difference_tokens, one.day, one.response_id))
        return Report(tuple(findings), self._journal, self._export, len(found) - len(findings), has_costs)

    def _add(self, row: Row, ids: dict[str, _Side], days: dict[tuple[str, str], Sums]) -> None:
        if row.response_id:
            side = ids.get(row.response_id)
            if side is None:
                self._check_room()
                side = ids[row.response_id] = _Side(row.day, row.model.casefold())
            side.sums.add(row)
            return
        key = (row.day, row.model.casefold())
        sums = days.get(key)
        if sums is None:
            self._check_room()
            sums = days[key] = Sums()
        sums.add(row)

    def _check_room(self) -> None:
        ids, days = len(self._journal_ids) + len(self._export_ids), len(self._journal_days) + len(self._export_days)
        if ids + days >= self._max_keys:
            raise TooManyKeysError

    def _by_id(self) -> Iterator[Finding]:
        for response_id, ours in self._journal_ids.items():
            theirs = self._export_ids.get(response_id)
            if theirs is not None:
                yield Finding("differs", ours.day, ours.model, response_id, ours.sums, theirs.sums)

    def _by_day(self) -> Iterator[Finding]:
        """What has no partner by id: with what the other side states without ids, else by itself."""
        alone_here = {name: side for name, side in self._journal_ids.items() if name not in self._export_ids}
        alone_there = {name: side for name, side in self._export_ids.items() if name not in self._journal_ids}
        place = self._places(alone_there)
        groups: dict[tuple[str, str], _Group] = {}
        for (day, model), sums in self._journal_days.items():
            group = groups.setdefault(place(day, model), _Group())
            group.journal = _merged(group.journal, sums)
        for (day, model), sums in self._export_days.items():
            group = groups.setdefault(place(day, model), _Group())
            group.export = _merged(group.export, sums)
        pooled = {key for key, group in groups.items() if group.journal is not None}
        asked = {key for key, group in groups.items() if group.export is not None}
        for name, side in alone_here.items():
            key = place(side.day, side.model)
            if key in asked:
                groups[key].journal = _merged(groups[key].journal, side.sums)
            else:
                yield Finding("missing in the export", side.day, side.model, name, side.sums, Sums())
        for name, side in alone_there.items():
            key = place(side.day, side.model)
            if key in pooled:
                groups[key].export = _merged(groups[key].export, side.sums)
            else:
                yield Finding("missing in the journal", side.day, side.model, name, Sums(), side.sums)
        for (day, model), group in groups.items():
            kind: Kind = "differs"
            if group.journal is None or group.export is None:
                kind = "missing in the journal" if group.journal is None else "missing in the export"
            yield Finding(kind, day, model, "", group.journal or Sums(), group.export or Sums())

    def _places(self, alone_there: Mapping[str, _Side]) -> _Places:
        ours = {model for _, model in self._journal_days} | {side.model for side in self._journal_ids.values()}
        bare = {day for day, model in self._export_days if not model}
        bare |= {side.day for side in alone_there.values() if not side.model}
        return _Places(ours, bare, self._models)


class _Places:
    """From a day and a name of a model to the group in which both sides are compared.

    The name of an export is read as one of the journal's: the same, the one that it is mapped to, the only one that
    ends with it behind a provider's name (openai/gpt-5.2), each also without the date of a snapshot. `bare` are the
    days on which an export leaves the model out: they are compared as a whole.
    """

    def __init__(self, ours: set[str], bare: set[str], models: Mapping[str, str]) -> None:
        self._bare = bare
        self._found = {name: name for name in ours} | dict(models)
        self._by_end: dict[str, set[str]] = {}
        for name in ours:
            self._by_end.setdefault(name.rpartition("/")[2], set()).add(name)

    def __call__(self, day: str, model: str) -> tuple[str, str]:
        if day in self._bare:
            return day, ""
        known = self._found.get(model)
        if known is None:
            known = self._found[model] = self._named(model) or self._named(_DATED.sub("", model)) or model
        return day, known

    def _named(self, model: str) -> str | None:
        if model in self._found:
            return self._found[model]
        ends = self._by_end.get(model.rpartition("/")[2], set())
        return next(iter(ends)) if len(ends) == 1 else None


def _merged(sums: Sums | None, more: Sums) -> Sums:
    """A new object: the sums of a key are not changed by being compared."""
    result = Sums()
    if sums is not None:
        result.merge(sums)
    result.merge(more)
    return result


def _differs(finding: Finding, *, has_costs: bool) -> bool:
    return bool(finding.difference_nano_usd if has_costs else finding.difference_tokens)
