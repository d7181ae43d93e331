"""The cost of a usage by a price row: quantities times rates, itemised, added up exactly and rounded up once.

    cost_of_usage_nano_usd(...)   the sum alone; the common case takes a few integer operations
    itemise(...)                  the sum, its lines, and the quantities without a stated rate

Factors multiply the rates of tokens only, never fees, units, or the tokens of a hosted tool. A quantity without a
stated rate is charged at the nearest more expensive rate that is known, and is named in the result. Nothing is free
silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from math import ceil
from types import MappingProxyType
from typing import Final, NamedTuple

from gateway.billing.money import MAX_NANO_USD
from gateway.billing.price_row import CHEAP_TIERS, Conditions, Price
from gateway.billing.price_table import PriceTable
from gateway.billing.rates import KINDS, MILLION, InForce, in_force
from gateway.protocol.hosted_calls import CLIENT_TOOLS
from gateway.protocol.quantities import Images, Quantities, Segment, Usage, quantities_of

_NO_ROWS: Final = PriceTable({})
TOKENS_UNIT: Final = "1M tokens"
OTHER_NAMES: Final = MappingProxyType({"web_search": "web_search_preview"})
"""A tool's name in a row, where providers price two versions of the tool and items do not distinguish them."""


class Line(NamedTuple):
    """One line of a bill. `rate_nano_usd` is the rate of one `unit` of the quantity. The amount is not rounded."""

    name: str
    quantity: Decimal
    unit: str
    rate_nano_usd: Fraction
    amount_nano_usd: Fraction


class Cost(NamedTuple):
    """An itemised cost.

    `unpriced` names quantities without a stated rate, such as `tool:x_search`. `version` is `Price.name`.
    """

    nano_usd: int
    lines: tuple[Line, ...]
    unpriced: tuple[str, ...]
    version: str


