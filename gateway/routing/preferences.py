"""Applies a caller's preferences (`provider`) to the candidate upstreams of its route. Pure.

    ignore           removes these upstreams
    only             removes all others, if it names an upstream of this gateway
    order            puts these first, in this order, if it names an upstream of this gateway
    allow_fallbacks  false: keeps only the upstreams of `order`, or the first candidate if it names none
    max_price        removes all candidates if the model's price is higher

Other names are those of the provider's own providers, and are left to it.
"""

from __future__ import annotations

from collections.abc import Collection

from gateway.billing.money import format_usd
from gateway.errors import GatewayError
from gateway.protocol.provider_preferences import Preferences


def preferred(
    candidates: tuple[str, ...],
    wishes: Preferences,
    upstreams: Collection[str],
    input_nano_usd: int,
    output_nano_usd: int,
) -> tuple[str, ...]:
    """Returns the candidates that meet the preferences, the most preferred first.

    Raises GatewayError `no_available_provider` if there is none. It names the requirement and what it excluded.
    """
    for name, max_nano_usd, price in (
        ("prompt", wishes.prompt_nano_usd, input_nano_usd),
        ("completion", wishes.completion_nano_usd, output_nano_usd),
    ):
        if max_nano_usd is not None and price > max_nano_usd:
            limit = f"max_price.{name} of {format_usd(max_nano_usd)} USD (it costs {format_usd(price)})"
            raise _none_left(limit, candidates)
    only = [name for name in wishes.only if name in upstreams]
    left = tuple(name for name in candidates if name not in wishes.ignore and (not only or name in only))
    if not left:
        asked = [field for field, named in (("ignore", wishes.ignore), ("only", only)) if named]
        raise _none_left(" and ".join(asked), candidates)
    order = tuple(name for name in dict.fromkeys(wishes.order) if name in upstreams)
    first = tuple(name for name in order if name in left)
    if wishes.allow_fallbacks:
        return first + tuple(name for name in left if name not in first)
    if order and not first:
        raise _none_left("order, with allow_fallbacks false", left)
    return first or left[:1]


def _none_left(requirement: str, excluded: tuple[str, ...]) -> GatewayError:
    return GatewayError(
        "no_available_provider",
        f"No provider meets the requirement provider.{requirement}: it excludes {', '.join(excluded)}.",
        param="provider",
        explain={"requirement": requirement, "excluded": ", ".join(excluded)},
    )
