"""GET /metrics: the metrics of all workers in the Prometheus format, whichever worker answers.

Protected by `server.metrics_token` if that is set, and served only on `admin.port` if that is set.
"""

from __future__ import annotations

import hashlib
import hmac

from fastapi import APIRouter, Request, Response

from gateway.api.dependencies import services_of
from gateway.errors import GatewayError
from gateway.observability.metrics.exposition import render

router = APIRouter()


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """The metrics of all workers."""
    services = services_of(request)
    token = services.settings.server.metrics_token
    if token is not None:
        scheme, _, presented = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not _same(presented.strip(), token.get_secret_value()):
            raise GatewayError("invalid_api_key", "The token for /metrics is not valid. Send it as a bearer token.")
    body, content_type = render(await services.metrics_collector.total(), request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(hashlib.sha256(one.encode()).digest(), hashlib.sha256(other.encode()).digest())
