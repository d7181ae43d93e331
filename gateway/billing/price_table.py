"""All price rows of a configuration by model, and the highest prices of all rows, for what one row does not state.

table.find(patterns)    the most specific pattern with a price; None means unlisted: such a model is refused
table.named(model)      the row of a model by the name that an answer uses
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from gateway.billing.price_row import Price, Tool
from gateway.billing.rates import Layer
from gateway.protocol.model_spelling import folded, undated


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices by model pattern. The most specific pattern wins.

    `folded` has the rows by their pattern as patterns are compared.
    `fees`, `units` and `tools` hold the highest price that any row states, by name. They apply to a call, a unit or a
    tool's tokens if the row in use does not state a price.
    """

    prices: Mapping[str, Price]
    folded: Mapping[str, Price] = field(init=False, repr=False, compare=False)
    fees: Mapping[str, int] = field(init=False, repr=False, compare=False)
    units: Mapping[str, Fraction] = field(init=False, repr=False, compare=False)
    tools: Mapping[str, Tool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folded", {folded(pattern): price for pattern, price in self.prices.items()})
        fees: dict[str, int] = {}
        units: dict[str, Fraction] = {}
        tools: dict[str, Tool] = {}
        for row in self.prices.values():
            for version in (row, *(later for _, later in row.versions)):
                for layer in version.layers():
                    for tool, fee in layer.per_call.items():
                        fees[tool] = max(fee, fees.get(tool, 0))
                for unit, rate in version.per_unit.items():
                    units[unit] = max(rate, units.get(unit, Fraction(0)))
                for name, tool_price in version.tools.items():
                    tools[name] = _more_expensive_tool(tools.get(name), tool_price)
        object.__setattr__(self, "fees", fees)
        object.__setattr__(self, "units", units)
        object.__setattr__(self, "tools", tools)

    def find(self, patterns: tuple[str, ...]) -> Price | None:
        """Returns the price of the first pattern that has one. A model's patterns are folded, most specific first."""
        for pattern in patterns:
            price = self.folded.get(pattern)
            if price is not None:
                return price
        return None

    def named(self, model: str, beside: str = "") -> Price | None:
        """Returns the row of a model by the name that an answer uses.

        The provider may be missing if `beside` or one row fits, and the date of a version may be there.
        """
        name = folded(model)
        for one in (name, undated(name)):
            if (price := self._exactly(one, folded(beside))) is not None:
                return price
        return None

    def _exactly(self, name: str, beside: str) -> Price | None:
        names = (name, f"{beside.rpartition('/')[0]}/{name}" if "/" in beside else name)
        for one in names:
            if (price := self.folded.get(one)) is not None:
                return price
        same = [price for pattern, price in self.folded.items() if pattern.rpartition("/")[2] == name]
        return same[0] if len(same) == 1 else None


def _more_expensive_tool(known: Tool | None, other: Tool) -> Tool:
    """Returns a tool with the higher of every two rates.

    A tool that names a model is kept, because that row has its rates.
    """
    if known is None or other.model:
        return other
    if known.model:
        return known
    rates = dict(known.layer.rates)
    for kind, rate in other.layer.rates.items():
        rates[kind] = max(rate, rates.get(kind, 0))
    return Tool(layer=Layer(rates))
