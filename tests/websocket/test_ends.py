"""How sockets and their turns end: a revoked key, a stop, a worker that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gateway.accounts.entities import Changes
from gateway.ledger.verification import verify
from tests.support.gateway import NewKey, RunningGateway
from tests.support.ledgers import LedgerParts, open_ledger, read_books
from tests.support.processes import gateway_process
from tests.support.servers import Server, durable_valkey_server
from tests.support.waiting import wait_until_found
from tests.support.websocket_client import Socket
from tests.websocket.conftest import Log
from tests.websocket.test_turns import ECHO

LONG = {"model": "sim/tokens-5000+slow-10", "input": "hello", "max_output_tokens": 10_000}
SHORT = {"model": "sim/tokens-60+slow-20", "input": "hello", "max_output_tokens": 100}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with durable_valkey_server() as server:
        yield server


@pytest.fixture
async def parts(server: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(server.url, tmp_path / "ledger") as parts:
        yield parts


async def customer(parts: LedgerParts) -> tuple[str, str]:
    """A team's id, and a key of it."""
    team = await parts.accounts.create_team(Changes(name=f"team-{os.urandom(8).hex()}"))
    await parts.accounts.move_credits(team, "grant", 10**12)
    return team.id, await parts.another_secret(team.id)


async def events(socket: ClientConnection, until: str) -> list[str]:
    """The types of what comes, to an event of this type, or to the end of the socket."""
    found: list[str] = []
    with contextlib.suppress(ConnectionClosed):
        while until not in found:
            found.append(json.loads(await socket.recv())["type"])
    return found


def test_a_revoked_keys_next_turn_is_refused_and_the_socket_is_closed(gateway: RunningGateway, key: NewKey) -> None:
    with Socket(gateway.url, key.text) as socket:
        assert socket.turn(ECHO)[0] == 200
        gateway.revoke(key)
        status, event = socket.turn(ECHO)
        assert (status, event["error"]["code"]) == (401, "invalid_api_key")
        assert socket.closed()[0] == 1008


def test_a_running_turn_of_a_revoked_key_ends_before_the_socket_does(
    gateway: RunningGateway, key: NewKey, log: Log
) -> None:
    with Socket(gateway.url, key.text) as socket:
        socket.create(model="sim/tokens-20+slow-50", input="x", stream_id="runs")
        assert socket.receive()["type"] == "response.created"
        gateway.revoke(key)
        socket.create(**ECHO, stream_id="late")
        seen: set[str] = set()
        while seen != {"error", "response.completed"}:
            seen |= {socket.receive()["type"]} & {"error", "response.completed"}
        assert socket.closed()[0] == 1008


async def test_a_stop_closes_idle_sockets_at_once_and_others_with_their_turn(
    server: Server, upstream: str, parts: LedgerParts, tmp_path: Path
) -> None:
    team, secret = await customer(parts)
    headers = {"authorization": f"Bearer {secret}"}
    with gateway_process(server.url, upstream, tmp_path / "stops", server__drain_timeout_s="20") as gateway:
        url = gateway.url.replace("http", "ws") + "/v1/responses"
        async with (
            connect(url, additional_headers=headers) as idle,
            connect(url, additional_headers=headers, max_queue=None) as busy,
        ):
            await busy.send(json.dumps({"type": "response.create", **SHORT}))
            await busy.recv()
            stopped = threading.Thread(target=gateway.program.stop, args=(signal.SIGTERM,))
            stopped.start()
            with pytest.raises(ConnectionClosed) as closed:
                await idle.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            assert (await events(busy, "response.completed"))[-1] == "response.completed"
            with pytest.raises(ConnectionClosed) as closed:
                await busy.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            await asyncio.to_thread(stopped.join)
    books = await read_books(parts.store, team)
    assert (len(books.entries("settle")), books.holds) == (1, set())


async def test_a_stop_that_does_not_wait_longer_ends_a_turn_with_closing_events(
    server: Server, upstream: str, parts: LedgerParts, tmp_path: Path
) -> None:
    team, secret = await customer(parts)
    with gateway_process(server.url, upstream, tmp_path / "stops") as gateway:
        url = gateway.url.replace("http", "ws") + "/v1/responses"
        async with connect(url, additional_headers={"authorization": f"Bearer {secret}"}, max_queue=None) as busy:
            await busy.send(json.dumps({"type": "response.create", **LONG}))
            await busy.recv()
            stopped = threading.Thread(target=gateway.program.stop, args=(signal.SIGTERM,))
            stopped.start()
            assert (await events(busy, "response.failed"))[-2:] == ["error", "response.failed"]
            with pytest.raises(ConnectionClosed) as closed:
                await busy.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            await asyncio.to_thread(stopped.join)
    books = await read_books(parts.store, team)
    assert (len(books.entries("settle")), books.holds) == (1, set())


async def test_a_worker_that_is_killed_in_its_turns_leaves_exact_books(
    server: Server, upstream: str, parts: LedgerParts, tmp_path: Path
) -> None:
    team, secret = await customer(parts)
    with gateway_process(
        server.url,
        upstream,
        tmp_path / "dies",
        workers=2,
        ledger__lease_s="1",
        upstreams__simulator__drain_timeout_s="1",
    ) as gateway:
        url = gateway.url.replace("http", "ws") + "/v1/responses"
        headers = {"authorization": f"Bearer {secret}"}
        # No bound of the client's own: one that stopped reading would wait 10 s for the end of its socket.
        sockets = [await connect(url, additional_headers=headers, max_queue=None) for _ in range(6)]
        for socket in sockets:
            await socket.send(json.dumps({"type": "response.create", **LONG}))
            assert json.loads(await socket.recv())["type"] == "response.created"
        assert len((await read_books(parts.store, team)).holds) == 6
        os.kill(gateway.worker_of(sockets[0].local_address[1]), signal.SIGKILL)

        async def held() -> int:
            return len((await read_books(parts.store, team)).holds)

        async def given_back() -> bool:
            return await held() < 6

        await wait_until_found(given_back, what="what the dead worker held is given back")
        for socket in sockets:
            await socket.close()

        async def nothing_held() -> bool:
            return not await held()

        await wait_until_found(nothing_held, what="nothing is held")
        again = await connect(url, additional_headers=headers)
        await again.send(json.dumps({"type": "response.create", **SHORT}))
        assert (await events(again, "response.completed"))[-1] == "response.completed"
        await again.close()

        async def seven() -> bool:
            books = await read_books(parts.store, team)
            ended = [*books.entries("settle"), *books.entries("expire")]
            return len([one for one in ended if not one.startswith("usage_")]) == 7  # corrections are no turns

        await wait_until_found(seven, what="each turn is in the journal once")
    assert (await verify(parts.store, team)).differences == ()
    books = await read_books(parts.store, team)
    books.check()
    assert len(books.entries("expire")) >= 1
