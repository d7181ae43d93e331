"""`x-gateway-dry-run: true`: what would become of this request? Pure.

A request with this header goes through steps 1 to 4, reserves nothing, asks no upstream and counts against no limit.
Would it be refused, it is answered by the very refusal: status, headers, body. Would it be admitted, 200 and `answer`::

    {"object": "dry_run", "admitted": true, "request_id", "model",
     "hold": {"amount_usd", "input_tokens", "output_tokens"},        the worst case, as it would be reserved
     "price": {"input_usd", "cached_input_usd", "output_usd"},       per million tokens
     "key": {"id", "limits"}, "team": {"id", "balance", "limits"}}   what is left now, without this request
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.accounts.serialization import balance_json, limits_json
from gateway.billing.money import format_rate, format_usd
from gateway.billing.price_row import Price
from gateway.errors import GatewayError
from gateway.http.client import Client
from gateway.ledger.admissions import Preview


def is_dry_run(client: Client) -> bool:
    """Whether the client asks for a dry run. Raises GatewayError `invalid_field` for neither true nor false."""
    value = client.fields.get(b"x-gateway-dry-run")
    if value is None:
        return False
    word = value.strip().lower()
    if word not in (b"true", b"false"):
        raise GatewayError(
            "invalid_field", "x-gateway-dry-run is true or false; nothing was run.", param="x-gateway-dry-run"
        )
    return word == b"true"


def answer(request_id: str, model: str, price: Price, preview: Preview) -> bytes:
    """The body for a request that would be admitted."""
    hold, view = preview.admission.hold, preview.view
    fields: dict[str, Any] = {
        "object": "dry_run",
        "admitted": True,
        "request_id": request_id,
        "model": model,
        "hold": {
            "amount_usd": format_usd(hold.amount_nano_usd),
            "input_tokens": hold.input_tokens,
            "output_tokens": hold.output_tokens,
        },
        "price": {
            f"{kind}_usd": format_rate(price.plain.per_million(kind)) for kind in ("input", "cached_input", "output")
        },
        "key": {"id": hold.key_id, "limits": limits_json(view.key, view.now_ms)},
        "team": {
            "id": hold.team_id,
            "balance": balance_json(view.balance),
            "limits": limits_json(view.team, view.now_ms),
        },
    }
    return orjson.dumps(fields)
