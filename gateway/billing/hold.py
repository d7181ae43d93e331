"""The most that a request can cost. A hold must cover it, whatever the provider does within its own bounds.

    worst_case(...)                  every token at the most expensive rate that can apply, every permitted tool call
    worst_of(...)                    of several cases, any of which may come true
    affordable_output_tokens(...)    how many output tokens a balance still pays for

All of these "can apply": every kind of token, every tier that the request may get, every `when` table, the hours and
versions in force until the deadline, and every step that a prompt of this size, or a smaller one, falls into.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import product
from math import ceil, lcm
from typing import Final, NamedTuple

from gateway.billing.cost import OTHER_NAMES
from gateway.billing.money import MAX_NANO_USD
from gateway.billing.price_row import CHEAP_TIERS, DAY_MS, Conditions, Price
from gateway.billing.price_table import PriceTable
from gateway.billing.rates import INPUT_KINDS, KINDS, MILLION, OUTPUT_KINDS, InForce, in_force
from gateway.protocol.hosted_calls import CLIENT_TOOLS
from gateway.protocol.quantities import EMPTY
from gateway.protocol.usage_reader import BASE_TIERS

_NO_ROWS: Final = PriceTable({})
_TEXT_KINDS: Final = tuple(kind for kind in INPUT_KINDS if not kind.endswith(("audio", "image", "video")))
_MAX_COMBINATIONS: Final = 4096
_PROJECT_TIERS: Final = frozenset({"", "auto"})
"""With these values, a request gets the tier that the provider's project is set to, which may be any."""


class Work(NamedTuple):
    """The most work that a request can cause at a provider.

    `input_tokens` is the whole prompt, including stored and fetched parts. `output_tokens` is the sum of all answers,
    including reasoning. `media` means that the prompt may contain more than text. `tier` is the requested one. `tools`
    are the hosted tools that may be called, at most `calls` times together, and `tool_tokens` is what one call of a
    tool with token rates may use. `images` are the requested pictures, each with quality and size ("" for any). `units`
    are amounts by `second`, `character`, `page` and `search_unit`.
    """

    input_tokens: int
    output_tokens: int
    media: bool = True
    tier: str = ""
    tools: tuple[str, ...] = ()
    calls: int = 0
    tool_tokens: int = 0
    images: int = 0
    quality: str = ""
    size: str = ""
    units: Mapping[str, Decimal] = EMPTY


class HighestRates(NamedTuple):
    """The most expensive rate of each side over combinations of tables. `rate / divisor` is nano-USD per token.

    `per_call` has the most expensive stated fee by tool. `always` has the tools for which every combination states a
    fee.
    """

    input: int
    output: int
    divisor: int
    per_request: int
    per_call: Mapping[str, int]
    always: frozenset[str]


class WorstCase(NamedTuple):
    """The most that the work can cost, and the cost of one more token of either side: `rate / divisor` nano-USD.

    `fixed_nano_usd` is everything but the output tokens. `amount_nano_usd` is everything.
    """

    amount_nano_usd: int
    fixed_nano_usd: int
    input_rate: int
    output_rate: int
    divisor: int

    @property
    def output_nano_usd(self) -> int:
        """Returns nano-USD per million output tokens, rounded down: fewer tokens never free more than they cost."""
        return self.output_rate * MILLION // self.divisor


FREE: Final = WorstCase(0, 0, 0, 0, 1)


def worst_case(price: Price, work: Work, start_ms: int, until_ms: int, table: PriceTable = _NO_ROWS) -> WorstCase:
    """Returns the most that the work can cost if it ends between two times (milliseconds since 1970)."""
    if not price.versions:
        return _of_version(price, work, start_ms, until_ms, table)
    return worst_of(
        [_of_version(row, work, start_ms, until_ms, table) for row in price.between(start_ms, until_ms)],
        work.output_tokens,
    )