def plain_cost_nano_usd(price: Price, usage: Usage) -> int | None:
    """Returns the cost in nano-USD in the common case, or None if anything but the plain rates may apply."""
    if usage.quantities is not None or usage.input_tokens > price.plain_up_to:
        return None
    rates, cached, reasoning = price.plain.rates, usage.cached_input_tokens, usage.reasoning_tokens
    if cached > usage.input_tokens or reasoning > usage.output_tokens:
        return None
    total = (
        (usage.input_tokens - cached) * rates["input"]
        + cached * rates["cached_input"]
        + (usage.output_tokens - reasoning) * rates["output"]
        + reasoning * rates["reasoning"]
    )
    return min(MAX_NANO_USD, -(-total // price.plain.divisor))


def cost_of_usage_nano_usd(
    price: Price, usage: Usage, ended_ms: int, table: PriceTable = _NO_ROWS, model: str = ""
) -> int:
    """Returns the cost in nano-USD of a usage whose answer ended at a time (milliseconds since 1970)."""
    plain = plain_cost_nano_usd(price, usage)
    return itemise(price, usage, ended_ms, table, model).nano_usd if plain is None else plain


def itemise(price: Price, usage: Usage, ended_ms: int, table: PriceTable = _NO_ROWS, model: str = "") -> Cost:
    """Returns the itemised cost of a usage. `table` has the other rows; `model` is the requested model."""
    quantities = quantities_of(usage)
    row = price.at(ended_ms)
    tiers, unpriced = _tiers(row, quantities.facts.get("service_tier", ""))
    bill = max(
        (_Bill(row, quantities, tier, ended_ms, table, model) for tier in tiers),
        key=lambda one: one.total,
    )
    unpriced += tuple(dict.fromkeys(bill.unpriced))
    unpriced += tuple(f"tokens:{name}" for name in quantities.unknown)
    return Cost(min(MAX_NANO_USD, ceil(bill.total)), tuple(bill.lines), unpriced, row.name)


def _tiers(row: Price, tier: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the tiers that may be meant, of which the highest price is charged, and the tier if the row lacks it."""
    if not tier:
        return ("",), ()
    if (named := row.tier_named(tier)) is not None:
        return (named,), ()
    return (("",) if tier in CHEAP_TIERS else ("", *row.tiers)), (f"tier:{tier}",)


class _Bill:
    """The lines of one usage at one tier. Mutable while it is written: `lines`, `total`, `unpriced`."""

    def __init__(
        self, row: Price, quantities: Quantities, tier: str, ended_ms: int, table: PriceTable, model: str
    ) -> None:
        self.lines: list[Line] = []
        self.total = Fraction(0)
        self.unpriced: list[str] = []
        self._row, self._table, self._ended_ms = row, table, ended_ms
        fees = row.rates_for(Conditions(-1, row.hours_at(ended_ms), row.when_for(quantities.facts), tier))
        for segment in quantities.segments:
            if segment.tokens:
                self._add_segment(segment, quantities.facts, tier, model)
        for tool, tokens in quantities.tool_tokens.items():
            self._add_tokens(tokens, self._tool_rates(tool), f"{tool} ")
        if fees.per_request:
            self._add("request", Decimal(1), "request", Fraction(fees.per_request))
        for tool, calls in quantities.calls.items():
            self._add_calls(tool, calls, fees.per_call, tool in quantities.tool_tokens)
        has_tokens = any(segment.tokens for segment in quantities.segments)
        for unit, number in quantities.units.items():
            self._add_unit(unit, number, counted=not (has_tokens and row.base.rates))
        for images in quantities.images:
            self._add_images(images, counted=not has_tokens)

    def _add(self, name: str, quantity: Decimal, unit: str, rate: Fraction, per: int = 1) -> None:
        amount = Fraction(quantity) * rate / per
        self.lines.append(Line(name, quantity, unit, rate, amount))
        self.total += amount

    def _add_tokens(self, tokens: Mapping[str, int], rates: InForce, prefix: str = "") -> None:
        for kind in KINDS:
            if number := tokens.get(kind):
                self._add(prefix + kind, Decimal(number), TOKENS_UNIT, rates.per_million(kind), MILLION)

    def _add_segment(self, segment: Segment, facts: Mapping[str, str], tier: str, model: str) -> None:
        row = self._row
        if segment.model and segment.model != model:
            other = self._table.named(segment.model, model)
            if other is None:
                self.unpriced.append(f"model:{segment.model[:64]}")
            else:
                row = other.at(self._ended_ms)
                tier = row.tier_named(tier) or "" if tier else ""
        step = row.step_for(tier, segment.prompt_tokens)
        conditions = Conditions(step, row.hours_at(self._ended_ms), row.when_for(facts), tier)
        prefix = f"{segment.model} " if segment.model else ""
        self._add_tokens(segment.tokens, row.rates_for(conditions), prefix)

    def _tool_rates(self, tool: str) -> InForce:
        """Returns the rates of a hosted tool's tokens: the row's, the model's own, or the highest of any row."""
        found = self._row.tools.get(tool)
        if found is None:
            self.unpriced.append(f"tool:{tool}")
            found = self._table.tools.get(tool)
        if found is None:
            return self._row.rates_for(Conditions())
        if found.model:
            other = self._table.named(found.model)
            return (other or self._row).at(self._ended_ms).rates_for(Conditions())
        return in_force(found.layer, ())

    def _add_calls(self, tool: str, calls: int, fees: Mapping[str, int], has_tokens: bool) -> None:  # noqa: FBT001 - one of two cases, which its only caller knows
        fee = fees.get(tool, fees.get(OTHER_NAMES.get(tool, ""), None))
        if fee is None:
            if tool in CLIENT_TOOLS or (has_tokens and tool in self._row.tools):
                return
            self.unpriced.append(f"tool:{tool}")
            fee = self._table.fees.get(tool, 0)
        if fee:
            self._add(tool, Decimal(calls), "call", Fraction(fee))

    def _add_unit(self, unit: str, number: Decimal, *, counted: bool) -> None:
        rate = self._row.per_unit.get(unit)
        if rate is None:
            if not counted:
                return
            self.unpriced.append(f"unit:{unit}")
            rate = self._table.units.get(unit, Fraction(0))
        if unit == "second":
            number = max(number, Decimal(self._row.minimum_seconds))
        if rate:
            self._add(unit, number, unit, rate)

    def _add_images(self, images: Images, *, counted: bool) -> None:
        fees = self._row.per_image
        if not fees:
            if counted:
                self.unpriced.append("unit:image")
            return
        name = next((one for one in _image_names(images) if one in fees), None)
        if name is None:
            self.unpriced.append(f"image:{images.quality}/{images.size}")
            name = max(fees, key=lambda one: fees[one])
        self._add(f"image {name}", Decimal(images.number), "image", Fraction(fees[name]))


def _image_names(images: Images) -> Iterator[str]:
    if images.quality and images.size:
        yield f"{images.quality}/{images.size}"
    if images.size:
        yield images.size
    yield "default"
