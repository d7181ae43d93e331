"""What a thousand sockets take on which nothing happens, in a process of their own."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.support.ledgers import new_secret
from tests.support.processes import gateway_process
from tests.support.servers import Server

SOCKETS, AT_ONCE = 1000, 50
MAX_BYTES_EACH = 30_000


@pytest.fixture
def files() -> Iterator[None]:
    """Enough open files for this process and for the gateway that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * SOCKETS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may open {hard} files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.usefixtures("files")
@pytest.mark.timeout(150)  # a process starts slowly where tests share a machine
async def test_an_idle_socket_takes_little_memory(store: Server, upstream: str, tmp_path: Path) -> None:
    secret = await asyncio.to_thread(new_secret, store.url, tmp_path / "ledger")
    settings: dict[str, Any] = {"websocket__max_per_key": str(2 * SOCKETS)}
    headers = {"authorization": f"Bearer {secret}"}
    with gateway_process(store.url, upstream, tmp_path, is_fork=False, **settings) as gateway:
        url, pid = gateway.url.replace("http", "ws", 1) + "/v1/responses", gateway.program.process.pid
        async with contextlib.AsyncExitStack() as stack:

            async def opened(number: int) -> None:
                for _ in range(number // AT_ONCE):
                    some = [
                        connect(url, additional_headers=headers, compression=None, proxy=None, open_timeout=60)
                        for _ in range(AT_ONCE)
                    ]
                    await asyncio.gather(*map(stack.enter_async_context, some))

            await opened(2 * AT_ONCE)  # what the first ones cost once
            before = resident_bytes(pid)
            await opened(SOCKETS)
            each = (resident_bytes(pid) - before) / SOCKETS
    assert each <= MAX_BYTES_EACH, f"{each:.0f} bytes each"
