"""Whether a route lets a request pass that says something about its price, or names what others may have stored. Pure.

    checked(request, route, snapshot, now_ms) -> Route    raises GatewayError `field_not_allowed`

The route that is returned knows the prices of models that may answer instead, and is permitted only to who may use all
of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from gateway.billing.price_row import CHEAP_TIERS, Price
from gateway.errors import GatewayError
from gateway.protocol.provider_preferences import MEMBERS
from gateway.protocol.request_body import RequestBody
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.routing.field_policies import ForeignIds
from gateway.routing.router import Route

_BASE_VALUES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {"speed": frozenset({"", "standard"}), "inference_geo": frozenset({"", "global"})}
)
"""Values that mean the plain rates of a row."""


class Asked(NamedTuple):
    """A request, and what its price may know of it. `row`: the version of the price that is in force."""

    request: RequestBody
    route: Route
    row: Price
    snapshot: ConfigSnapshot


class Check(NamedTuple):
    """`said`: what a request says, each thing once. `is_priced`: whether the price knows such a thing."""

    said: Callable[[Asked], Iterator[str]]
    is_priced: Callable[[Asked, str], bool]
    param: str


def check_fields(request: RequestBody, route: Route, snapshot: ConfigSnapshot, now_ms: int) -> Route:
    """The route of a request whose fields it lets pass."""
    rule, work = route.rule, request.work
    if work.foreign.member and _refuses_foreign_ids(rule.foreign_ids, snapshot):
        member, field = work.foreign
        raise _refusal(
            f"{member!r} names something that is stored at the provider, where several teams share an account: this "
            "gateway cannot tell whose it is.",
            field,
            "foreign_ids",
        )
    asked = Asked(request, route, route.price.at(now_ms), snapshot)
    for name, check in _CHECKS.items():
        policy = getattr(rule.fields, name)
        for said in check.said(asked) if policy != "allowed" else ():
            if policy == "refused":
                raise _refusal(f"This gateway does not pass {check.param!r} on: {said!r}.", check.param, name)
            if not check.is_priced(asked, said):
                raise _refusal(
                    f"The price of {route.model!r} does not say what {check.param} {said!r} costs.", check.param, name
                )
    if work.instead or work.advisors:  # the limits of each model that may be used count the request
        named = (snapshot.router.names.read(name).patterns for name in (*work.instead, *work.advisors))
        route = route._replace(limited=tuple(dict.fromkeys((*route.patterns, *itertools.chain(*named)))))
    if work.instead and rule.fields.models == "priced":
        others = [snapshot.router.resolve(name) for name in work.instead]
        common = tuple(pattern for pattern in route.patterns if all(pattern in other.patterns for other in others))
        instead = tuple((other.model, other.price) for other in others)
        route = route._replace(patterns=common, instead=(*route.instead, *instead), is_priced_by_answer=True)
    return route


def _refuses_foreign_ids(setting: ForeignIds, snapshot: ConfigSnapshot) -> bool:
    return setting == "refuse" or (setting == "auto" and snapshot.tenancy.several_teams)


def _refusal(message: str, param: str, name: str) -> GatewayError:
    explain = {"limit": name, "scope": "route", "limit_source": "gateway"}
    return GatewayError("field_not_allowed", message, param=param, explain=explain)


def _tier(asked: Asked) -> Iterator[str]:
    if asked.request.facts.service_tier:
        yield asked.request.facts.service_tier


def _fact(name: str) -> Callable[[Asked], Iterator[str]]:
    def said(asked: Asked) -> Iterator[str]:
        value = asked.request.work.facts.get(name, "")
        if value not in _BASE_VALUES[name]:
            yield value

    return said


def _has_when(name: str) -> Callable[[Asked, str], bool]:
    return lambda asked, value: value in asked.row.when.get(name, ())


def _has_row(asked: Asked, model: str) -> bool:
    router = asked.snapshot.router
    name = router.names.read(model)
    return router.prices.find(name.patterns) is not None and router.rule_of(name) is not None


def _has_fee(asked: Asked, tool: str) -> bool:
    prices = asked.snapshot.router.prices
    stated = any(tool in layer.per_call for layer in asked.row.layers())
    return stated or tool in asked.row.tools or tool in prices.fees or tool in prices.tools


def _providers(asked: Asked) -> Iterator[str]:
    wishes = asked.request.preferences
    yield from asked.request.work.provider
    if wishes is not None:
        yield from (*wishes.order, *wishes.only, *wishes.ignore)


def _is_ours(asked: Asked, name: str) -> bool:
    return name in asked.snapshot.upstreams or name in MEMBERS


_CHECKS: Final[Mapping[str, Check]] = MappingProxyType(
    {
        "service_tier": Check(
            _tier, lambda asked, tier: tier in CHEAP_TIERS or asked.row.tier_named(tier) is not None, "service_tier"
        ),
        "speed": Check(_fact("speed"), _has_when("speed"), "speed"),
        "inference_geo": Check(_fact("inference_geo"), _has_when("inference_geo"), "inference_geo"),
        "models": Check(
            lambda asked: iter((*asked.request.work.instead, *asked.request.work.advisors)), _has_row, "models"
        ),
        "tools": Check(lambda asked: iter(asked.request.work.tools), _has_fee, "tools"),
        "provider": Check(_providers, _is_ours, "provider"),
        "variants": Check(lambda asked: iter(asked.route.variants), lambda _asked, _variant: False, "model"),
    }
)
