"""A soak test: clients and upstreams that end in every way, concurrently and repeatedly, leave nothing behind.

It is short within the suite. `make chaos` runs it for GATEWAY_SOAK_S, ten minutes by default.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support.gateway import NewKey, RunningGateway, running_gateway, simulator
from tests.support.servers import Server
from tests.support.waiting import wait_until

SHORT_S: Final = 6.0
LONG_S: Final = 600.0
CLIENTS: Final = 24
GROWTH_BYTES: Final = 24 * 1024 * 1024  # over the state after the first third: only caches may still fill
MODELS: Final = (
    "plain",
    "sim/tokens-50",
    "sim/slow-5+tokens-20",
    "sim/stall-3",
    "sim/stall-head",
    "sim/cut-3",
    "sim/end-3",
    "sim/error-event",
    "sim/error-429",
    "sim/error-500",
    "sim/error-401",
    "sim/error-200",
    "sim/html",
    "sim/bad-json",
    "sim/after-done",
    "sim/no-usage",
    "sim/failed",
    "sim/big-512",
)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize(
    "duration_s",
    [
        pytest.param(SHORT_S, id="short"),
        pytest.param(
            float(os.environ.get("GATEWAY_SOAK_S", LONG_S)),
            id="long",
            marks=[pytest.mark.chaos, pytest.mark.timeout(0)],
        ),
    ],
)
async def test_mixed_endings_leave_nothing_behind(store: Server, tmp_path: Path, duration_s: float) -> None:
    with simulator() as upstream:
        patience = {
            "first_byte_timeout_s": 0.3,
            "chunk_timeout_s": 0.3,
            "breaker_failures": 1_000_000,
            "key_rest_s": 0.001,
        }
        with running_gateway(store.url, upstream, tmp_path, upstream=patience) as gateway:
            key = gateway.new_key(credits_usd="10000", key_limits={"concurrency": CLIENTS})
            await soak(gateway, key, duration_s / 3)
            before = resident_bytes()
            await soak(gateway, key, 2 * duration_s / 3)
            assert resident_bytes() - before < GROWTH_BYTES
            await nothing_is_left(gateway, key)


async def soak(gateway: RunningGateway, key: NewKey, duration_s: float) -> None:
    """Runs clients of each kind until the time is over, and there were some answers."""
    until = time.monotonic() + duration_s
    draw = random.Random(7)  # noqa: S311 - which ending comes next is no secret
    answers = [0]
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as http, asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(_client(http, key, draw, until, answers))


async def _client(http: httpx.AsyncClient, key: NewKey, draw: random.Random, until: float, answers: list[int]) -> None:
    while time.monotonic() < until or answers[0] <= CLIENTS:
        # Not stored, because the simulator runs in this process and its memory would count as the gateway's.
        body = {"model": draw.choice(MODELS), "input": "hello", "stream": draw.random() < 0.7, "store": False}
        headers = {"authorization": f"Bearer {key.text}"}
        patience_s = draw.choice((0.02, 0.1, 5.0, 5.0))
        try:
            async with asyncio.timeout(patience_s):
                async with http.stream("POST", "/v1/responses", json=body, headers=headers) as answer:
                    async for _ in answer.aiter_bytes():
                        pass
                    assert answer.status_code in (200, 401, 408, 429, 500, 502, 503), answer.status_code
                answers[0] += 1
        except (TimeoutError, httpx.HTTPError):
            continue  # the client has left


async def nothing_is_left(gateway: RunningGateway, key: NewKey) -> None:
    """Checks that no hold, slot, task, connection or counter of an ended request is left."""
    services = gateway.services
    transports = [upstream.transport for upstream in services.handler.snapshot.upstreams.values()]
    await wait_until(lambda: services.ledger.open_holds == 0 and not services.handler.running, what="no request runs")
    await wait_until(lambda: all(one.open_connections == one.idle_connections for one in transports))

    async def look() -> tuple[int, int]:
        view = await services.accounts.view(key.team, key.id)
        return view.balance.held, view.key["used_open"]

    assert gateway.run(look()) == (0, 0)
    balance = gateway.balance(key)
    assert balance.granted == balance.available + balance.spent

    async def requests_tasks() -> list[str]:
        names = [str(task.get_coro()) for task in asyncio.all_tasks() if not task.done()]
        return [name for name in names if "run_asgi" in name or "Relay" in name]

    await wait_until(lambda: not gateway.run(requests_tasks()), what="no task of a request is left")


def resident_bytes() -> int:
    """The memory of this process: the gateway, the simulator and the clients."""
    gc.collect()
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
