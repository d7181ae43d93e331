"""GET /v1/models and /v1/models/{id}: what the caller's key may use. Never charged, never blocked by a spent budget.

A model is listed when a route leads to it, it has a price, and team and key allow it. Exact routes and aliases are
listed by themselves; for "provider/*" and "*" the upstreams' own lists say which models there are, by the
name that a caller uses: with the prefix that the route strips.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from gateway.api.dependencies import Caller, caller_of, services_of
from gateway.errors import GatewayError
from gateway.routing.model_patterns import specificity
from gateway.routing.router import Router

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """The models that this key may use."""
    return {"object": "list", "data": await _usable(request, await caller_of(request))}


@router.get("/v1/models/{model:path}")
async def show_model(request: Request, model: str) -> dict[str, Any]:
    """One model that this key may use."""
    for found in await _usable(request, await caller_of(request)):
        if found["id"] == model:
            return found
    raise GatewayError("model_not_found", f"The model {model!r} does not exist here, or this key may not use it.")


async def _usable(request: Request, caller: Caller) -> list[dict[str, Any]]:
    services = services_of(request)
    table = services.handler.snapshot.router
    offered: dict[str, dict[str, Any]] = {}
    for pattern, rule in table.rules.items():
        for upstream in rule.upstreams:
            for model in await services.model_list.models(upstream):
                name = (rule.strip_prefix or "") + model["id"]
                if _pattern_of(table, name) == pattern:
                    offered.setdefault(name, {**model, "id": name})
    for name in [*table.aliases, *(pattern for pattern in table.rules if not pattern.endswith("*"))]:
        offered.setdefault(name, {"id": name, "object": "model", "created": 0, "owned_by": "gateway"})
    return [model for name, model in sorted(offered.items()) if _allowed(table, caller, name)]


def _pattern_of(table: Router, model: str) -> str | None:
    return next((pattern for pattern in specificity(model) if pattern in table.rules), None)


def _allowed(table: Router, caller: Caller, name: str) -> bool:
    patterns = specificity(table.aliases.get(name, name))
    priced = table.prices.find(patterns) is not None
    return priced and all(
        not account.models or not set(patterns).isdisjoint(account.models) for account in (caller.team, caller.key)
    )
