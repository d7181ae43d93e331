"""A request that is cancelled at any await of the request line leaves nothing held.

Each test runs one request again and again, and cancels it at its first suspension, its second, and so on to its end:
while it waits, and in the very turn of the loop in which what it waits for has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.accounts.entities import Changes, Team
from gateway.app import Gateway, build_app
from gateway.config.settings import Settings
from gateway.worker.services import Services
from tests.support.gateway import gateway_settings
from tests.support.ledgers import ask, open_ledger, read_books, voided
from tests.support.servers import Server, valkey_server
from tests.support.waiting import wait_until, wait_until_found

CREDIT = 10**9


class CancelAt:
    """Awaits a coroutine and cancels the task around it at its `at`-th suspension. `reached`: it got that far."""

    def __init__(self, work: Any, at: int, *, when_done: bool) -> None:
        self._work = work
        self._at = at
        self._when_done = when_done
        self.reached = False

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        step: Callable[[], Any] = lambda: self._work.send(None)  # noqa: E731 - changes at each turn
        for count in range(1_000_000):
            try:
                future = step()
            except StopIteration as stop:
                return stop.value
            if count == self._at:
                self.reached = True
                if self._when_done and future is not None:
                    future.add_done_callback(lambda _: task.cancel())  # ahead of the task's own callback
                else:
                    asyncio.get_running_loop().call_soon(task.cancel)
            try:
                sent = yield future
            except BaseException as error:  # noqa: BLE001 - a cancellation goes on into the coroutine
                caught = error
                step = lambda: self._work.throw(caught)  # noqa: E731, B023 - used before the loop turns
            else:
                step = lambda: self._work.send(sent)  # noqa: E731, B023 - the same
        raise AssertionError("it never ends")


class Client:
    """An ASGI client that stays: its body is there, it reads everything, and every call of it suspends."""

    def __init__(self, secret: str, body: dict[str, Any]) -> None:
        raw = orjson.dumps(body)
        headers = {
            b"authorization": f"Bearer {secret}".encode(),
            b"content-type": b"application/json",
            b"content-length": b"%d" % len(raw),
        }
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/responses",
            "raw_path": b"/v1/responses",
            "query_string": b"",
            "headers": list(headers.items()),
        }
        self._body = [raw]

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Any) -> None:
        await asyncio.sleep(0)


@pytest.fixture
async def gateway(store: Server, upstream: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    patient = {"breaker_failures": 1_000_000}  # or it would open, and end the walk early
    async with started(gateway_settings(store.url, upstream, tmp_path, upstream=patient)) as gateway:
        yield gateway


@contextlib.asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway on this loop, called as a server would call it."""
    gateway = build_app(settings)
    async with gateway.app.router.lifespan_context(gateway.app):
        await wait_until(lambda: services_of(gateway).ready)
        yield gateway


def services_of(gateway: Gateway) -> Services:
    assert gateway.services is not None
    return gateway.services


async def a_team(services: Services) -> tuple[Team, str]:
    team = await services.accounts.create_team(Changes(name=f"cancel-{os.urandom(8).hex()}"))
    await services.accounts.move_credits(team, "grant", CREDIT)
    _, secret = await services.accounts.create_key(team, Changes(name="test"))
    assert secret is not None
    return team, secret


@pytest.mark.parametrize("when_done", [False, True], ids=["while it waits", "as the wait ends"])
@pytest.mark.parametrize(
    "body",
    [
        {"model": "sim/tokens-3", "input": "hello", "stream": True},
        {"model": "sim/tokens-3", "input": "hello"},
        {"model": "sim/error-500", "input": "hello"},
        {"model": "sim/cut-2", "input": "hello", "stream": True},
    ],
    ids=["stream", "whole", "refused", "cut"],
)
async def test_a_request_cancelled_at_any_await_leaves_nothing_held(
    gateway: Gateway, body: dict[str, Any], when_done: bool
) -> None:
    services = services_of(gateway)
    team, secret = await a_team(services)
    at, reached = 0, True
    while reached:
        client = Client(secret, body)
        cancelling = CancelAt(gateway(client.scope, client.receive, client.send), at, when_done=when_done)
        request = asyncio.create_task(_ended(cancelling))
        await asyncio.wait_for(request, 20)
        reached = cancelling.reached
        at += 1
        assert services.ledger.open_holds == 0, f"cancelled at its await {at}"

        async def nothing_held() -> bool:
            return not (await read_books(services.store, team.id)).holds

        await wait_until_found(nothing_held, timeout_s=2, what=f"nothing is held after a cancellation at await {at}")

    assert at > 5, "there are more awaits than that in a request"
    (await read_books(services.store, team.id)).check()


async def test_an_admission_whose_reply_was_lost_is_voided_once_the_store_is_back(
    tmp_path: Path, upstream: str
) -> None:
    with valkey_server() as server:
        async with started(gateway_settings(server.url, upstream, tmp_path, store={"timeout_s": 0.2})) as gateway:
            services = services_of(gateway)
            team, secret = await a_team(services)
            server.pause()
            client = Client(secret, {"model": "m", "input": "hello"})
            await gateway(client.scope, client.receive, client.send)
            server.resume()  # it finds the admission in its socket, and carries it out
            await wait_until(lambda: services.store.available)

            async def voided() -> bool:
                return not (await read_books(services.store, team.id)).holds

            await wait_until_found(voided)
            (await read_books(services.store, team.id)).check()


async def test_a_cancelled_admission_is_undone_where_its_script_has_to_be_loaded_first(
    store: Server, tmp_path: Path
) -> None:
    async with open_ledger(store.url, tmp_path) as parts:
        key = await parts.new_key()
        hold = (await parts.ledger.admit(ask(key))).hold
        await parts.store.run("SCRIPT", "FLUSH", key="")
        await parts.ledger.settle(voided(hold))  # settle_v2 is there, admit_v8 is not
        admission = asyncio.ensure_future(parts.ledger.admit(ask(key)))
        await asyncio.sleep(0)
        admission.cancel()
        with pytest.raises(asyncio.CancelledError):
            await admission
        await parts.ledger.flush()
        assert not (await parts.books(key)).holds


async def _ended(work: Awaitable[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await work
