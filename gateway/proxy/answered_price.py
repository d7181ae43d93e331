"""The model by whose price an answer is charged: the requested one, or the one that answered. Pure.

    priced_by(route, router, answered) -> PricedBy

The model that answered counts on routes with `price_by = "answered"`, and for requests that name models which may
answer instead. If it has no price row, the requested model's price is charged, and `unlisted` names the other model.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.billing.price_row import Price
from gateway.protocol.model_spelling import folded, undated
from gateway.routing.router import Route, Router

_MAX_NAME_LENGTH: Final = 64


class PricedBy(NamedTuple):
    """A price.

    `model` is the model that answered, if it differs from the requested one. `unlisted`: it has no price.
    """

    price: Price
    model: str = ""
    unlisted: str = ""


def priced_by(route: Route, router: Router, answered: object) -> PricedBy:
    """Returns the price of an answer. `answered` is the model that it names."""
    by_route = PricedBy(route.price)
    if not isinstance(answered, str) or not answered:
        return by_route
    if _is_same(answered, route.model) or _is_same(answered, route.upstream_model):
        return by_route
    named = next((one for one in route.instead if _is_same(answered, one[0])), None)
    listed = router.prices.named(answered, route.model)
    if listed is not None and (named is None or route.rule.price_by == "answered"):
        named = answered[:_MAX_NAME_LENGTH], listed
    if named is None:
        return by_route._replace(unlisted=f"model:{answered[:_MAX_NAME_LENGTH]}")
    model, price = named
    return by_route if price is route.price else PricedBy(price, model)


def _is_same(answered: str, model: str) -> bool:
    """Whether two names mean one model. Its provider, the date of its version and its variant do not matter."""
    one, other = (undated(folded(name).partition(":")[0]) for name in (answered, model))
    return one == other or one == other.rpartition("/")[2] or one.rpartition("/")[2] == other
