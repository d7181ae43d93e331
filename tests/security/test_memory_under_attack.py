"""The memory of a worker stays below its stated bound while strangers do their worst, whatever they send.

It is short within the suite. `make chaos` attacks for GATEWAY_ATTACK_S each, a minute by default.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.identity.api_keys import new_id, new_secret
from tests.support.gateway import simulator
from tests.support.processes import GatewayProcess, gateway_process
from tests.support.servers import Server
from tests.support.waiting import wait_until

SHORT_S: Final = 1.0
LONG_S: Final = 60.0
CONNECTIONS: Final = 300
MIB: Final = 1024 * 1024
UNVERIFIED_BYTES: Final = 64 * MIB  # server.max_unverified_bytes, by default
CONNECTION_BYTES: Final = 10 * 1024  # what SECURITY.md says of one connection
OTHER_BYTES: Final = 24 * MIB  # the allocator's and the caches' share of what a worker grows by
POST: Final = b"POST /v1/responses HTTP/1.1\r\nhost: gateway\r\n"


@dataclass(frozen=True)
class Attack:
    """What each connection sends once, and then again and again; whether it reads its answers."""

    again: Callable[[int], bytes]
    once: Callable[[], bytes] = bytes
    reads: bool = False


def unknown_key() -> bytes:
    """A key's field whose form is right, of no key that there is."""
    return b"authorization: Bearer %b\r\n" % new_secret(new_id(), new_id())[0].encode()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: gateway\r\n\r\n".encode()


ATTACKS: Final = {
    "unread refusals": Attack(lambda _: (POST + b"content-length: 0\r\n\r\n") * 500),
    "unread answers of other routes": Attack(lambda _: get("/healthz") * 500),
    "unread pages": Attack(lambda _: get("/dashboard/sign-in") * 100),
    "heads of many fields": Attack(lambda _: b"a:b\r\n" * 1000, lambda: b"GET / HTTP/1.1\r\n"),
    "heads that never end": Attack(lambda _: b"x" * 4096, lambda: b"GET / HTTP/1.1\r\nhost: a\r\nx: "),
    "heads that come slowly": Attack(lambda _: b"", lambda: b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"x" * 16_000),
    "large bodies": Attack(lambda _: b"x" * 65_536, lambda: POST + unknown_key() + b"content-length: 30000000\r\n\r\n"),
    "bodies in tiny chunks": Attack(
        lambda _: b"1\r\n[\r\n" * 10_000, lambda: POST + unknown_key() + b"transfer-encoding: chunked\r\n\r\n"
    ),
    "wrong keys": Attack(lambda _: POST + unknown_key() + b"content-length: 2\r\n\r\n{}", reads=True),
    "other paths": Attack(lambda number: get(f"/path-{number}?{number}"), reads=True),
    "other methods": Attack(lambda number: b"M%d / HTTP/1.1\r\nhost: gateway\r\n\r\n" % number, reads=True),
    "wrong operators' keys": Attack(
        lambda n: b"GET /admin/teams HTTP/1.1\r\nhost: a\r\nauthorization: Bearer wrong-%d\r\n\r\n" % n, reads=True
    ),
    "upgrades without a key": Attack(
        lambda _: (
            b"GET /v1/responses HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        ),
        reads=True,
    ),
    "what is no HTTP": Attack(lambda _: b"\x16\x03\x01\x02\x00" * 100, reads=True),
    "silence": Attack(lambda _: b""),
}


def resident_bytes(pid: int) -> int:
    """What the process holds in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def attacked(store: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with (
        simulator() as upstream,
        gateway_process(
            store.url,
            upstream,
            tmp_path_factory.mktemp("attacked"),
            is_fork=False,  # the memory that it begins with is its own
            admin__key="env:TEST_ADMIN_KEY",
        ) as gateway,
    ):
        yield gateway


async def attack(url: str, how: Attack, duration_s: float) -> int:
    """Attacks over many connections at once, each opened again when it ends. Returns how often something was sent.

    It takes longer where the machine is busy: most connections have then sent something.
    """
    numbers, sent = itertools.count(), 0
    where = urlsplit(url)

    async def one() -> None:
        nonlocal sent
        reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=4096)
        try:
            writer.write(how.once())
            while True:
                writer.write(how.again(next(numbers)))
                await writer.drain()
                sent += 1
                if how.reads:
                    await reader.read(4096)
                else:
                    await asyncio.sleep(0.01)  # so that all connections get their turn
                if reader.at_eof():
                    return
        finally:
            writer.transport.abort()

    async def again_and_again() -> None:
        while True:
            with contextlib.suppress(OSError):
                await one()

    attacking = asyncio.gather(*(again_and_again() for _ in range(CONNECTIONS)))
    try:
        await asyncio.sleep(duration_s)  # the attack itself
        await wait_until(lambda: sent > CONNECTIONS // 2, what="most of them have sent something")
    finally:
        attacking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await attacking
    return sent


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize(
    "duration_s",
    [
        pytest.param(SHORT_S, id="short"),
        pytest.param(
            float(os.environ.get("GATEWAY_ATTACK_S", LONG_S)),
            id="long",
            marks=[pytest.mark.chaos, pytest.mark.timeout(0)],
        ),
    ],
)
@pytest.mark.parametrize("name", ATTACKS)
async def test_the_memory_of_a_worker_stays_below_its_bound(
    attacked: GatewayProcess, name: str, duration_s: float
) -> None:
    pid = attacked.program.process.pid
    before = resident_bytes(pid)
    most, done = before, asyncio.Event()

    async def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, resident_bytes(pid))
            await asyncio.sleep(0.05)  # the memory is looked at in intervals: nothing tells when it grows

    watching = asyncio.create_task(watch())
    sent = await attack(attacked.url, ATTACKS[name], duration_s)
    done.set()
    await watching
    bound = UNVERIFIED_BYTES + CONNECTIONS * CONNECTION_BYTES + OTHER_BYTES
    figures = f"{name}: {(most - before) / MIB:.1f} MiB of {bound / MIB:.1f} in {duration_s:g} s, {sent} sends"
    sys.stdout.write(f"{figures}\n")  # pytest -rP shows it
    assert most - before < bound, figures
    async with httpx.AsyncClient(timeout=20) as http:
        assert (await http.get(f"{attacked.url}/healthz")).status_code == 200
