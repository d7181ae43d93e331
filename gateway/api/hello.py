"""HEAD and GET /api/hello, with which Claude Code checks at its start that its host can be reached.

It sends no key, so the answer says nothing about this gateway.
"""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()


@router.get("/api/hello")
async def hello() -> dict[str, str]:
    """The answer of Anthropic's API."""
    return {"message": "hello"}
