"""GET /: redirects a browser to the dashboard, if this port has it; otherwise says what this is."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from gateway.api.dependencies import services_of
from gateway.api.middleware import has_operators

router = APIRouter()


@router.get("/")
async def root(request: Request) -> Response:
    """Says what this service is. No key is needed."""
    admin = services_of(request).settings.admin
    has_dashboard = admin.key is not None and has_operators(admin.port, request.scope)
    if has_dashboard and "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("/dashboard", status_code=303)
    told = {
        "service": "OpenResponses gateway",
        "message": "Programs use /v1 of this host as their base URL, with a key that this gateway issued (sk-gw-...).",
        "health": "/readyz",
        **({"dashboard": "/dashboard"} if has_dashboard else {}),
    }
    return JSONResponse(told)
