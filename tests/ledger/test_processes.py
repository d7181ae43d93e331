"""Real processes at each exact limit, killed in mid-stream, drained, on a store that hangs and dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.accounts.entities import Changes, Team
from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey, parse_api_key
from gateway.ledger.verification import verify
from tests.support.ledgers import Books, LedgerParts, ask, kept_up, open_ledger, read_books, voided
from tests.support.processes import READY, GatewayProcess, ReceivedAnswer, ask_once, gateway_process, load
from tests.support.servers import Server, durable_valkey_server
from tests.support.waiting import wait_until, wait_until_found

pytestmark = pytest.mark.timeout(150)  # processes start slowly where tests share a machine

STREAM = {"model": "sim/tokens-60+slow-10", "input": "hello", "stream": True, "max_output_tokens": 100}
LONG = {"model": "sim/tokens-5000+slow-10", "input": "hello", "stream": True, "max_output_tokens": 10_000}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with durable_valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def pair(
    server: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    """Two gateways, as on two machines, that share a store."""
    directory = tmp_path_factory.mktemp("pair")
    with (
        gateway_process(server.url, upstream, directory / "one") as one,
        gateway_process(server.url, upstream, directory / "two") as two,
    ):
        yield one, two


@pytest.fixture
async def parts(server: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(server.url, tmp_path / "ledger") as parts:
        yield parts


@dataclass
class Customer:
    """A team with a key, and its records."""

    parts: LedgerParts
    team: Team
    secret: str

    async def books(self) -> Books:
        return await read_books(self.parts.store, self.team.id)

    async def nothing_held(self) -> bool:
        return not (await self.books()).holds

    async def agrees(self, timeout_s: float = 10) -> Books:
        """Waits until nothing is held. Then the balances must agree with the journal to the nano-dollar."""
        await wait_until_found(self.nothing_held, timeout_s=timeout_s, what="nothing is held")
        assert (await verify(self.parts.store, self.team.id)).differences == ()
        books = await self.books()
        books.check()
        return books


async def customer(parts: LedgerParts, credit: int = 10**12, **limits: int) -> Customer:
    team = await parts.accounts.create_team(Changes(name=f"team-{os.urandom(8).hex()}", limits=limits))
    await parts.accounts.move_credits(team, "grant", credit)
    _, secret = await parts.accounts.create_key(team, Changes(name="test"))
    assert secret is not None
    return Customer(parts, team, secret)


async def all_at_once(who: Customer, gateways: tuple[GatewayProcess, ...], clients: int, body: Any) -> list[int]:
    """Returns the statuses of `clients` parallel requests to each gateway."""
    headers = {"authorization": f"Bearer {who.secret}"}
    async with httpx.AsyncClient(headers=headers, timeout=20) as first, httpx.AsyncClient(headers=headers) as second:
        asked = []
        for client, gateway in zip((first, second), gateways, strict=True):
            client.base_url = httpx.URL(gateway.url)
            client.timeout = httpx.Timeout(20)
            asked += [ask_once(client, body) for _ in range(clients)]
        return [seen.status for seen in await asyncio.gather(*asked)]


@pytest.fixture
async def hold(parts: LedgerParts, pair: tuple[GatewayProcess, GatewayProcess]) -> tuple[int, int]:
    """What STREAM reserves: nano-USD and tokens."""
    who = await customer(parts)
    headers = {"authorization": f"Bearer {who.secret}"}
    async with httpx.AsyncClient(base_url=pair[0].url, headers=headers) as client:
        request = asyncio.create_task(ask_once(client, STREAM))

        async def held() -> bool:
            return bool((await who.books()).holds)

        await wait_until_found(held)
        [text] = (await who.books()).held_texts.values()
        await request
    amount, tokens = text.split()[:2]
    return int(amount), int(tokens)


@pytest.mark.parametrize(
    "limit", ["concurrency", "rpm", "tpm", "credits", "budget_usd_total", "budget_usd_month", "budget_tokens_total"]
)
async def test_parallel_clients_of_several_gateways_never_pass_a_limit_by_one(
    parts: LedgerParts, pair: tuple[GatewayProcess, GatewayProcess], hold: tuple[int, int], limit: str
) -> None:
    amount, tokens = hold
    most = 5
    almost = {  # one unit less than one more request needs
        "concurrency": most,
        "rpm": most,
        "tpm": (most + 1) * tokens - 1 - tokens // 2,  # a bucket drains while the requests come in
        "credits": (most + 1) * amount - 1,
        "budget_usd_total": (most + 1) * amount - 1,
        "budget_usd_month": (most + 1) * amount - 1,
        "budget_tokens_total": (most + 1) * tokens - 1,
    }[limit]
    who = await (customer(parts, almost) if limit == "credits" else customer(parts, **{limit: almost}))
    statuses = await all_at_once(who, pair, 8, STREAM)
    assert statuses.count(200) == most
    assert set(statuses) <= {200, 402, 429}
    books = await who.agrees()
    assert len(books.entries("settle")) == most


async def test_sigterm_drains_within_its_deadline_and_settles_everything(
    server: Server, upstream: str, parts: LedgerParts, tmp_path: Path
) -> None:
    who = await customer(parts)
    done = asyncio.Event()
    seen: list[ReceivedAnswer] = []
    with gateway_process(server.url, upstream, tmp_path / "gateway") as gateway:
        clients = asyncio.create_task(load(gateway.url, who.secret, LONG, clients=6, until=done, seen=seen))

        async def all_run() -> bool:
            return len((await who.books()).holds) == 6

        await wait_until_found(all_run)
        done.set()
        code = await asyncio.to_thread(gateway.program.stop, signal.SIGTERM)
        assert code == 0
        await clients
        books = await who.agrees(timeout_s=1)  # at once: by then no hold could have expired
        assert {one.request_id for one in seen if one.status == 200} == set(books.entries("settle"))
        assert len(books.entries("settle")) == 6
        assert books.entries("expire") == []


async def test_a_killed_gateway_costs_its_open_holds_which_expire(
    server: Server, upstream: str, parts: LedgerParts, tmp_path: Path
) -> None:
    who, done = await customer(parts, concurrency=1), asyncio.Event()
    with gateway_process(server.url, upstream, tmp_path / "dies", hold_ttl_s=1.5) as gateway:
        stream = asyncio.create_task(load(gateway.url, who.secret, LONG, clients=1, until=done, seen=[]))

        async def runs() -> bool:
            return len((await who.books()).holds) == 1

        await wait_until_found(runs)
        done.set()
        gateway.program.kill()
        await stream
    async with open_ledger(server.url, tmp_path / "other", hold_ttl_s=1.5) as other, kept_up(other.ledger):
        books = await who.agrees(timeout_s=30)
        assert len(books.entries("expire")) == 1
        assert await _admitted(other, parse_api_key(who.secret)), "its slot is free"


async def test_a_gateway_that_was_suspended_for_longer_than_a_holds_life_keeps_what_runs_in_it(
    server: Server, upstream: str, parts: LedgerParts, tmp_path: Path
) -> None:
    who = await customer(parts, concurrency=1)
    body = {**LONG, "model": "sim/tokens-500+slow-10"}
    headers = {"authorization": f"Bearer {who.secret}"}
    with gateway_process(server.url, upstream, tmp_path / "gateway", hold_ttl_s=0.9) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=20) as client:
            stream = asyncio.create_task(ask_once(client, body))

            async def held() -> bool:
                return bool((await who.books()).holds)

            await wait_until_found(held)
            os.kill(gateway.program.process.pid, signal.SIGSTOP)
            await asyncio.sleep(1.2)  # the pause itself, longer than a hold's lifetime
            second = asyncio.create_task(ask_once(client, body))  # it waits in the socket when the gateway wakes
            os.kill(gateway.program.process.pid, signal.SIGCONT)
            assert (await second).status == 429
            assert (await stream).whole
        books = await who.agrees()
    assert (len(books.entries("settle")), books.entries("expire")) == (1, [])


async def _admitted(parts: LedgerParts, key: ApiKey) -> bool:
    try:
        admission = await parts.ledger.admit(ask(key))
    except GatewayError:
        return False
    await parts.ledger.settle(voided(admission.hold))
    return True


async def _misfortunes(server: Server, gateway: GatewayProcess, seen: list[ReceivedAnswer]) -> None:
    """Kills a worker, suspends the store for longer than its timeout, kills it and restarts it, under load."""

    async def served() -> None:
        before = len(seen)
        await wait_until(lambda: sum(one.whole for one in seen[before:]) >= 4, what="requests are served")

    starts = gateway.program.err.count(READY)
    os.kill(gateway.workers[0], signal.SIGKILL)
    await wait_until(lambda: gateway.program.err.count(READY) > starts, what="another worker is ready")
    await served()
    server.pause()
    await asyncio.sleep(0.7)  # the outage itself: longer than the store's timeout
    server.resume()
    await served()
    await asyncio.to_thread(server.restart)
    await served()


async def _survives(upstream: str, directory: Path, rounds: int) -> None:
    with durable_valkey_server() as server:
        async with open_ledger(server.url, directory / "ledger") as parts:
            who = await customer(parts)
            done = asyncio.Event()
            seen: list[ReceivedAnswer] = []
            with gateway_process(
                server.url, upstream, directory / "gateway", workers=2, hold_ttl_s=3, store__timeout_s="0.3"
            ) as gateway:
                work = load(gateway.url, who.secret, STREAM, clients=8, until=done, seen=seen)
                clients = asyncio.create_task(work)
                for _ in range(rounds):
                    await _misfortunes(server, gateway, seen)
                server.pause()  # the end comes during an outage: what is spooled then is for the next gateway
                await asyncio.sleep(0.5)
                done.set()
                await clients
                assert await asyncio.to_thread(gateway.program.stop, signal.SIGTERM) == 0
                server.resume()
            with gateway_process(server.url, upstream, directory / "gateway", hold_ttl_s=3):
                await wait_until(lambda: parts.store.available)
                books = await who.agrees(timeout_s=20)
                await wait_until(lambda: not _left(directory, "*.spool"), what="the spool is empty")
            books = await who.agrees()
    whole = {one.request_id: one.cost_nano_usd for one in seen if one.whole}
    charged = {entry["id"]: -int(entry["amount"]) for entry in books.journal if entry["type"] == "settle"}
    expired = set(books.entries("expire"))
    assert len(whole) >= 12 * rounds
    assert whole.keys() <= charged.keys() | expired, "every answer that was seen whole is in the journal"
    assert len(whole.keys() - charged.keys()) <= 8 * rounds, "a killed worker loses what ran in it at most"
    assert {name: charged[name] for name in whole.keys() & charged.keys()} == {
        name: cost for name, cost in whole.items() if name in charged
    }
    assert _left(directory, "*.refused") == []


def _left(directory: Path, pattern: str) -> list[Path]:
    return list(directory.rglob(pattern))


async def test_after_kills_and_outages_under_load_the_books_agree_to_the_nano_dollar(
    upstream: str, tmp_path: Path
) -> None:
    await _survives(upstream, tmp_path, rounds=1)


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_after_many_kills_and_outages_under_load_the_books_agree_to_the_nano_dollar(
    upstream: str, tmp_path: Path
) -> None:
    await _survives(upstream, tmp_path, rounds=15)
