"""WebSocket mode: what an idle socket takes, and the time to a turn's first event beside that of a POST."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from typing import Any

import httpx
import uvloop
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.load import request_body
from benchmarks.machine import raise_file_limit
from benchmarks.rows import Effort, Row
from benchmarks.servers import Bench, Target

_SOCKETS = 1000
_AT_ONCE = 50
_KILOBYTE = 1024
_SETTLED_S = 2.0
_PAUSE_S = 0.005  # between two requests: this measures time, not load


def idle_sockets(bench: Bench, effort: Effort) -> Row:
    """Measures the resident memory of a thousand sockets on which nothing has happened."""
    del effort
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        each = runner.run(_idle(bench.start_gateway("sockets"))) / _KILOBYTE  # nothing else has used its memory
    return Row(
        f"{_SOCKETS:,} idle sockets (WebSocket mode)",
        {"ours": f"{each:.1f} KiB each"},
        "<= 30 KB",
        f"{each:.1f} KiB each",
        each * _KILOBYTE <= 30_000,  # noqa: PLR2004 - the target of the table
        {"kib_each": each},
    )


def turns(bench: Bench, effort: Effort) -> Row:
    """Compares the time to the first event of a turn on an open socket with that of a POST on an open connection."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(_turns(bench.targets["ours"], effort.latency_s))
    half = {name: 1000 * statistics.median(values) for name, values in found.items()}
    return Row(
        "time to first event, POST and a turn",
        {name: f"{value:.2f} ms" for name, value in half.items()},
        "",
        f"{half['turn'] - half['post']:+.2f} ms",
        None,
        {"median_ms": half},
    )


def _socket(target: Target) -> Any:
    headers = {"authorization": f"Bearer {target.key}"}
    url = target.url().replace("http", "ws", 1)
    return connect(url, additional_headers=headers, compression=None, proxy=None, ping_interval=None)


async def _idle(target: Target) -> float:
    async with contextlib.AsyncExitStack() as stack:

        async def opened() -> None:
            await stack.enter_async_context(_socket(target))

        await asyncio.gather(*(opened() for _ in range(_AT_ONCE)))  # what the first ones cost once
        await asyncio.sleep(_SETTLED_S)
        before = target.process.rss_bytes()
        for _ in range(_SOCKETS // _AT_ONCE):
            await asyncio.gather(*(opened() for _ in range(_AT_ONCE)))
        await asyncio.sleep(_SETTLED_S)
        return (target.process.rss_bytes() - before) / _SOCKETS


async def _turns(target: Target, seconds: float) -> dict[str, list[float]]:
    body = json.loads(request_body("stream", stream=True))
    message = json.dumps({"type": "response.create", **body})
    found: dict[str, list[float]] = {"post": [], "turn": []}
    headers = {"authorization": f"Bearer {target.key}"}
    async with _socket(target) as socket, httpx.AsyncClient(headers=headers) as client:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            found["post"].append(await _post(client, target.url(), body))
            await asyncio.sleep(_PAUSE_S)
            found["turn"].append(await _turn(socket, message))
            await asyncio.sleep(_PAUSE_S)
    return found


async def _post(client: httpx.AsyncClient, url: str, body: Any) -> float:
    began_s, first_s = time.perf_counter(), 0.0
    async with client.stream("POST", url, json=body) as answer:
        async for _ in answer.aiter_raw():
            first_s = first_s or time.perf_counter()
    return first_s - began_s


async def _turn(socket: ClientConnection, message: str) -> float:
    began_s, first_s = time.perf_counter(), 0.0
    await socket.send(message)
    while True:
        event = await socket.recv(decode=False)
        first_s = first_s or time.perf_counter()
        if b'"response.completed"' in event:
            return first_s - began_s
        if b'"type":"error"' in event:
            raise RuntimeError(event.decode())
