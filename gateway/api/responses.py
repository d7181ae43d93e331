"""POST /v1/responses, declared for the application's map; the request line serves it before FastAPI is asked.

A WebSocket upgrade is answered 426: clients (Codex among them) then fall back to HTTP at once.
"""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request

from gateway.errors import GatewayError

router = APIRouter()


@router.post("/v1/responses")
async def create_response(request: Request) -> None:
    """Declared for the map alone, and first, for Allow of a 405: reached only before start-up has ended."""
    del request
    raise GatewayError("shutting_down", "This gateway is starting. Try again.", wait_ms=1000)


@router.get("/v1/responses")
async def upgrade(request: Request) -> None:
    """Refuses a WebSocket upgrade, and any other GET."""
    if request.headers.get("upgrade", "").lower() == "websocket":
        raise GatewayError("websocket_unsupported", "This gateway speaks HTTP: POST /v1/responses.")
    raise HTTPException(405, headers={"Allow": "POST"})
