"""GET /healthz: the process lives. GET /readyz: it can serve; else 503, and which part cannot.

| part        | is true when                                                                   |
|-------------|--------------------------------------------------------------------------------|
| store       | it answers; or it is away, and `store.on_failure = "open"`: `degraded` says so |
| enforcement | it was seen, since the start, to refuse the second request of a limit of one   |
| upstream    | one at least is in service, with its breaker not open and a key that rests not |
| accepting   | nobody has told the gateway to stop                                            |
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
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Whether the store answers (or is done without) and was seen to enforce, and an upstream is usable."""
    services = services_of(request)
    now_s = asyncio.get_running_loop().time()
    usable = {
        name: upstream.enabled
        and upstream.breaker.wait_s(now_s) <= 0
        and any(key.rests_until_s <= now_s for key in upstream.keys.keys)
        for name, upstream in services.handler.snapshot.upstreams.items()
    }
    open_admission = services.ledger.admits_unchecked
    parts: dict[str, Any] = {
        "store": services.store.available or open_admission,
        "enforcement": services.ready,
        "upstream": any(usable.values()),
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
