"""The kinds of token rates, and how the tables of a price row become the rates in force.

    KINDS            every rate that a row may state for tokens, and the kind that replaces it if it is not stated
    Layer            a table that states rates, and a factor on the token rates that it does not state
    in_force(...)    base rates, layers in order -> a rate for every kind, exact

First all stated rates replace earlier ones. Then all factors multiply, except on what their own table states. The row's
own factor comes last and applies to all token rates. Rates are nano-USD per million tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import lcm
from types import MappingProxyType
from typing import Final, NamedTuple

from gateway.protocol.quantities import EMPTY

KINDS: Final[Mapping[str, str | None]] = MappingProxyType(
    {
        "input": None,
        "cached_input": "input",
        "cache_write": "input",
        "cache_write_1h": "cache_write",
        "cache_write_12h": "cache_write",
        "input_audio": "input",
        "cached_audio": "input_audio",
        "input_image": "input",
        "cached_image": "input_image",
        "input_video": "input",
        "output": None,
        "reasoning": "output",
        "citation": "output",
        "output_audio": "output",
        "output_image": "output",
        "output_video": "output",
    }
)
"""Each kind of token and the kind whose rate it has if its own is not stated. A parent precedes its children."""

OUTPUT_KINDS: Final = tuple(kind for kind in KINDS if kind.startswith("output") or kind in ("reasoning", "citation"))
INPUT_KINDS: Final = tuple(kind for kind in KINDS if kind not in OUTPUT_KINDS)
MILLION: Final = 1_000_000


class Layer(NamedTuple):
    """A table inside a row.

    Rates are in nano-USD per million tokens, fees in nano-USD. None or absent means not stated.
    """

    rates: Mapping[str, int] = EMPTY
    factor: Fraction = Fraction(1)
    per_request: int | None = None
    per_call: Mapping[str, int] = EMPTY


class InForce(NamedTuple):
    """The rates and fees for one combination of layers. A token rate is `rates[kind] / divisor` nano-USD per token."""

    rates: Mapping[str, int]
    divisor: int
    per_request: int
    per_call: Mapping[str, int]

    def per_million(self, kind: str) -> Fraction:
        """Returns the nano-USD per million tokens of a kind."""
        return Fraction(self.rates[kind] * MILLION, self.divisor)


def in_force(base: Layer, layers: Sequence[Layer]) -> InForce:
    """Applies the layers of a row in order. `base.factor` is the row's own and multiplies last."""
    stated = dict(base.rates)
    per_request, per_call = base.per_request or 0, dict(base.per_call)
    for layer in layers:
        stated.update(layer.rates)
        per_call.update(layer.per_call)
        per_request = per_request if layer.per_request is None else layer.per_request
    exact = {kind: Fraction(rate) for kind, rate in stated.items()}
    for layer in layers:
        if layer.factor != 1:
            exact = {kind: rate if kind in layer.rates else rate * layer.factor for kind, rate in exact.items()}
    # A row that states no rate for one side charges its tokens at the highest rate that it states, so that they are not
    # free.
    highest = max(exact.values(), default=Fraction(0))
    for kind, parent in KINDS.items():
        if kind not in exact:
            exact[kind] = highest if parent is None else exact[parent]
    exact = {kind: rate * base.factor for kind, rate in exact.items()}
    divisor = lcm(*(rate.denominator for rate in exact.values()))
    rates = {kind: int(rate * divisor) for kind, rate in exact.items()}
    return InForce(MappingProxyType(rates), divisor * MILLION, per_request, MappingProxyType(per_call))
