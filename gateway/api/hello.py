"""HEAD and GET /api/hello: Claude Code asks at its start whether the host that it is told to use can be reached.

It asks without a key, so the answer says nothing about this gateway.
"""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()


@router.get("/api/hello")
async def hello() -> dict[str, str]:
    """The answer of Anthropic's API."""
    return {"message": "hello"}
