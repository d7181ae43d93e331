"""Dry runs: the header `x-gateway-dry-run: true` asks what the gateway would decide about a request.

Such a request passes steps 1 to 4, but reserves nothing, calls no upstream and counts at no limit. If it would be
refused, the answer is exactly that refusal, with its status, headers and body. If it would be admitted, the answer is a
200 with this body::

    {"object": "dry_run", "admitted": true, "request_id", "model",
     "hold": {"amount_usd", "input_tokens", "output_tokens"},        the worst case, which would be reserved
     "price": {"input_usd", "cached_input_usd", "output_usd"},       per million tokens
     "key": {"id", "limits"}, "team": {"id", "balance", "limits"}}   what is available without this request
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.accounts.serialization import balance_json, limits_json
from gateway.billing.lifecycle import Outcome
from gateway.billing.money import format_rate, format_usd
from gateway.billing.price_row import Price
from gateway.errors import GatewayError
from gateway.http.client import Client
from gateway.ledger.admissions import Preview
from gateway.ledger.ledger import Ledger
from gateway.observability.request_record import RequestRecord
from gateway.proxy.admission import Routed


def is_dry_run(client: Client) -> bool:
    """Whether the client asks for a dry run. Raises GatewayError `invalid_field` for any value but true and false."""
    value = client.fields.get(b"x-gateway-dry-run")
    if value is None:
        return False
    word = value.strip().lower()
    if word not in (b"true", b"false"):
        raise GatewayError(
            "invalid_field", "x-gateway-dry-run is true or false; nothing was run.", param="x-gateway-dry-run"
        )
    return word == b"true"


async def answer_dry_run(routed: Routed, ledger: Ledger, client: Client, record: RequestRecord) -> None:
    """Runs step 4 without any effect, and sends the answer. Raises the GatewayError that would refuse the request."""
    try:
        preview = await ledger.preview(routed.admission_request)
    finally:
        if routed.turn is not None:
            await routed.turn.close()
    record.outcome = Outcome.DRY_RUN
    body = answer(record.request_id, routed.route.model, routed.route.price, preview)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += preview.admission.rates.headers()
    await client.answer(200, [*headers, (b"x-request-id", record.request_id.encode())], body)


def answer(request_id: str, model: str, price: Price, preview: Preview) -> bytes:
    """Returns the answer's body for a request that would be admitted."""
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
        "key": {"id": hold.key_id, "limits": limits_json(view, "key")},
        "team": {
            "id": hold.team_id,
            "balance": balance_json(view.balance),
            "limits": limits_json(view, "team"),
        },
    }
    return orjson.dumps(fields)
