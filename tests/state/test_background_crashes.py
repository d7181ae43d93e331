"""Background responses of processes that are killed or stopped: found, failed, never run twice, settled exactly."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.accounts.entities import Changes
from gateway.ledger.verification import verify
from tests.support.gateway import simulator
from tests.support.ledgers import LedgerParts, open_ledger, read_books
from tests.support.processes import GatewayProcess, gateway_process
from tests.support.sent import Sent
from tests.support.servers import Server, durable_valkey_server
from tests.support.waiting import wait_until, wait_until_found

pytestmark = pytest.mark.timeout(150)  # processes start slowly where tests share a machine

SLOW = {"model": "sim/tokens-100000+slow-10", "max_output_tokens": 100_000, "background": True}
SHORT = {"model": "sim/tokens-60+slow-10", "max_output_tokens": 100, "background": True}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with durable_valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    """One that no other test makes forget what it has received."""
    with simulator() as url:
        yield url


@pytest.fixture
async def parts(server: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(server.url, tmp_path / "ledger") as parts:
        yield parts


@pytest.fixture
def pair(server: Server, upstream: str, tmp_path: Path) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    """Two gateways, as on two machines, that share a store."""
    options: dict[str, Any] = {"route": 'state = "gateway"', "state__background_lease_s": "3"}
    with (
        gateway_process(server.url, upstream, tmp_path / "one", **options) as one,
        gateway_process(server.url, upstream, tmp_path / "two", **options) as two,
    ):
        yield one, two


class Customer:
    """A team with a client of each gateway."""

    def __init__(self, parts: LedgerParts, team_id: str, clients: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> None:
        self.parts = parts
        self.team_id = team_id
        self.one, self.two = clients

    async def ask(self, client: httpx.AsyncClient, body: dict[str, Any], text: str) -> str:
        """Returns the id of a queued response. Of a stream it reads the first event, and leaves."""
        async with client.stream("POST", "/v1/responses", json={**body, "input": text}) as got:
            assert got.status_code == 200
            line = await anext(line async for line in got.aiter_lines() if "{" in line)
        shown = json.loads(line.removeprefix("data: "))
        identifier: str = shown["response"]["id"] if "response" in shown else shown["id"]
        return identifier

    async def state(self, identifier: str) -> str:
        status: str = (await self.two.get(f"/v1/responses/{identifier}")).json()["status"]
        return status

    async def reaches(self, identifiers: list[str], status: str) -> None:
        async def reached() -> bool:
            states = await asyncio.gather(*map(self.state, identifiers))
            return set(states) == {status}

        await wait_until_found(reached, what=f"all are {status}")

    async def check_books(self) -> None:
        async def nothing_held() -> bool:
            return not (await read_books(self.parts.store, self.team_id)).holds

        await wait_until_found(nothing_held, what="nothing is held")
        assert (await verify(self.parts.store, self.team_id)).differences == ()
        (await read_books(self.parts.store, self.team_id)).check()


@pytest.fixture
async def customer(parts: LedgerParts, pair: tuple[GatewayProcess, GatewayProcess]) -> AsyncIterator[Customer]:
    team = await parts.accounts.create_team(Changes(name=f"team-{os.urandom(8).hex()}"))
    await parts.accounts.move_credits(team, "grant", 10**13)
    _, secret = await parts.accounts.create_key(team, Changes(name="test"))
    headers = {"authorization": f"Bearer {secret}"}
    async with (
        httpx.AsyncClient(base_url=pair[0].url, headers=headers, timeout=20) as one,
        httpx.AsyncClient(base_url=pair[1].url, headers=headers, timeout=20) as two,
    ):
        yield Customer(parts, team.id, (one, two))


@pytest.mark.parametrize("busy", [True, False], ids=["the other one has some too", "the other one has none"])
async def test_what_a_killed_worker_ran_fails_and_is_not_run_again(
    pair: tuple[GatewayProcess, GatewayProcess], customer: Customer, upstream: str, busy: bool
) -> None:
    marks = [os.urandom(8).hex() for _ in range(4)]
    kinds: list[dict[str, Any]] = [{}, {"stream": True}, {"store": False}]
    lost = [await customer.ask(customer.one, {**SLOW, **kind}, mark) for kind, mark in zip(kinds, marks, strict=False)]
    others = [await customer.ask(customer.two, SHORT, marks[3])] if busy else []
    await customer.reaches(lost, "in_progress")
    sent = Sent(upstream)
    await wait_until(lambda: all(sent.count(mark.encode()) for mark in marks[:3]), what="the provider has all of them")
    pair[0].program.kill()
    await customer.reaches(lost, "failed")
    await customer.reaches(others, "completed") if others else None
    for identifier in lost:
        got = (await customer.two.get(f"/v1/responses/{identifier}")).json()
        assert got["error"]["code"] == "server_error"
        again = await customer.two.post(f"/v1/responses/{identifier}/cancel")
        assert again.json() == got
        events = (await customer.two.get(f"/v1/responses/{identifier}?stream=true")).text
        assert events.endswith("data: [DONE]\n\n")
        assert '"type":"response.failed"' in events
    await customer.check_books()
    assert [sent.count(mark.encode()) for mark in marks[:3]] == [1, 1, 1]


async def test_a_worker_that_slept_through_its_lease_changes_nothing_any_more(
    pair: tuple[GatewayProcess, GatewayProcess], customer: Customer
) -> None:
    kept = await customer.ask(customer.two, SLOW, "keeps the team's rounds going")
    identifier = await customer.ask(customer.one, {**SHORT, "stream": False}, "slept")
    await customer.reaches([identifier], "in_progress")
    pair[0].program.process.send_signal(signal.SIGSTOP)
    try:
        await customer.reaches([identifier], "failed")
    finally:
        pair[0].program.process.send_signal(signal.SIGCONT)
    assert (await customer.two.post(f"/v1/responses/{kept}/cancel")).json()["status"] == "cancelled"
    await customer.check_books()
    assert await customer.state(identifier) == "failed"
