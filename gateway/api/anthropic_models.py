"""The list of models in Anthropic's form (API reference, List Models). Pure.

    {"data": [{"type": "model", "id", "display_name", "created_at", ...}], "has_more", "first_id", "last_id"}

`limit` is 1 to 1000 (default 20), `after_id` and `before_id` name the neighbour of a page. The newest models come
first. A model whose age is not known has the epoch as `created_at`, as the reference says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from gateway.errors import GatewayError

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 1000
_OPENAI_FIELDS: Final = frozenset({"object", "created", "owned_by"})
_LAST_SECOND: Final = 253_402_300_799
"""The end of the year 9999, beyond which no time can be written."""


def model_info(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns one model. What an upstream that speaks this form says of it is kept."""
    described = {name: value for name, value in model.items() if name not in _OPENAI_FIELDS}
    name = described.get("display_name")
    return {
        **described,
        "type": "model",
        "display_name": name if isinstance(name, str) and name else model["id"],
        "created_at": _created_at(model),
    }


def models_page(models: Iterable[Mapping[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """Returns a page of models. Raises GatewayError `invalid_field`."""
    ordered = sorted(map(model_info, models), key=lambda model: str(model["id"]))
    ordered.sort(key=lambda model: str(model["created_at"]), reverse=True)
    limit = _limit(query.get("limit"))
    before, after = query.get("before_id"), query.get("after_id")
    if before is not None:
        end = _place(ordered, before, "before_id")
        start = max(0, end - limit)
        has_more = start > 0
    else:
        start = 0 if after is None else _place(ordered, after, "after_id") + 1
        end = start + limit
        has_more = end < len(ordered)
    data = ordered[start:end]
    return {
        "data": data,
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_LIMIT):
        raise GatewayError("invalid_field", f"'limit' must be a number from 1 to {MAX_LIMIT}.", param="limit")
    return int(text)


def _place(models: list[dict[str, Any]], identifier: str, param: str) -> int:
    for place, model in enumerate(models):
        if model["id"] == identifier:
            return place
    raise GatewayError("invalid_field", f"The list has no model {identifier!r}.", param=param)


def _created_at(model: Mapping[str, Any]) -> str:
    told, created = model.get("created_at"), model.get("created")
    if isinstance(told, str) and told:
        return told
    seconds = created if isinstance(created, int) and 0 < created <= _LAST_SECOND else 0
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
