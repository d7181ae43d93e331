"""Normalises model names once, so that route, price and permission agree on a name however a caller spells it. Pure.

    "OPENAI/GPT-5.2", " openai/gpt-5.2 "     openai/gpt-5.2, if a route, a price or an alias has this exact name
    "openai/gpt-5.2:online"                  its variant "online", unless the configuration has the whole name
    "fast:online"                            the variant "online" of the model that the alias stands for

A name that is not in the configuration keeps the caller's spelling, because a provider's names may be case-sensitive.

Routers write variants behind a colon (`:online`, `:nitro`, `:free`). A suffix with a digit is part of the name, because
it is another model (`llama3:8b`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gateway.protocol.model_spelling import folded
from gateway.routing.model_patterns import specificity

SEARCHES: Final = "online"
"""The variant that searches the web before it answers."""
_VARIANT: Final = re.compile(r"[A-Za-z]{1,32}")
_MAX_VARIANTS: Final = 4


class ModelName(NamedTuple):
    """A normalised name. `model` is the whole name in the configuration's spelling.

    `patterns` are the case-folded patterns that match it, the most specific first. `variants` are the suffixes that are
    not part of a configured name.
    """

    model: str
    patterns: tuple[str, ...]
    variants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The names in a configuration. `exact` are those of routes and prices that are not patterns."""

    exact: Iterable[str]
    aliases: Mapping[str, str]
    _exact: Mapping[str, str] = field(init=False, repr=False, compare=False)
    _aliases: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_exact", {folded(name): name for name in self.exact if not name.endswith("*")})
        object.__setattr__(self, "_aliases", {folded(name): model for name, model in self.aliases.items()})

    def read(self, name: str) -> ModelName:
        """Normalises a name as a caller wrote it."""
        base, variants = self._split(name.strip())
        alias = self._aliases.get(folded(base))
        if alias is not None:
            base, more = self._split(alias)
            variants = more + variants
        base = self._exact.get(folded(base), base)
        if not variants:
            return ModelName(base, specificity(folded(base)))
        model = ":".join((base, *variants))
        return ModelName(model, (folded(model), *specificity(folded(base))), variants)

    def _split(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Splits the variants off a configured name."""
        base, variants = name, list[str]()
        for _ in range(_MAX_VARIANTS):
            if folded(base) in self._exact or folded(base) in self._aliases:
                return base, tuple(variants)
            base, colon, variant = base.rpartition(":")
            if not colon or not _VARIANT.fullmatch(variant):
                break
            variants.insert(0, variant)
        return (base, tuple(variants)) if folded(base) in self._exact else (name, ())
