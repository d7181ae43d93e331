"""The cost that an upstream reports itself, in the forms that providers use.

 form                                                            | provider                     |
 `cost: 0.0173`, `cost: "0.0173"`                                | OpenRouter and others        |
 `cost: {"total_cost": 0.01}`                                    | Perplexity                   |
 `cost: 0, is_byok: true, cost_details.upstream_inference_cost`  | OpenRouter with own keys     |
 `cost_in_usd_ticks: 28460500` (1e-10 USD)                       | xAI                          |
 `estimated_cost: 0.0002`                                        | DeepInfra                    |

With your own keys, the router charges its fee and the provider behind it charges the inference. The cost is their sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from gateway.protocol.counts import amount, find

_TICK_USD: Final = Decimal("1e-10")
_PLAIN: Final = (("cost", "total_cost"), ("cost",), ("total_cost",), ("estimated_cost",))
_OWN_KEYS: Final = ("cost_details", "upstream_inference_cost")
FIELDS: Final = frozenset({"cost", "total_cost", "estimated_cost", "cost_in_usd_ticks", "cost_details"})


def reported_cost(usage: Mapping[str, Any]) -> str | None:
    """Returns the upstream's own cost in USD as a plain decimal string, or None. Never raises."""
    ticks = amount(usage.get("cost_in_usd_ticks"))
    cost = (ticks * _TICK_USD).normalize() if ticks is not None else next(filter(_is_amount, _plain(usage)), None)
    if usage.get("is_byok") is True and (inference := amount(find(usage, _OWN_KEYS))) is not None:
        cost = inference + (cost or Decimal(0))
    return None if cost is None else f"{cost:f}"


def _plain(usage: Mapping[str, Any]) -> list[Decimal | None]:
    return [amount(find(usage, path)) for path in _PLAIN]


def _is_amount(value: Decimal | None) -> bool:
    return value is not None
