"""A bare uvicorn endpoint that reads its request and answers 1.4 KB: the cost of Python's HTTP server alone."""

from __future__ import annotations

import os
from typing import Any

import uvicorn

_BODY = b'{"id":"resp_bench","object":"response","text":"' + b"x" * 1347 + b'"}'
_HEADERS = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY)))


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI application."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
    await send({"type": "http.response.body", "body": _BODY})


if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(os.environ["BENCH_PORT"]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
        backlog=4096,
    )
