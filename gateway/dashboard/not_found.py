"""Any other path below /dashboard: a page that says that it does not exist."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.dashboard.admin_client import AdminApiError
from gateway.dashboard.guard import PageRoute, redirect_to

router = APIRouter(route_class=PageRoute)


@router.get("/{path:path}")
async def not_found(request: Request, path: str) -> Response:
    """Answers 404, or redirects to the sign-in page. /dashboard/ redirects to /dashboard."""
    del request
    if not path:
        return redirect_to("/dashboard")
    raise AdminApiError(404, "unknown_url", f"There is no page {path!r}.")
