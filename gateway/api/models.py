"""GET /v1/models and /v1/models/{id}: the models that the caller's key may use.

A model is listed if a route leads to it, it has a price, team and key permit it, and they permit an operation that an
upstream of its route offers. Exact routes and aliases are listed by name. For "provider/*" and "*" the upstreams' own
lists are used; each name has the prefix that the route strips, because callers use it with the prefix. Callers of
Anthropic's API get its format (`anthropic_models`).

 the upstreams' lists            | /v1/models             | a model that they do not contain                        |
---------------------------------|------------------------|---------------------------------------------------------|
 were received at some time      | their last state       | 404: its provider does not list it (but may serve it)   |
 some were never received        | what the others list   | 503 if one of its route's lists is missing              |
 none was ever received          | 503                    | 503                                                     |
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from fastapi import APIRouter, Request

from gateway.api.anthropic_models import model_info, models_page
from gateway.api.dependencies import Caller, caller_of, services_of
from gateway.errors import GatewayError
from gateway.protocol.error_forms import is_anthropic_client
from gateway.protocol.model_spelling import folded
from gateway.protocol.operations import OPERATIONS, permits
from gateway.routing.router import Router
from gateway.upstream.model_list import RETRY_S, Listing
from gateway.upstream.upstream import Upstream
from gateway.worker.services import Services

router = APIRouter()
_UNKNOWN: Final = MappingProxyType({"object": "model", "created": 0, "owned_by": "gateway"})
"""The fields that OpenAI's clients expect of a model, if its upstream does not state them."""


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """The models that this key may use."""
    models = await _permitted(request)
    if is_anthropic_client(request.scope["path"], request.headers.raw):
        return models_page(models, request.query_params)
    return {"object": "list", "data": models}


async def _permitted(request: Request) -> list[dict[str, Any]]:
    """Returns the models that the caller's key may use, by name."""
    caller, services = await caller_of(request), services_of(request)
    table = services.handler.snapshot.router
    listings = await _listings(services, table.rules)
    asked = {name for pattern in table.rules if pattern.endswith("*") for name in table.rules[pattern].upstreams}
    if asked and not any(listings[name].was_received for name in asked):
        raise _not_learnt()
    offered = _offered(table, listings)
    upstreams = services.handler.snapshot.upstreams
    return [offered[name] for name in sorted(offered) if _allowed(table, upstreams, caller, name)]


@router.get("/v1/models/{model:path}")
async def show_model(request: Request, model: str) -> dict[str, Any]:
    """One model that this key may use."""
    caller, services = await caller_of(request), services_of(request)
    table = services.handler.snapshot.router
    pattern = _pattern_of(table, model)
    if pattern is None or not _allowed(table, services.handler.snapshot.upstreams, caller, model):
        raise GatewayError("model_not_found", f"The model {model!r} does not exist here, or this key may not use it.")
    listings = await _listings(services, [pattern])
    wanted = (folded(model), folded(table.names.read(model).model))
    named = {folded(name): found for name, found in _offered(table, listings).items()}
    if (found := next((named[name] for name in wanted if name in named), None)) is not None:
        return model_info(found) if is_anthropic_client(request.scope["path"], request.headers.raw) else found
    if not all(listing.was_received for listing in listings.values()):
        raise _not_learnt()
    raise GatewayError(
        "model_not_found", f"The model {model!r} is not listed by its provider; it may be served all the same."
    )


async def _listings(services: Services, patterns: Iterable[str]) -> dict[str, Listing]:
    """Returns the lists of these routes' upstreams, which are asked at the same time."""
    rules = services.handler.snapshot.router.rules
    names = list(dict.fromkeys(name for pattern in patterns for name in rules[pattern].upstreams))
    return dict(zip(names, await asyncio.gather(*map(services.model_list.models, names)), strict=True))


def _offered(table: Router, listings: dict[str, Listing]) -> dict[str, dict[str, Any]]:
    """Returns the models by the name that callers use: the upstreams' lists, and every exact route and alias."""
    offered: dict[str, dict[str, Any]] = {}
    for pattern, rule in table.rules.items():
        for upstream in rule.upstreams:
            for model in listings[upstream].models if upstream in listings else ():
                name = (rule.strip_prefix or "") + model["id"]
                if _pattern_of(table, name) == pattern:
                    offered.setdefault(name, {**_UNKNOWN, "owned_by": upstream, **model, "id": name})
    for name in [*table.aliases, *(pattern for pattern in table.rules if not pattern.endswith("*"))]:
        offered.setdefault(name, {**_UNKNOWN, "id": name})
    return offered


def _not_learnt() -> GatewayError:
    return GatewayError(
        "no_available_provider",
        "The provider's list of models is not available yet. Requests are not affected.",
        wait_ms=int(RETRY_S * 1000),
    )


def _pattern_of(table: Router, model: str) -> str | None:
    rule = table.rule_of(table.names.read(model))
    return None if rule is None else rule.pattern


def _allowed(table: Router, upstreams: Mapping[str, Upstream], caller: Caller, name: str) -> bool:
    """Whether a request for this model can succeed: some operation is permitted, and offered by the route."""
    meant = table.names.read(name)
    patterns, rule = meant.patterns, table.rule_of(meant)
    if rule is None or table.prices.find(patterns) is None:
        return False
    accounts = (caller.team, caller.key)
    if any(account.models and set(patterns).isdisjoint(map(folded, account.models)) for account in accounts):
        return False
    asked = [one for one in OPERATIONS if not one.by_id]
    usable = [one for one in asked if all(permits(account.operations, one.name) for account in accounts)]
    return any(upstreams[upstream].offers(one.names) for upstream in rule.upstreams for one in usable)
