"""The usage of an answer, in the quantities for which a price has rates.

    Usage        the six numbers of every usage, and `quantities` if they do not say everything
    Quantities   disjoint token counts per part of the answer, hosted calls, units, images, and facts that select rates

Every token is in exactly one part, so that the counts of a segment add up to the whole. In the common case (input,
cached input and output of one model, no calls, no tier) there are no `Quantities`, so that such a usage stays small.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, NamedTuple

EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


class Segment(NamedTuple):
    """Tokens that are priced together. The size of their own prompt selects the step of the price.

    `tokens` maps names of token rates (`input`, `cached_input`, `cache_write_1h`, `output_audio` ...) to counts.
    `model` names the price row, or is "" for that of the answer.
    """

    tokens: Mapping[str, int]
    model: str = ""

    @property
    def prompt_tokens(self) -> int:
        """Returns the whole prompt of every modality: plain, read from the cache and written to it."""
        return sum(count for name, count in self.tokens.items() if name.startswith(("input", "cache")))


class Images(NamedTuple):
    """Generated pictures. An empty quality or size means that neither the answer nor the request states it."""

    number: int
    quality: str = ""
    size: str = ""


class Quantities(NamedTuple):
    """Everything for which a price may have a rate.

    `tool_tokens` maps hosted tools to their tokens, as in a segment. `calls` maps tools to numbers of calls. `units`
    maps `second`, `character`, `page` and `search_unit` to amounts. `facts` select rates (`service_tier`, `speed` ...),
    without base tiers. `unknown` names token fields that this reader does not know; they are part of a segment already.
    `contradictions` lists what in the usage is inconsistent. `lacks_output` means that its output was not reported.
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
    """Token counts of one answer. `cost_usd` is the upstream's own price as a plain decimal string in USD, or None.

    `input_tokens` is the whole prompt, including cached and written tokens. `output_tokens` is all billed output,
    including reasoning, wherever the upstream counts these.
    """

    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int
    cost_usd: str | None
    quantities: Quantities | None = None


def quantities_of(usage: Usage) -> Quantities:
    """Returns the quantities of any usage: its own, or one segment of input, cached input and output."""
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
