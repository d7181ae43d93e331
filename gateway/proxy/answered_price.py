"""By which model's price an answer is charged: the one that was asked for, or the one that answered. Pure.

    priced_by(route, router, answered) -> PricedBy

Routes with `price_by = "answered"`, and requests that name models which may answer instead, are charged by the model
that the answer names. One that no price row has is charged as the model that was asked for, and is named.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.billing.price_row import Price
from gateway.protocol.model_spelling import folded, undated
from gateway.routing.router import Route, Router

_LONGEST_NAME: Final = 64


class PricedBy(NamedTuple):
    """`model`: the answering model, where it is another one than asked for; `unlisted`: the same without a price."""

    price: Price
    model: str = ""
    unlisted: str = ""


def priced_by(route: Route, router: Router, answered: object) -> PricedBy:
    """The price of an answer that names its model so."""
    asked = PricedBy(route.price)
    if not isinstance(answered, str) or not answered:
        return asked
    if _is_same(answered, route.model) or _is_same(answered, route.upstream_model):
        return asked
    named = next((one for one in route.instead if _is_same(answered, one[0])), None)
    listed = router.prices.named(answered, route.model)
    if listed is not None and (named is None or route.rule.price_by == "answered"):
        named = answered[:_LONGEST_NAME], listed
    if named is None:
        return asked._replace(unlisted=f"model:{answered[:_LONGEST_NAME]}")
    model, price = named
    return asked if price is route.price else PricedBy(price, model)


def _is_same(answered: str, model: str) -> bool:
    """Whether two names mean one model: with or without its provider, its version's date, or a variant."""
    one, other = (undated(folded(name).partition(":")[0]) for name in (answered, model))
    return one == other or one == other.rpartition("/")[2] or one.rpartition("/")[2] == other
