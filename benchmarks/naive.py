"""A naive gateway as a baseline: FastAPI in front, httpx behind, without keys, limits or a ledger.

Its settings are the best that both documentations name: one client for all, no pool limits, uvloop, httptools.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse


def build(upstream_url: str) -> FastAPI:
    """The application; `upstream_url` is the base URL."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=upstream_url, limits=limits, timeout=600) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/responses")
    async def responses(request: Request) -> Response:
        client: httpx.AsyncClient = app.state.client
        body = await request.body()
        headers = {"content-type": "application/json"}
        answer = await client.send(
            client.build_request("POST", "/responses", content=body, headers=headers), stream=True
        )
        kind = answer.headers["content-type"]
        if kind != "text/event-stream":
            content = await answer.aread()
            await answer.aclose()
            return Response(content, answer.status_code, media_type=kind)
        return StreamingResponse(_relay(answer), answer.status_code, media_type=kind)

    return app


async def _relay(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for data in answer.aiter_raw():
            yield data
    finally:
        await answer.aclose()


if __name__ == "__main__":
    uvicorn.run(
        build(os.environ["BENCH_UPSTREAM"]),
        port=int(os.environ["BENCH_PORT"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        backlog=4096,
    )
