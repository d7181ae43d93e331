"""Where the price rows of a configuration differ from the data of `genai-prices`: by what a token or a call costs.

    compare(config, day, names)   -> Comparison, for every row that names one model of the data

Rows are compared by their resulting rates, because one row may state a factor and the other the rates. The comparison
covers both sides of each step, each tier and condition of the data, the hours of the day, fees, units, and each later
version. Prices that only the file has (tools, images) are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.billing.money import format_rate
from gateway.billing.price_row import DAY_MS, Conditions, Price
from gateway.billing.rates import KINDS, InForce
from gateway.cli import price_catalogue
from gateway.cli.errors import CliError
from gateway.config.errors import SettingsError
from gateway.config.price_settings import PriceSettings
from gateway.config.settings import load_settings
from gateway.protocol.model_spelling import folded

_MINUTE_MS: Final = 60_000
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

Difference = tuple[str, str, str | None, str | None]
"""A model, a rate, and what it is in the file and in the data, in USD; None: it is not stated."""


class Comparison(NamedTuple):
    """The differences of `compared` rows. `unlisted`: rows for models that the data does not have."""

    differences: tuple[Difference, ...]
    compared: int
    unlisted: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Returns the comparison as JSON."""
        names = ("model", "rate", "file_usd", "data_usd")
        found = [dict(zip(names, difference, strict=True)) for difference in self.differences]
        return {"differences": found, "compared": self.compared, "unlisted": self.unlisted}


def compare(config: Path, day: date, names: Sequence[str] = ()) -> Comparison:
    """Compares all rows of a configuration, or only those for some providers and models.

    Raises CliError where the configuration is wrong or the package is missing.
    """
    try:
        rows = load_settings(config).prices
    except SettingsError as error:
        raise CliError(*error.problems) from None
    listed = {folded(entry.model): entry.row for entry in price_catalogue.load(day).chosen(names) if entry.row}
    start_ms = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
    differences: list[Difference] = []
    unlisted: list[str] = []
    compared = 0
    for model, settings in rows.items():
        data = listed.get(folded(model))
        if data is None:
            unlisted += [] if names or model.endswith("*") else [model]
            continue
        compared += 1
        both = _Both(settings.price(), PriceSettings.model_validate(data).price())
        differences += [(model, *found) for found in both.differences(start_ms)]
    return Comparison(tuple(differences), compared, tuple(unlisted))


_Rate = tuple[str, str | None, str | None]


class _Both(NamedTuple):
    """The row of the file and that of the data."""

    file: Price
    data: Price

    def differences(self, start_ms: int) -> Iterator[_Rate]:
        """Yields what differs at a time, and from each later version on, if it is not the same as before."""
        later = {at_ms for row in self for at_ms, _ in row.versions if at_ms > start_ms}
        known: frozenset[_Rate] = frozenset()
        for at_ms in sorted({start_ms, *later}):
            found = list(_Both(self.file.at(at_ms), self.data.at(at_ms)).at_once(at_ms))
            prefix = f"from {datetime.fromtimestamp(at_ms / 1000, UTC).date()}: " if at_ms > start_ms else ""
            yield from (
                (prefix + name, mine, theirs) for name, mine, theirs in found if (name, mine, theirs) not in known
            )
            known = frozenset(found)

    def at_once(self, at_ms: int) -> Iterator[_Rate]:
        """Yields what differs between two versions."""
        plain: dict[str, _Rate] = {}
        for place, mine, theirs in self._conditions(at_ms):
            for name, one, other in self._unequal(self.file.rates_for(mine), self.data.rates_for(theirs)):
                # a difference of the plain rates is not told again for every step and tier where it is the same
                if plain.get(name) != (name, one, other):
                    yield f"{place}{name}", one, other
                if not place:
                    plain[name] = (name, one, other)
        for unit in self.data.per_unit:
            yield from _different(unit, self.file.per_unit.get(unit), self.data.per_unit[unit])
        if self.data.context_tokens is not None and self.file.context_tokens != self.data.context_tokens:
            mine_tokens = self.file.context_tokens
            yield "context_tokens", None if mine_tokens is None else str(mine_tokens), str(self.data.context_tokens)

    def _conditions(self, at_ms: int) -> Iterator[tuple[str, Conditions, Conditions]]:
        """Yields the conditions under which both are compared, as both rows count them, and how they are told."""
        whens = [(name, value) for name, values in self.data.when.items() for value in values]
        for tier in ("", *self.data.tiers):
            steps = {tokens for row in self for tokens, _ in row.steps_of(row.tier_named(tier) or "" if tier else "")}
            for tokens in (0, *sorted(steps)):
                place = (f"tiers.{tier}: " if tier else "") + (f"above.{tokens}: " if tokens else "")
                yield place, self._of(self.file, tokens + 1, tier), self._of(self.data, tokens + 1, tier)
        for name, value in whens:
            yield (
                f"when.{name}.{value}: ",
                self._of(self.file, 0, "", (name, value)),
                self._of(self.data, 0, "", (name, value)),
            )
        told: set[tuple[int, ...]] = {(-1, -1)}
        for moment_ms in self._moments(at_ms):
            spans = tuple(row.hours_at(moment_ms) for row in self)
            if spans not in told:
                told.add(spans)
                when = datetime.fromtimestamp(moment_ms / 1000, UTC)
                yield (
                    f"{_DAYS[when.weekday()]} {when:%H:%M}: ",
                    self._of(self.file, 0, "", at_ms=moment_ms),
                    self._of(self.data, 0, "", at_ms=moment_ms),
                )

    @staticmethod
    def _of(
        row: Price, tokens: int, tier: str, when: tuple[str, str] | None = None, at_ms: int | None = None
    ) -> Conditions:
        named = row.tier_named(tier) or "" if tier else ""
        hours = -1 if at_ms is None else row.hours_at(at_ms)
        return Conditions(row.step_for(named, tokens), hours, row.when_for(dict([when])) if when else (), named)

    def _moments(self, at_ms: int) -> Iterator[int]:
        """Yields the moments of a week at which hours begin or end in either row."""
        minutes = sorted({minute for row in self for span in row.hours for minute in (span.start, span.until)})
        for day in range(7):
            yield from (at_ms + day * DAY_MS + minute * _MINUTE_MS for minute in minutes)

    def _unequal(self, mine: InForce, theirs: InForce) -> Iterator[_Rate]:
        """Yields the rates and fees that differ, of those that one of the rows states."""
        kinds = {kind for row in self for layer in row.layers() for kind in layer.rates}
        for kind in (kind for kind in KINDS if kind in kinds):
            yield from _different(kind, mine.per_million(kind), theirs.per_million(kind))
        yield from _different("per_request", Fraction(mine.per_request), Fraction(theirs.per_request))
        for tool, fee in theirs.per_call.items():
            own = mine.per_call.get(tool)
            yield from _different(f"per_call.{tool}", None if own is None else Fraction(own), Fraction(fee))


def _different(name: str, mine: Fraction | None, theirs: Fraction) -> Iterator[_Rate]:
    if mine != theirs:
        yield name, None if mine is None else format_rate(mine), format_rate(theirs)
