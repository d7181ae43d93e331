"""Prices: every row with its rates, and what a usage costs, line by line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from gateway.billing.rates import KINDS
from gateway.dashboard import forms
from gateway.dashboard.admin_client import AdminApiError
from gateway.dashboard.guard import PageRoute, visit_of
from gateway.dashboard.render import html, words

router = APIRouter(prefix="/prices", route_class=PageRoute)
FIELDS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = MappingProxyType(
    {
        "input": ("Input tokens", ("input_tokens",)),
        "cached": ("of them cached", ("input_tokens_details", "cached_tokens")),
        "output": ("Output tokens", ("output_tokens",)),
        "reasoning": ("of them reasoning", ("output_tokens_details", "reasoning_tokens")),
    }
)
"""The fields of the form, and their places in a usage."""


@router.get("")
async def show_prices(request: Request) -> Response:
    """All rows, and the cost of the usage that the query has."""
    visit, query = visit_of(request), request.query_params
    prices = await visit.api.get("/prices")
    bill: dict[str, Any] | None = None
    refused: AdminApiError | None = None
    if query.get("model"):
        try:
            bill = await visit.api.get("/prices/explain", model=query["model"], usage=json.dumps(_usage(query)))
        except AdminApiError as error:
            refused = error
    rows = {pattern: _row(row) for pattern, row in prices["data"].items()}
    kinds = [kind for kind in KINDS if any(kind in row["rates"] for row in rows.values())]
    return html(
        "prices.html",
        refused.status if refused is not None else 200,
        visit=visit,
        here="prices",
        rows=rows,
        kinds=kinds,
        fields={name: label for name, (label, _) in FIELDS.items()},
        asked=query,
        bill=bill,
        refused=refused,
    )


def _usage(query: Mapping[str, str]) -> dict[str, Any]:
    usage: dict[str, Any] = {}
    for name, (_, path) in FIELDS.items():
        table = usage
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = forms.number(query.get(name) or "0")
    return usage


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row's rates, and everything else that it states as text."""
    return {
        "rates": {kind: row[kind] for kind in KINDS if row.get(kind) is not None},
        "others": [text for name, value in row.items() if name not in KINDS for text in _texts(words(name), value)],
    }


def _texts(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, each in value.items() for text in _texts(f"{name} {key}", each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(name, each)]
    return [f"{name}: {value}"]
