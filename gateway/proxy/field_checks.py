"""Refuses fields that change a request's price, or that name what other teams may have stored. Pure.

    check_fields(request, route, snapshot, now_ms) -> Route    raises GatewayError `field_not_allowed`

The returned route has the prices of all models that may answer instead. Only keys that may use each of these models may
use the route.
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


class CheckedRequest(NamedTuple):
    """A request with its route and the version of its price row that is in force."""

    request: RequestBody
    route: Route
    row: Price
    snapshot: ConfigSnapshot


class Check(NamedTuple):
    """The check of one field.

    `values` yields what the request states. `is_priced`: whether there is a price for that.
    """

    values: Callable[[CheckedRequest], Iterator[str]]
    is_priced: Callable[[CheckedRequest, str], bool]
    param: str


def check_fields(request: RequestBody, route: Route, snapshot: ConfigSnapshot, now_ms: int) -> Route:
    """Returns the route, if all fields of the request may pass on it. Raises GatewayError `field_not_allowed`."""
    rule, work = route.rule, request.work
    if work.foreign.member and _refuses_foreign_ids(rule.foreign_ids, snapshot):
        member, field = work.foreign
        raise _field_refused(
            f"{member!r} names something that is stored at the provider, where several teams share an account: this "
            "gateway cannot tell whose it is.",
            field,
            "foreign_ids",
        )
    checked = CheckedRequest(request, route, route.price.at(now_ms), snapshot)
    for name, check in _CHECKS.items():
        policy = getattr(rule.fields, name)
        for value in check.values(checked) if policy != "allowed" else ():
            if policy == "refused":
                raise _field_refused(f"This gateway does not pass {check.param!r} on: {value!r}.", check.param, name)
            if not check.is_priced(checked, value):
                raise _field_refused(
                    f"The price of {route.model!r} does not say what {check.param} {value!r} costs.", check.param, name
                )
    if work.instead or work.advisors:  # the request counts at the limits of every model that may be used
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


def _field_refused(message: str, param: str, name: str) -> GatewayError:
    explain = {"limit": name, "scope": "route", "limit_source": "gateway"}
    return GatewayError("field_not_allowed", message, param=param, explain=explain)


def _tier(checked: CheckedRequest) -> Iterator[str]:
    if checked.request.facts.service_tier:
        yield checked.request.facts.service_tier


def _fact(name: str) -> Callable[[CheckedRequest], Iterator[str]]:
    def values(checked: CheckedRequest) -> Iterator[str]:
        value = checked.request.work.facts.get(name, "")
        if value not in _BASE_VALUES[name]:
            yield value

    return values


def _has_when(name: str) -> Callable[[CheckedRequest, str], bool]:
    return lambda checked, value: value in checked.row.when.get(name, ())


def _has_row(checked: CheckedRequest, model: str) -> bool:
    router = checked.snapshot.router
    name = router.names.read(model)
    return router.prices.find(name.patterns) is not None and router.rule_of(name) is not None


def _has_fee(checked: CheckedRequest, tool: str) -> bool:
    prices = checked.snapshot.router.prices
    stated = any(tool in layer.per_call for layer in checked.row.layers())
    return stated or tool in checked.row.tools or tool in prices.fees or tool in prices.tools


def _providers(checked: CheckedRequest) -> Iterator[str]:
    preferences = checked.request.preferences
    yield from checked.request.work.provider
    if preferences is not None:
        yield from (*preferences.order, *preferences.only, *preferences.ignore)


def _is_known_provider(checked: CheckedRequest, name: str) -> bool:
    return name in checked.snapshot.upstreams or name in MEMBERS


_CHECKS: Final[Mapping[str, Check]] = MappingProxyType(
    {
        "service_tier": Check(
            _tier, lambda checked, tier: tier in CHEAP_TIERS or checked.row.tier_named(tier) is not None, "service_tier"
        ),
        "speed": Check(_fact("speed"), _has_when("speed"), "speed"),
        "inference_geo": Check(_fact("inference_geo"), _has_when("inference_geo"), "inference_geo"),
        "models": Check(
            lambda checked: iter((*checked.request.work.instead, *checked.request.work.advisors)), _has_row, "models"
        ),
        "tools": Check(lambda checked: iter(checked.request.work.tools), _has_fee, "tools"),
        "provider": Check(_providers, _is_known_provider, "provider"),
        "variants": Check(lambda checked: iter(checked.route.variants), lambda _checked, _variant: False, "model"),
    }
)
