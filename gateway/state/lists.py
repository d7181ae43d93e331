"""Pages of items, as the API returns them. Pure.

    page(items, query)     {"object": "list", "data", "first_id", "last_id", "has_more"}

`limit` is 1 to 100 (default 20). `order` is `asc` or `desc` (default). `after` is the id of the last item before the
page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qs

from gateway.errors import GatewayError
from gateway.state.items import Item

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100


def page(items: Sequence[Item], query: bytes) -> dict[str, Any]:
    """Returns a page of items.

    `items` are ordered from old to new, each with an id. Raises GatewayError `invalid_item` (400).
    """
    params = {name: values[-1] for name, values in parse_qs(query.decode("latin-1")).items()}
    limit, order, after = params.get("limit", str(DEFAULT_LIMIT)), params.get("order", "desc"), params.get("after")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit) <= MAX_LIMIT:
        raise GatewayError("invalid_item", f"'limit' must be a number from 1 to {MAX_LIMIT}.", param="limit")
    if order not in ("asc", "desc"):
        raise GatewayError("invalid_item", "'order' must be 'asc' or 'desc'.", param="order")
    ordered = list(items if order == "asc" else reversed(items))
    start = 0
    if after is not None:
        places = [at for at, item in enumerate(ordered) if item.get("id") == after]
        if not places:
            raise GatewayError("invalid_item", f"The list has no item {after!r}.", param="after")
        start = places[0] + 1
    data = ordered[start : start + int(limit)]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": start + len(data) < len(ordered),
    }
