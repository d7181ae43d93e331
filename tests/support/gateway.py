"""A real gateway on a real socket, and a real simulator as its upstream.

    with simulator() as upstream:                       its base URL, ".../v1"
        with running_gateway(store_url, upstream) as gateway:
            key = gateway.new_key(credits_usd="1", limits={"rpm": 60})
            gateway.url, gateway.sdk(key), gateway.run(coroutine)

Each server is uvicorn in a thread with its own event loop, so that synchronous clients can be used. Sections of the
settings are given as keywords: `server={"total_timeout_s": 1}`. `upstream={...}` adds to the one upstream,
`route={...}` to its one route; None removes an entry.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

import httpx
import openai
import uvicorn

from gateway.accounts.accounts import Balance, Changes, Team
from gateway.app import Gateway, build_app
from gateway.billing.money import parse_usd
from gateway.config.settings import Settings
from gateway.http.connection import ClientConnection
from gateway.observability.request_log import configure_logging
from gateway.server import server_config
from gateway.simulator import build_simulator
from gateway.worker.services import Services
from tests.support.log_scan import ScannedLog
from tests.support.waiting import wait_until_sync

T = TypeVar("T")
StartGateway = Callable[..., contextlib.AbstractContextManager["RunningGateway"]]

ADMIN_KEY = "admin-key-of-the-tests-with-32-characters"
UPSTREAM_KEY = "upstream-key-of-the-tests"


class PromptServer(uvicorn.Server):
    """uvicorn's server, which ends as soon as it is told to: it looks every 0.1 s, and tests start thousands."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def end(self) -> None:
        """Tells it to end. From any thread."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told.set)

    async def main_loop(self) -> None:
        """Serves until it is told to end."""
        self._loop, ticks = asyncio.get_running_loop(), 0
        while not await self.on_tick(ticks):
            ticks += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no more connections, and waits for those that it has; those that stay are cancelled."""
        del sockets
        for server in self.servers:
            server.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while state.connections or state.tasks:  # noqa: ASYNC110 - uvicorn tells nobody
                    await asyncio.sleep(0.005)
        for task in state.tasks:
            task.cancel()
        await self.lifespan.shutdown()


class ServerThread:
    """uvicorn in a thread. `url` is known once it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._server = PromptServer(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> str:
        self._thread.start()
        wait_until_sync(lambda: self._server.started or not self._thread.is_alive(), what="the server starts")
        assert self._server.started, "the server did not start"
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    @property
    def connections(self) -> int:
        """The number of client connections that the server has."""
        return len(self._server.server_state.connections)

    def shrink_send_buffers(self) -> None:
        """Connections that are accepted from now on take little of an answer that their client does not read."""
        for listening in self._server.servers[0].sockets:
            with socket.socket(fileno=os.dup(listening.fileno())) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)

    async def unverified_bytes(self) -> int:
        """The bytes that its connections hold and no key vouches for. On its loop."""
        connections = self._server.server_state.connections
        return sum(cast("ClientConnection", one).unverified_bytes() for one in connections)

    def stop(self) -> None:
        self._server.end()
        self._thread.join(timeout=100)
        assert not self._thread.is_alive(), "the server did not stop"


@contextlib.contextmanager
def simulator(*, post_only: bool = False) -> Iterator[str]:
    """Runs a simulator. Yields its base URL."""
    config = uvicorn.Config(
        build_simulator(post_only=post_only),
        port=0,
        log_level="critical",
        lifespan="off",
        timeout_graceful_shutdown=1,
        ws="websockets-sansio",
    )
    server = ServerThread(config)
    try:
        yield server.start() + "/v1"
    finally:
        server.stop()


@dataclass
class NewKey:
    """A key created for a test, with its team."""

    text: str
    id: str
    team: Team


@dataclass
class RunningGateway:
    """A gateway that serves. `services` may only be used on its loop: `run`. Its log is scanned for secrets."""

    url: str
    services: Services
    loop: asyncio.AbstractEventLoop
    server: ServerThread
    log: ScannedLog

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=30)

    def new_key(
        self,
        *,
        credits_usd: str = "100",
        limits: Mapping[str, int] | None = None,
        key_limits: Mapping[str, int] | None = None,
        models: tuple[str, ...] = (),
        key_models: tuple[str, ...] = (),
        operations: tuple[str, ...] = (),
        key_operations: tuple[str, ...] = (),
        metered: bool = True,
        cut_at_cap: bool | None = None,
    ) -> NewKey:
        """Creates a team with credits and limits, and a key of it."""

        async def make() -> NewKey:
            accounts = self.services.accounts
            name = f"team-{uuid.uuid4().hex[:12]}"
            changes = Changes(name=name, limits=limits or {}, models=models, operations=operations, metered=metered)
            team = await accounts.create_team(changes)
            if parse_usd(credits_usd):
                await accounts.move_credits(team, "grant", parse_usd(credits_usd))
            changes = Changes(
                name="test",
                limits=key_limits or {},
                models=key_models,
                operations=key_operations,
                cut_at_cap=cut_at_cap,
            )
            key, text = await accounts.create_key(team, changes)
            self.log.add(text)
            return NewKey(text, key.id, team)

        return self.run(make())

    def revoke(self, key: NewKey) -> None:
        """Takes a key away for good."""

        async def change() -> None:
            accounts = self.services.accounts
            await accounts.update_key(key.team, await accounts.key(key.team, key.id), Changes(status="revoked"))

        self.run(change())

    def balance(self, key: NewKey) -> Balance:
        """Returns a team's present balance."""

        async def look() -> Balance:
            return (await self.services.accounts.view(key.team)).balance

        return self.run(look())

    def wait_until_settled(self) -> None:
        """Waits until each request of this gateway is settled: its client has the answer before that."""

        async def look() -> bool:
            return not self.services.handler.running and self.services.ledger.is_settled

        wait_until_sync(lambda: self.run(look()), what="all requests are settled")

    def settled_balance(self, key: NewKey) -> Balance:
        """Returns a team's balance once all of its requests are settled, in whichever gateway they were."""
        self.wait_until_settled()
        wait_until_sync(lambda: self.balance(key).held == 0, what="nothing of the team's is held")
        return self.balance(key)

    def sdk(self, key: NewKey | str, **options: Any) -> openai.OpenAI:
        """The official SDK, pointed here; it does not retry unless told so."""
        text = key if isinstance(key, str) else key.text
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=text, **{"max_retries": 0, **options})

    def async_sdk(self, key: NewKey | str, **options: Any) -> openai.AsyncOpenAI:
        """The official asynchronous SDK, pointed here; it does not retry unless told so."""
        text = key if isinstance(key, str) else key.text
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=text, **{"max_retries": 0, **options})

    def http(self, key: NewKey | str | None = None) -> httpx.Client:
        """A plain HTTP client with the key in its header."""
        text = key.text if isinstance(key, NewKey) else key
        headers = {"authorization": f"Bearer {text}"} if text else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20)


