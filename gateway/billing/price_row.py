"""A model's price as data: rates, the tables inside the row that change them, fees, units, later versions.

    row.at(time)                   the version in force; `from."DATE"` replaces the whole row
    row.rates_for(conditions)      the rates in force for a step, hours, facts and a tier; each is computed once

Times are milliseconds since 1970 (UTC). The order of the tables is: from, above, hours, when, tiers, tiers.T.above.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, NamedTuple

from gateway.billing.rates import InForce, Layer, in_force
from gateway.protocol.counts import MAX_COUNT
from gateway.protocol.usage_reader import CONDITIONS

DAY_MS: Final = 86_400_000
_MINUTE_MS: Final = 60_000
_MINUTES_A_DAY: Final = 1440
_EPOCH_WEEKDAY: Final = 3  # 1970-01-01 was a Thursday, counted from Monday
_ONE_TIER: Final = frozenset({"fast", "priority"})
CHEAP_TIERS: Final = frozenset({"flex", "batch"})
"""Tiers that cost the base rates if a row does not price them. Any other tier costs the most that it could cost."""
_MAX_REMEMBERED: Final = 256

Steps = tuple[tuple[int, Layer], ...]
"""(tokens, layer), ascending: the layer applies to prompts of more tokens than that."""


class Tier(NamedTuple):
    """A service tier. `steps` replaces the row's steps for this tier; None keeps them."""

    layer: Layer
    steps: Steps | None = None


