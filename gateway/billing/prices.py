"""What a model costs: the price table, the worst case of a request, the cost of a usage.

table.find(patterns)           the most specific pattern that has a price; None: unlisted, to be refused, never free
worst_case(price, input, out)  what a hold must cover: every input token at the full price, every output token allowed
cost(price, usage)             what is charged: cached input at its own price
affordable_output_tokens(...)  what a balance still buys
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.billing.money import cost_nano_usd
from gateway.protocol.usage import Usage


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-USD per million tokens."""

    input_nano_usd: int
    cached_input_nano_usd: int
    output_nano_usd: int


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices by model pattern; the most specific wins."""

    prices: Mapping[str, Price]

    def find(self, patterns: tuple[str, ...]) -> Price | None:
        """The price of the first pattern that has one: patterns of a model id, the most specific first."""
        for pattern in patterns:
            price = self.prices.get(pattern)
            if price is not None:
                return price
        return None


def worst_case_nano_usd(price: Price, input_tokens: int, output_tokens: int) -> int:
    """The most that a request can cost: nothing cached, all output used."""
    dearest_input = max(price.input_nano_usd, price.cached_input_nano_usd)
    return cost_nano_usd((input_tokens, dearest_input), (output_tokens, price.output_nano_usd))


def cost_of_usage_nano_usd(price: Price, usage: Usage) -> int:
    """The cost of a usage as the upstream reported it. Reasoning tokens are part of its output tokens."""
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    return cost_nano_usd(
        (usage.input_tokens - cached, price.input_nano_usd),
        (cached, price.cached_input_nano_usd),
        (usage.output_tokens, price.output_nano_usd),
    )


def affordable_output_tokens(price: Price, input_tokens: int, available_nano_usd: int) -> int | None:
    """How many output tokens a balance covers besides the input; None where output is free and the input is covered."""
    left = available_nano_usd - worst_case_nano_usd(price, input_tokens, 0)
    if left < 0:
        return 0
    return left * 1_000_000 // price.output_nano_usd if price.output_nano_usd else None