def worst_of(cases: Sequence[WorstCase], output_tokens: int) -> WorstCase:
    """Returns the worst case of work of which any of several cases may come true."""
    if len(cases) == 1:
        return cases[0]
    divisor = lcm(*(one.divisor for one in cases))
    input_rate = max(one.input_rate * divisor // one.divisor for one in cases)
    output_rate = max(one.output_rate * divisor // one.divisor for one in cases)
    fixed = max(one.fixed_nano_usd for one in cases)
    amount = min(MAX_NANO_USD, fixed - (-output_tokens * output_rate // divisor))
    return WorstCase(amount, fixed, input_rate, output_rate, divisor)


def with_more(worst: WorstCase, nano_usd: int) -> WorstCase:
    """Returns the worst case of work beside which something else is paid."""
    amount, fixed = worst.amount_nano_usd + nano_usd, worst.fixed_nano_usd + nano_usd
    return worst._replace(amount_nano_usd=min(MAX_NANO_USD, amount), fixed_nano_usd=min(MAX_NANO_USD, fixed))


def affordable_output_tokens(worst: WorstCase, available_nano_usd: int, more_input_tokens: int = 0) -> int | None:
    """Returns the output tokens that a balance covers besides everything else, or None if output is free.

    `more_input_tokens` is by how much the prompt grows if the request states its output.
    """
    left = available_nano_usd - worst.fixed_nano_usd - -(-more_input_tokens * worst.input_rate // worst.divisor)
    if left < 0:
        return 0
    return left * worst.divisor // worst.output_rate if worst.output_rate else None


def _of_version(row: Price, work: Work, start_ms: int, until_ms: int, table: PriceTable) -> WorstCase:
    rates = _highest_for(row, work, start_ms, until_ms)
    prompt = -(-work.input_tokens * rates.input // rates.divisor)
    if work.units and row.base.rates:
        # Units without a price in the row are charged in place of tokens, if an answer reports no tokens.
        prompt = max(prompt, sum(_unit(row, unit, work, table) for unit in work.units if unit not in row.per_unit))
    fixed = rates.per_request + prompt
    if work.calls and work.tools:
        fixed += work.calls * max(_call(row, rates, tool, work.tool_tokens, table) for tool in work.tools)
    if work.images and row.per_image:
        fixed += work.images * _image(row, work)
    if work.units:
        fixed += sum(_unit(row, unit, work, table) for unit in work.units if unit in row.per_unit or not row.base.rates)
    fixed = min(MAX_NANO_USD, fixed)
    amount = min(MAX_NANO_USD, fixed - (-work.output_tokens * rates.output // rates.divisor))
    return WorstCase(amount, fixed, rates.input, rates.output, rates.divisor)


def _call(row: Price, rates: HighestRates, tool: str, tool_tokens: int, table: PriceTable) -> int:
    """Returns the most that a call of a hosted tool can cost: its highest fee, its tokens at the highest rate."""
    fee = max(rates.per_call.get(name, 0) for name in (tool, OTHER_NAMES.get(tool, tool)))
    own = row.tools.get(tool)
    if tool not in rates.always and tool not in CLIENT_TOOLS:
        fee = max(fee, table.fees.get(tool, 0))
    found = own or table.tools.get(tool)
    if found is None or not tool_tokens:
        return fee
    if found.model:
        other = table.named(found.model) or row
        versions = (other, *(later for _, later in other.versions))
        highest = max(_highest_rate(one.rates_for(Conditions())) for one in versions)
    else:
        highest = _highest_rate(in_force(found.layer, ()))
    return fee + ceil(tool_tokens * highest)


def _highest_rate(rates: InForce) -> Fraction:
    return Fraction(max(rates.rates.values()), rates.divisor)


def _image(row: Price, work: Work) -> int:
    asked = (f"{work.quality}/{work.size}", work.size) if work.size and work.size != "auto" else ()
    exact = asked[0] if asked and asked[0] in row.per_image else ""
    return row.per_image[exact] if exact else max(row.per_image.values())


def _unit(row: Price, unit: str, work: Work, table: PriceTable) -> int:
    rate, number = row.per_unit.get(unit, table.units.get(unit, Fraction(0))), work.units[unit]
    if unit == "second":
        number = max(number, Decimal(row.minimum_seconds))
    return ceil(Fraction(number) * rate)


def _highest_for(row: Price, work: Work, start_ms: int, until_ms: int) -> HighestRates:
    hours = _hours_between(row, start_ms, until_ms) if row.hours else ()
    reach = sum(tokens < work.input_tokens for tokens in row.thresholds)
    tiers = _tiers(row, work.tier) if row.tiers else ("",)
    key = (reach, hours, tiers, work.media)
    known = row.highest_rates.get(key)
    if known is None:
        known = _compute(row, work, hours, tiers)
        row.remember_highest(key, known)
    return known


def _tiers(row: Price, asked: str) -> tuple[str, ...]:
    """Returns the tiers that a request may get: any if it requests none; also the base if its tier may be full."""
    if asked in _PROJECT_TIERS:
        return ("", *row.tiers)
    if asked in BASE_TIERS:
        return ("",)
    named = row.tier_named(asked)
    if named is None:
        return ("",) if asked in CHEAP_TIERS else ("", *row.tiers)
    return ("", named)


def _hours_between(row: Price, start_ms: int, until_ms: int) -> tuple[int, ...]:
    """Returns the hours that apply at some moment of a span."""
    if until_ms - start_ms >= 7 * DAY_MS:
        return tuple(range(len(row.hours)))
    found = set()
    for index, hours in enumerate(row.hours):
        first_day = start_ms // DAY_MS
        begins = (day * DAY_MS + hours.start * 60_000 for day in range(first_day, until_ms // DAY_MS + 1))
        if hours.holds(start_ms) or any(start_ms <= at <= until_ms and hours.holds(at) for at in begins):
            found.add(index)
    return tuple(sorted(found))


def _compute(row: Price, work: Work, hours: tuple[int, ...], tiers: tuple[str, ...]) -> HighestRates:
    kinds = INPUT_KINDS if work.media else _TEXT_KINDS
    highest_input = highest_output = Fraction(0)
    per_request, per_call = 0, dict[str, int]()
    always: frozenset[str] | None = None
    for rates in _possible(row, work.input_tokens, hours, tiers):
        highest_input = max(highest_input, Fraction(max(rates.rates[kind] for kind in kinds), rates.divisor))
        highest_output = max(highest_output, Fraction(max(rates.rates[kind] for kind in OUTPUT_KINDS), rates.divisor))
        per_request = max(per_request, rates.per_request)
        for tool, fee in rates.per_call.items():
            per_call[tool] = max(fee, per_call.get(tool, 0))
        always = frozenset(rates.per_call) if always is None else always & rates.per_call.keys()
    divisor = lcm(highest_input.denominator, highest_output.denominator)
    return HighestRates(
        int(highest_input * divisor),
        int(highest_output * divisor),
        divisor,
        per_request,
        per_call,
        always or frozenset(),
    )


def _possible(row: Price, input_tokens: int, hours: Iterable[int], tiers: Iterable[str]) -> Iterator[InForce]:
    """Yields every combination of tables that may apply, or a bound for all of them if they are too many."""
    facts = [[None, *((name, value) for value in values)] for name, values in row.when.items()]
    steps = {tier: range(-1, sum(tokens < input_tokens for tokens, _ in row.steps_of(tier))) for tier in tiers}
    combinations = [(tier, step) for tier, reached in steps.items() for step in reached]
    number = len(combinations) * (1 + len(row.hours))
    for values in facts:
        number *= len(values)
    if number > _MAX_COMBINATIONS:
        yield from (highest_rates(row), row.rates_for(Conditions()))
        return
    for (tier, step), hour, when in product(combinations, (-1, *hours), product(*facts)):
        applying = tuple(fact for fact in when if fact is not None)
        yield row.rates_for(Conditions(step, hour, applying, tier))


def highest_rates(row: Price) -> InForce:
    """Returns a bound for all combinations of a row's tables: the highest rates, times every factor above 1."""
    layers = tuple(row.layers())
    rates: dict[str, int] = {}
    fees: dict[str, int] = {}
    factor = row.base.factor
    for layer in layers:
        for kind, rate in layer.rates.items():
            rates[kind] = max(rate, rates.get(kind, 0))
        for tool, fee in layer.per_call.items():
            fees[tool] = max(fee, fees.get(tool, 0))
        factor *= max(Fraction(1), layer.factor) if layer is not row.base else 1
    per_request = max(layer.per_request or 0 for layer in layers)
    highest = max(rates.values(), default=0)
    stated: dict[str, int] = {}
    for kind, parent in KINDS.items():
        # A kind that the row itself does not state has the rate of its parent where no table states it.
        instead = 0 if kind in row.base.rates else highest if parent is None else stated[parent]
        stated[kind] = max(rates.get(kind, 0), instead)
    return in_force(row.base._replace(rates=stated, factor=factor, per_request=per_request, per_call=fees), ())
