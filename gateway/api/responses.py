"""POST /v1/responses, declared for the list of routes. proxy/handler.py serves it before FastAPI is asked.

A WebSocket upgrade is answered with 426. Clients such as Codex then fall back to HTTP at once.
"""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request

from gateway.errors import GatewayError

router = APIRouter()


@router.post("/v1/responses")
async def create_response(request: Request) -> None:
    """Declared for the list of routes, and for the `Allow` header of a 405.

    It runs only before start-up is complete.
    """
    del request
    raise GatewayError("shutting_down", "This gateway is starting. Try again.", wait_ms=1000)


@router.get("/v1/responses")
async def upgrade(request: Request) -> None:
    """Refuses a WebSocket upgrade and any other GET."""
    if request.headers.get("upgrade", "").lower() == "websocket":
        raise GatewayError("websocket_unsupported", "This gateway speaks HTTP: POST /v1/responses.")
    raise HTTPException(405, headers={"Allow": "POST"})