class Hours(NamedTuple):
    """Minutes of a day (UTC) without `until`; past midnight if `until` is smaller.

    `days` are ISO weekdays of the start.
    """

    start: int
    until: int
    days: frozenset[int]
    layer: Layer

    def holds(self, at_ms: int) -> bool:
        """Whether a moment lies in these hours."""
        days, minute = divmod(at_ms // _MINUTE_MS, _MINUTES_A_DAY)
        if self.start < self.until:
            return self.start <= minute < self.until and self._on(days)
        return (minute >= self.start and self._on(days)) or (minute < self.until and self._on(days - 1))

    def _on(self, days_since_epoch: int) -> bool:
        return (days_since_epoch + _EPOCH_WEEKDAY) % 7 + 1 in self.days


class Tool(NamedTuple):
    """Token rates of a hosted tool: those of a model's row, or its own."""

    model: str = ""
    layer: Layer = Layer()


class Conditions(NamedTuple):
    """Which tables of a row apply. `step` and `hours` are indices, or -1. `when` has (name, value) pairs."""

    step: int = -1
    hours: int = -1
    when: tuple[tuple[str, str], ...] = ()
    tier: str = ""


@dataclass(frozen=True, slots=True)
class Price:
    """One row. Rates are in nano-USD per million tokens, fees in nano-USD. `base.factor` is the row's own.

    `per_image` maps "quality/size", "size" or "default" to fees. `per_unit` maps a second, a character, a page or a
    search unit to exact nano-USD. `versions` are (milliseconds, row) pairs, ascending: from then on another row is in
    force. `version` is that day, or "" for the row itself, and `fingerprint` distinguishes rows with different numbers.
    `max_image_tokens` is the most that one image of a prompt counts; None: not known.
    `own_output_tokens` is the most that the model puts out in one answer, as far as its row says.
    `plain` has the rates without any table. Up to `plain_up_to` prompt tokens they change only by a fact of the answer;
    -1 means that they may depend on the time, or that a request has a fee. `plain_bill` is how the journal records such
    a cost. `conditions` are the names of `when` tables beyond the usual ones. `thresholds` are those of all steps,
    ascending. Mutable: `_known` and `highest_rates`, bounded caches of computed rates.
    """

    base: Layer
    steps: Steps = ()
    hours: tuple[Hours, ...] = ()
    when: Mapping[str, Mapping[str, Layer]] = field(default_factory=dict)
    tiers: Mapping[str, Tier] = field(default_factory=dict)
    tools: Mapping[str, Tool] = field(default_factory=dict)
    per_image: Mapping[str, int] = field(default_factory=dict)
    per_unit: Mapping[str, Fraction] = field(default_factory=dict)
    minimum_seconds: int = 0
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    max_image_tokens: int | None = None
    versions: tuple[tuple[int, Price], ...] = ()
    version: str = ""
    fingerprint: str = ""
    own_output_tokens: int | None = field(init=False, repr=False, compare=False)
    plain: InForce = field(init=False, repr=False, compare=False)
    plain_up_to: int = field(init=False, repr=False, compare=False)
    plain_bill: str = field(init=False, repr=False, compare=False)
    conditions: tuple[str, ...] = field(init=False, repr=False, compare=False)
    thresholds: tuple[int, ...] = field(init=False, repr=False, compare=False)
    highest_rates: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _known: dict[Conditions, InForce] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        never = self.hours or self.versions or self.base.per_request
        steps = (self.steps, *(tier.steps for tier in self.tiers.values() if tier.steps is not None))
        names = {name for row in (self, *(row for _, row in self.versions)) for name in row.when}
        object.__setattr__(self, "conditions", tuple(sorted(names.difference(CONDITIONS))))
        object.__setattr__(self, "thresholds", tuple(sorted({tokens for one in steps for tokens, _ in one})))
        object.__setattr__(self, "own_output_tokens", self.max_output_tokens or self.context_tokens)
        object.__setattr__(self, "plain", in_force(self.base, ()))
        rates = (str(self.plain.per_million(kind)) for kind in ("input", "cached_input", "output", "reasoning"))
        object.__setattr__(self, "plain_bill", " ".join((self.name, *rates)))
        object.__setattr__(self, "plain_up_to", -1 if never else self.steps[0][0] if self.steps else MAX_COUNT * 4)

    @property
    def name(self) -> str:
        """Names the version of a price for the journal: "3f9a01c2", "3f9a01c2@2026-12-01"."""
        return f"{self.fingerprint}@{self.version}" if self.version else self.fingerprint

    def at(self, at_ms: int) -> Price:
        """Returns the version of this row that is in force at a time."""
        found = self
        for start_ms, row in self.versions:
            if start_ms <= at_ms:
                found = row
        return found

    def between(self, start_ms: int, until_ms: int) -> Iterator[Price]:
        """Yields every version that is in force at some moment of a span."""
        yield self.at(start_ms)
        yield from (row for at_ms, row in self.versions if start_ms < at_ms <= until_ms)

    def rates_for(self, conditions: Conditions) -> InForce:
        """Returns the rates and fees in force where these tables apply."""
        known = self._known.get(conditions)
        if known is None:
            known = in_force(self.base, tuple(self._layers(conditions)))
            if len(self._known) < _MAX_REMEMBERED:
                self._known[conditions] = known
        return known

    def steps_of(self, tier: str) -> Steps:
        """Returns the steps of a tier: its own, or the row's."""
        own = self.tiers[tier].steps if tier else None
        return self.steps if own is None else own

    def step_for(self, tier: str, prompt_tokens: int) -> int:
        """Returns the index of the largest step that a prompt exceeds, or -1."""
        found = -1
        for index, (tokens, _) in enumerate(self.steps_of(tier)):
            if prompt_tokens > tokens:
                found = index
        return found

    def hours_at(self, at_ms: int) -> int:
        """Returns the index of the hours that contain a moment, or -1."""
        return next((index for index, hours in enumerate(self.hours) if hours.holds(at_ms)), -1)

    def when_for(self, facts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Returns the `when` tables that apply, in the row's order."""
        return tuple((name, facts[name]) for name, values in self.when.items() if facts.get(name) in values)

    def tier_named(self, tier: str) -> str | None:
        """Returns the row's name for a tier, or None.

        `fast` and `priority` are the same tier unless both are priced.
        """
        if tier in self.tiers:
            return tier
        if tier in _ONE_TIER:
            return next((other for other in _ONE_TIER if other in self.tiers), None)
        return None

    def remember_highest(self, key: Any, value: Any) -> None:
        """Caches what the worst case of such requests was computed from."""
        if len(self.highest_rates) < _MAX_REMEMBERED:
            self.highest_rates[key] = value

    def layers(self) -> Iterator[Layer]:
        """Yields every table of the row that states rates or fees, starting with the row itself."""
        yield self.base
        yield from (layer for _, layer in self.steps)
        yield from (hours.layer for hours in self.hours)
        yield from (layer for values in self.when.values() for layer in values.values())
        for tier in self.tiers.values():
            yield tier.layer
            yield from (layer for _, layer in tier.steps or ())

    def _layers(self, conditions: Conditions) -> Iterator[Layer]:
        tier = self.tiers[conditions.tier] if conditions.tier else None
        stepped = conditions.step >= 0
        if stepped and (tier is None or tier.steps is None):
            yield self.steps[conditions.step][1]
        if conditions.hours >= 0:
            yield self.hours[conditions.hours].layer
        for name, value in conditions.when:
            yield self.when[name][value]
        if tier is not None:
            yield tier.layer
            if stepped and tier.steps is not None:
                yield tier.steps[conditions.step][1]
