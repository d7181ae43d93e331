"""GET /healthz: the process runs. GET /readyz: a request would be served; otherwise 503 with the parts that prevent it.

 part        | is true if                                                                      |
-------------|---------------------------------------------------------------------------------|
 store       | it answers and its ACL permits what a request needs, or else                    |
             | `store.on_failure = "open"` (`degraded`: it is unavailable)                     |
 enforcement | since the start, the store has refused a second request under a limit of one    |
 upstream    | some route has an enabled upstream whose breaker is not open                    |
 accepting   | the gateway was not told to stop                                                |
 background  | all background work completes its rounds; `dead_work` names work that does not  |

`store_dangers` names what may make the store lose data (`store/durability.py`); it makes no worker unready.
`store_forbids` names the commands that scripts need and that the store's ACL forbids.

A resting key is used if no other is left. A provider's 401, 402 or 429 therefore does not make the gateway unready, and
neither does one failing model.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from gateway.api.dependencies import services_of
from gateway.concurrency.periodic import dead

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
    dead_work = dead(services.periodics, now_s)
    open_admission = services.ledger.admits_unchecked
    parts: dict[str, Any] = {
        "store": (services.store.available and services.store_inspection.lets_us_serve) or open_admission,
        "enforcement": services.ready,
        "upstream": any(usable[name] for name in snapshot.router.in_use()),
        "accepting": not (services.leaving or services.handler.stopping),
        "background": not dead_work,
    }
    ready = all(parts.values())
    details = {
        "ready": ready,
        "parts": parts,
        "upstreams": usable,
        "dead_work": dead_work,
        "store_dangers": services.store_inspection.dangers,
        "store_forbids": services.store_inspection.forbidden,
        "degraded": not services.store.available and open_admission,
    }
    return JSONResponse(details, 200 if ready else 503)
