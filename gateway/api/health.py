"""GET /healthz: the process lives. GET /readyz: a request would be served; else 503, and which part is in its way.

| part        | is true when                                                                   |
|-------------|--------------------------------------------------------------------------------|
| store       | it answers; or it is away, and `store.on_failure = "open"`: `degraded` says so |
| enforcement | it was seen, since the start, to refuse the second request of a limit of one   |
| upstream    | some route has one in service that would be asked: its breaker is not open     |
| accepting   | nobody has told the gateway to stop                                            |

A key that rests is asked all the same where no other is left, so that a provider's 401, 402 or 429 makes nothing not
ready; nor does one model that fails.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gateway.api.dependencies import services_of

router = APIRouter()


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Answers as long as the process runs."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Answers 200 if this worker can serve requests, and 503 with the failing parts otherwise."""
    services = services_of(request)
    snapshot, now_s = services.handler.snapshot, asyncio.get_running_loop().time()
    usable = {
        name: upstream.enabled and upstream.health.whole.wait_s(now_s) <= 0
        for name, upstream in snapshot.upstreams.items()
    }
    open_admission = services.ledger.admits_unchecked
    parts: dict[str, Any] = {
        "store": services.store.available or open_admission,
        "enforcement": services.ready,
        "upstream": any(usable[name] for name in snapshot.router.in_use()),
        "accepting": not (services.leaving or services.handler.stopping),
    }
    ready = all(parts.values())
    details = {
        "ready": ready,
        "parts": parts,
        "upstreams": usable,
        "degraded": not services.store.available and open_admission,
    }
    return JSONResponse(details, 200 if ready else 503)
