"""/admin/v1/prices: the price rows in force. /admin/v1/prices/explain: what a usage costs under them, line by line."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query, Request

from gateway.api.admin.guard import GuardedRoute
from gateway.api.admin.query_parameters import moment_ms
from gateway.api.dependencies import services_of
from gateway.errors import GatewayError
from gateway.proxy.price_explain import NotExplainable, PriceQuestion, explain

router = APIRouter(prefix="/prices", route_class=GuardedRoute)
MAX_USAGE: Final = 16_384


@router.get("")
async def list_prices(request: Request) -> dict[str, Any]:
    """The price rows as the configuration states them, by their patterns."""
    prices = services_of(request).settings.prices
    rows = {
        pattern: price.model_dump(mode="json", by_alias=True, exclude_unset=True) for pattern, price in prices.items()
    }
    return {"object": "prices", "data": rows}


@router.get("/explain")
async def explain_price(
    request: Request,
    model: Annotated[str, Query(min_length=1, max_length=256, description="As a request names it")],
    usage: Annotated[str, Query(max_length=MAX_USAGE, description="A usage object, or a whole answer, as JSON")],
    dialect: Annotated[
        str | None, Query(max_length=64, description="How it is read; without it, by its fields")
    ] = None,
    at: Annotated[str | None, Query(max_length=64, description="When the answer ended; without it, now")] = None,
) -> dict[str, Any]:
    """What a usage costs, line by line, under the prices in force."""
    try:
        given = orjson.loads(usage)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise GatewayError("invalid_field", "usage is a JSON object.", param="usage")
    ended_ms = moment_ms(at, "at", time.time_ns() // 1_000_000)
    try:
        return explain(PriceQuestion(model, given, dialect, ended_ms, {}), services_of(request).handler.snapshot.router)
    except NotExplainable as error:
        raise GatewayError("invalid_field", f"{error}.", param="usage") from None
