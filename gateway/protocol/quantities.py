"""What an answer used, in the quantities that a price has rates for: the value, and how it becomes JSON and back.

    Usage        six numbers that every usage has, and `quantities` where they do not say everything
    Quantities   disjoint token counts a part of the answer, hosted calls, units, images, and the facts that pick rates

A token stands in one part only: the counts of a segment sum up to what was used. In the common case (input, cached
input and output of one model, no calls, no tier) there are no `Quantities`: such a usage costs nothing more to keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, NamedTuple

EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


class Segment(NamedTuple):
    """Tokens that are priced together, with a step of their own. `model`: whose row prices them; "": the answer's.

    `tokens` maps names of token rates (`input`, `cached_input`, `cache_write_1h`, `output_audio` ...) to counts.
    """

    tokens: Mapping[str, int]
    model: str = ""

    @property
    def prompt_tokens(self) -> int:
        """The whole prompt: plain, read from the cache and written to it, of every modality."""
        return sum(count for name, count in self.tokens.items() if name.startswith(("input", "cache")))


class Images(NamedTuple):
    """Pictures that were made. An empty quality or size: neither answer nor request says."""

    number: int
    quality: str = ""
    size: str = ""


class Quantities(NamedTuple):
    """Everything that a price may have a rate for.

    `tool_tokens`: tokens of a hosted tool, by tool, then as in a segment. `calls`: by tool. `units`: by `second`,
    `character`, `page`, `search_unit`. `facts`: what picks rates (`service_tier`, `speed` ...), base tiers left out.
    `unknown`: token fields that this reader does not know, by name; they are inside a segment already.
    `contradictions`: what the usage says against itself. `lacks_output`: its output was not reported.
    """

    segments: tuple[Segment, ...] = ()
    tool_tokens: Mapping[str, Mapping[str, int]] = EMPTY
    calls: Mapping[str, int] = EMPTY
    units: Mapping[str, Decimal] = EMPTY
    images: tuple[Images, ...] = ()
    facts: Mapping[str, str] = EMPTY
    unknown: Mapping[str, int] = EMPTY
    contradictions: tuple[str, ...] = ()
    lacks_output: bool = False


class Usage(NamedTuple):
    """Token counts of one answer. `cost_usd`: the upstream's own price, a plain decimal string in USD, or None.

    `input_tokens` is the whole prompt, cached and written tokens with it; `output_tokens` is everything that was put
    out and is billed, reasoning with it, wherever the upstream counts these.
    """

    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    cost_usd: str | None
    quantities: Quantities | None = None


def quantities_of(usage: Usage) -> Quantities:
    """The quantities of any usage: those that it carries, or one segment of input, cached input and output."""
    if usage.quantities is not None:
        return usage.quantities
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    reasoning = min(usage.reasoning_tokens, usage.output_tokens)
    tokens = {
        "input": usage.input_tokens - cached,
        "cached_input": cached,
        "output": usage.output_tokens - reasoning,
        "reasoning": reasoning,
    }
    return Quantities((Segment(tokens),))
