"""Real gateway processes on a store, and clients that load them.

with gateway_process(store_url, upstream_url, directory, workers=2) as gateway:
    gateway.url, .workers (their process ids), .program.stop(...), .program.kill()
answers = await load(gateway.url, secret, body, clients=8, until=event)      every answer's end, as its client saw it
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from tests.support.ports import free_port
from tests.support.program import Program, is_alive, started

READY = '"event": "ready"'  # what a worker logs when it may serve
UPSTREAM_KEY = "upstream-key-of-the-tests"
CONFIG = """
[server]
host = "127.0.0.1"
port = {port}
workers = {workers}
drain_timeout_s = 1.0
shutdown_delay_s = 0
[store]
url = "{store_url}"
data_dir = "data"
breaker_open_s = 0.1
accept_data_loss = true
[ledger]
hold_ttl_s = {hold_ttl_s}
[log]
format = "json"
[upstreams.simulator]
base_url = "{upstream_url}"
api_keys = ["env:TEST_UPSTREAM_KEY"]
breaker_failures = 1000000
[[routes]]
model = "*"
upstreams = ["simulator"]
{route}
[prices."*"]
input = "1"
cached_input = "0.1"
output = "10"
"""
INPUT_NANO_USD, OUTPUT_NANO_USD = 1000, 10_000  # a token, by these prices


@dataclass
class GatewayProcess:
    """A gateway that serves as processes of its own."""

    url: str
    program: Program

    @property
    def run(self) -> str:
        """The supervisor's name for this run, as its workers have it in their environment, unless they are forks."""
        [pid, *_] = self.workers
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return next(word.partition(b"=")[2].decode() for word in words if word.startswith(b"GATEWAY_RUN="))

    @property
    def workers(self) -> list[int]:
        """The worker processes; empty where the one process is the worker."""
        return workers_of(self.program.process.pid)

    def worker_of(self, client_port: int) -> int:
        """The worker that serves a client's connection: the kernel chooses which one takes it."""
        port = urlsplit(self.url).port
        rows = [row.split() for row in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
        [inode] = [row[9] for row in rows if (_port(row[1]), _port(row[2])) == (port, client_port)]
        return next(pid for pid in self.workers if f"socket:[{inode}]" in _open_files(pid))


def workers_of(supervisor: int) -> list[int]:
    """Returns the worker processes of a gateway that runs as this process."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text(encoding="ascii").split()
    return [int(child) for child in children if is_alive(int(child)) and _is_worker(int(child))]


def _port(address: str) -> int:
    """The port of an address in /proc/net/tcp."""
    return int(address.partition(":")[2], 16)


def _open_files(pid: int) -> set[str]:
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it has been closed meanwhile
            found.add(str(file.readlink()))
    return found


def _is_worker(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"spawn_main" in words or b"fork_server" in words  # of its own, or a fork


@contextlib.contextmanager
def gateway_process(
    store_url: str,
    upstream_url: str,
    directory: Path,
    *,
    workers: int = 1,
    hold_ttl_s: float = 15.0,
    route: str = "",
    is_fork: bool = True,
    **settings: str,
) -> Iterator[GatewayProcess]:
    """`gateway serve`, every worker ready; `settings` as in `ledger__lease_s="1"`, `route` as in `state = "gateway"`.

    Started again in the same directory, it finds what the last one left. `is_fork`: program.py.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = directory / "gateway.toml"
    config.write_text(
        CONFIG.format(
            port=port,
            workers=workers,
            store_url=store_url,
            upstream_url=upstream_url,
            hold_ttl_s=hold_ttl_s,
            route=route,
        ),
        encoding="utf-8",
    )
    env = {"TEST_UPSTREAM_KEY": UPSTREAM_KEY} | {f"GATEWAY_{name.upper()}": value for name, value in settings.items()}
    with started("serve", "--config", str(config), cwd=directory, env=env, is_fork=is_fork) as program:
        program.wait_for(READY, count=workers)
        yield GatewayProcess(f"http://127.0.0.1:{port}", program)


@dataclass(frozen=True)
class ReceivedAnswer:
    """An answer as its client saw it. `whole`: the stream came to its own end; `cost` is what its usage costs."""

    status: int
    request_id: str
    whole: bool
    cost_nano_usd: int


async def ask_once(client: httpx.AsyncClient, body: Mapping[str, Any]) -> ReceivedAnswer:
    """One request, read to whatever end it has."""
    status, request_id, usage = 0, "", None
    whole = False
    try:
        async with client.stream("POST", "/v1/responses", json=body) as answer:
            status, request_id = answer.status_code, answer.headers.get("x-request-id", "")
            async for line in answer.aiter_lines():
                if line.startswith('data: {"type":"response.completed"') or '"response.completed"' in line[:60]:
                    usage = _usage(line)
                whole = whole or (line == "data: [DONE]" and usage is not None)
    except httpx.HTTPError:
        whole = False
    cost = 0 if usage is None else usage["input_tokens"] * INPUT_NANO_USD + usage["output_tokens"] * OUTPUT_NANO_USD
    return ReceivedAnswer(status, request_id, whole, cost)


def _usage(line: str) -> dict[str, int] | None:
    if not line.startswith("data: "):
        return None
    usage: dict[str, int] = orjson.loads(line[6:])["response"]["usage"]
    return usage


async def load(
    url: str, secret: str, body: Mapping[str, Any], *, clients: int, until: asyncio.Event, seen: list[ReceivedAnswer]
) -> None:
    """`clients` that ask again and again, until the event is set; a refused one waits a little. Fills `seen`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    headers = {"authorization": f"Bearer {secret}"}

    async def one(client: httpx.AsyncClient) -> None:
        while not until.is_set():
            answer = await ask_once(client, body)
            seen.append(answer)
            if answer.status != 200:
                await asyncio.sleep(0.02)  # who is refused waits a little: nothing tells when there is room

    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20, limits=limits) as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))