def gateway_settings(store_url: str, upstream_url: str, data_dir: Path, **sections: Any) -> Settings:
    """Settings for one upstream and one route to it for every model."""
    os.environ["TEST_UPSTREAM_KEY"] = UPSTREAM_KEY
    os.environ["TEST_ADMIN_KEY"] = ADMIN_KEY
    upstream = {
        "base_url": upstream_url,
        "api_keys": ["env:TEST_UPSTREAM_KEY"],
        **sections.pop("upstream", {}),
    }
    route = {"model": "*", "upstreams": ["simulator"], **sections.pop("route", {})}
    if route.get("state") != "gateway":  # there it says which responses are found
        route = {"foreign_ids": "pass", **route}
    values: dict[str, Any] = {
        "server": {"port": 0, "drain_timeout_s": 5},
        "store": {"url": store_url, "data_dir": str(data_dir)},
        "admin": {"key": "env:TEST_ADMIN_KEY"},
        "log": {"format": "json", "level": "info"},
        "upstreams": {"simulator": upstream},
        "routes": [route],
        # The model's maximum is what is held for a request without a bound, and so none is added to its body.
        "prices": {"*": {"input": "1", "cached_input": "0.1", "output": "10", "max_output_tokens": 4096}},
    }
    for name, section in sections.items():
        merged = {**values[name], **section} if isinstance(values.get(name), dict) else section
        values[name] = {k: v for k, v in merged.items() if v is not None} if isinstance(merged, dict) else merged
    return Settings(**values)


@contextlib.contextmanager
def running_gateway(
    store_url: str,
    upstream_url: str,
    data_dir: Path,
    *,
    log_to: TextIO | None = None,
    load: Callable[[], Settings] | None = None,
    until_ready: bool = True,
    **sections: Any,
) -> Iterator[RunningGateway]:
    """Runs a gateway in a thread, by default from when it is ready. `load` returns the settings that a reload reads.

    Its log is written to `log_to`; without it, errors are written to standard error. It must not contain a secret.
    """
    log = ScannedLog(log_to or sys.stderr, (UPSTREAM_KEY, ADMIN_KEY), quiet=log_to is None)
    settings = gateway_settings(store_url, upstream_url, data_dir, **sections)
    request_log = configure_logging(settings.log, cast("TextIO", log))
    app: Gateway = build_app(settings, request_log, load=load)
    server = ServerThread(server_config(app.settings, app))
    try:
        url = server.start()
        services = app.services
        assert services is not None
        gateway = RunningGateway(url, services, services.loop, server, log)
        wait_until_sync(lambda: services.ready or not until_ready, what="the gateway is ready")
        yield gateway
    finally:
        server.stop()
    assert log.leaks == [], "a secret is in the log"
