"""A store that is away: refused at once or let through by choice, and the books are whole when it is back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from gateway.app import build_app
from gateway.billing.settlement import Hold
from gateway.errors import GatewayError
from gateway.identity.api_keys import new_id, new_secret
from gateway.ledger.enforcement_check import check_enforcement
from gateway.ledger.settlement_call import Resolution
from gateway.ledger.verification import verify
from tests.support.gateway import NewKey, RunningGateway, gateway_settings, running_gateway
from tests.support.ledgers import Books, ask, kept_up, open_ledger, read_books, settled, voided
from tests.support.outages import OUTAGES, break_by
from tests.support.servers import Server, durable_valkey_server
from tests.support.unenforcing_store import UnenforcingStore
from tests.support.waiting import wait_until, wait_until_found, wait_until_sync

REQUEST = {"model": "sim/tokens-3", "input": "hello"}
STREAM = {"model": "sim/tokens-200+slow-5", "input": "hello", "stream": True}
QUICK = {"timeout_s": 0.5, "breaker_open_s": 0.1}


@pytest.fixture
def server() -> Iterator[Server]:
    with durable_valkey_server() as server:
        yield server


def books_of(gateway: RunningGateway, key: NewKey) -> Books:
    return gateway.run(read_books(gateway.services.store, key.team.id))


def agrees(gateway: RunningGateway, key: NewKey) -> bool:
    """Whether nothing is held any more, by what is enforced and by the journal."""
    books = books_of(gateway, key)
    books.check()
    verified = gateway.run(verify(gateway.services.store, key.team.id))
    assert verified.differences == ()
    return not books.holds


@pytest.mark.parametrize("how", OUTAGES)
def test_closed_refuses_at_once_and_serves_again_when_the_store_does(
    server: Server, upstream: str, tmp_path: Path, how: str
) -> None:
    with running_gateway(server.url, upstream, tmp_path, store=QUICK) as gateway:
        key = gateway.new_key()
        with gateway.http(key) as client:
            assert client.post("/v1/responses", json=REQUEST).status_code == 200
            mend = break_by(server, how)
            refused = client.post("/v1/responses", json=REQUEST)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "store_unavailable"
            assert int(refused.headers["retry-after"]) >= 1
            mend()
            wait_until_sync(lambda: gateway.services.store.available, what="the store is back")
            assert client.post("/v1/responses", json=REQUEST).status_code == 200
        wait_until_sync(lambda: agrees(gateway, key), what="nothing is held")
        assert len(books_of(gateway, key).entries("settle")) == 2


def test_nothing_piles_up_while_the_breaker_is_open(server: Server, upstream: str, tmp_path: Path) -> None:
    async def ask_often(gateway: RunningGateway, key: NewKey) -> list[int]:
        headers = {"authorization": f"Bearer {key.text}"}
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=20) as client:
            return [reply.status_code for reply in await asyncio.gather(*(post(client) for _ in range(100)))]

    async def post(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/v1/responses", json=REQUEST)

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    with running_gateway(server.url, upstream, tmp_path, store=QUICK) as gateway:
        key = gateway.new_key()
        server.pause()
        with gateway.http(key) as client:
            assert client.post("/v1/responses", json=REQUEST).status_code == 503
        before = gateway.run(tasks())
        assert set(asyncio.run(ask_often(gateway, key))) == {503}
        wait_until_sync(lambda: gateway.run(tasks()) <= before, what="no task stays behind")
        assert gateway.services.ledger.open_holds == 0
        server.resume()
        wait_until_sync(lambda: gateway.services.store.available, what="the store is back")
        assert len(server.run("CLIENT", "LIST").splitlines()) <= 4
        wait_until_sync(lambda: agrees(gateway, key), what="nothing is held")


@pytest.mark.parametrize("how", OUTAGES)
def test_open_lets_requests_through_and_charges_them_afterwards(
    server: Server, upstream: str, tmp_path: Path, how: str
) -> None:
    with running_gateway(server.url, upstream, tmp_path, store={**QUICK, "on_failure": "open"}) as gateway:
        key = gateway.new_key(limits={"concurrency": 1})
        mend = break_by(server, how)
        with gateway.http(key) as client:
            answers = [client.post("/v1/responses", json=REQUEST) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 200]
            assert {answer.headers["x-gateway-unchecked"] for answer in answers} == {"store_unavailable"}
        mend()
        ids = {answer.headers["x-request-id"] for answer in answers}
        wait_until_sync(
            lambda: gateway.services.store.available and set(books_of(gateway, key).entries("settle")) == ids,
            what="all three are in the journal",
        )
        assert agrees(gateway, key)
        with gateway.http(key) as client:
            assert "x-gateway-unchecked" not in client.post("/v1/responses", json=REQUEST).headers


def test_open_begins_nothing_that_the_spool_could_not_keep(server: Server, upstream: str, tmp_path: Path) -> None:
    bound = {"spool_max_bytes": 16_384}
    with running_gateway(
        server.url, upstream, tmp_path, store={**QUICK, "on_failure": "open"}, ledger=bound
    ) as gateway:
        key = gateway.new_key()
        mend = break_by(server, "dead")
        with gateway.http(key) as client:

            def is_refused() -> bool:
                answers.append(client.post("/v1/responses", json=REQUEST))
                return answers[-1].status_code == 503

            answers: list[httpx.Response] = []
            wait_until_sync(is_refused, what="the spool is nearly full")
            assert answers[-1].json()["error"]["code"] == "store_unavailable"
            ids = {answer.headers["x-request-id"] for answer in answers[:-1]}
            mend()
            wait_until_sync(
                lambda: gateway.services.store.available and set(books_of(gateway, key).entries("settle")) == ids,
                what="all that was answered is in the journal",
            )
            assert client.post("/v1/responses", json=REQUEST).status_code == 200


def test_a_made_up_key_that_open_let_through_makes_no_team_and_costs_none(
    server: Server, upstream: str, tmp_path: Path
) -> None:
    with running_gateway(server.url, upstream, tmp_path, store={**QUICK, "on_failure": "open"}) as gateway:
        key = gateway.new_key()
        signed_out, _ = new_secret(new_id(), new_id())
        forged, _ = new_secret(key.team.id, key.id)
        before = books_of(gateway, key)
        server.pause()
        for secret in (signed_out, forged):
            with gateway.http(secret) as client:
                assert client.post("/v1/responses", json=REQUEST).status_code == 200
        server.resume()
        ledger = gateway.services.ledger
        wait_until_sync(lambda: ledger.resolutions[Resolution.UNKNOWN] == 2, what="both settlements were refused")
        assert books_of(gateway, key) == before
        team_id = signed_out.split("-")[2]
        assert server.run("KEYS", f"gw:{{{team_id}}}:*") == []
        with gateway.http(forged) as client:
            assert client.post("/v1/responses", json=REQUEST).status_code == 401


@pytest.mark.parametrize("how", ["dead", "hung"])
def test_a_stream_that_outlives_the_store_is_relayed_whole_and_charged_later(
    server: Server, upstream: str, tmp_path: Path, how: str
) -> None:
    with running_gateway(server.url, upstream, tmp_path, store=QUICK) as gateway:
        key = gateway.new_key()
        with gateway.http(key) as client, client.stream("POST", "/v1/responses", json=STREAM) as answer:
            lines = answer.iter_lines()
            next(lines)
            mend = break_by(server, how)
            assert list(lines)[-2:] == ["data: [DONE]", ""]
            request_id = answer.headers["x-request-id"]
        mend()
        wait_until_sync(
            lambda: gateway.services.store.available and books_of(gateway, key).entries("settle") == [request_id],
            what="it is in the journal",
        )
        assert agrees(gateway, key)


@pytest.mark.parametrize("how", ["dead", "hung"])
async def test_a_hold_that_nobody_could_renew_is_left_to_its_gateway_when_the_store_is_back(
    server: Server, tmp_path: Path, how: str
) -> None:
    async with (
        open_ledger(server.url, tmp_path / "one", timeout_s=1.5) as one,
        open_ledger(server.url, tmp_path / "two", timeout_s=1.5) as two,
    ):
        key = await one.new_key(limits={"concurrency": 1})
        running = await one.ledger.admit(ask(key))
        mend = break_by(server, how)
        for parts in (one, two):
            with pytest.raises(GatewayError, match="store"):
                await parts.ledger.admit(ask(key))
        mend()
        await wait_until(lambda: one.store.available and two.store.available)
        for parts in (one, two):
            await parts.ledger.flush()  # the admissions that were given up are voided
        await two.outlive(key, running.hold.id)
        with pytest.raises(GatewayError) as refused:
            await two.ledger.admit(ask(key))
        assert refused.value.code == "concurrency_exceeded"
        async with kept_up(one.ledger), kept_up(two.ledger):
            await two.ledger.settle(settled((await two.ledger.admit(ask(await two.new_key()))).hold, 1))
        await one.ledger.settle(settled(running.hold, 7))
        assert one.ledger.resolutions[Resolution.APPLIED] == 1, "it was not charged late"
        assert (await one.books(key)).entries("expire") == []


async def test_a_hold_whose_gateway_died_in_an_outage_expires_a_third_of_its_life_after_it(
    server: Server, tmp_path: Path
) -> None:
    async with open_ledger(server.url, tmp_path, hold_ttl_s=0.6) as parts:
        key = await parts.new_key(limits={"concurrency": 1})
        dead = (await parts.ledger.admit(ask(key))).hold.id
        server.kill()
        server.restart()
        await wait_until(lambda: parts.store.available)
    async with open_ledger(server.url, tmp_path, hold_ttl_s=0.6) as parts, kept_up(parts.ledger):

        async def is_free() -> bool:
            with contextlib.suppress(GatewayError):
                await parts.ledger.admit(ask(key))
                return True
            return False

        await wait_until_found(is_free)
        assert (await parts.books(key)).entries("expire") == [dead]


def test_a_store_that_lost_its_scripts_gets_them_again_and_no_request_fails(
    server: Server, upstream: str, tmp_path: Path
) -> None:
    with running_gateway(server.url, upstream, tmp_path, store=QUICK) as gateway:
        key = gateway.new_key()
        with gateway.http(key) as client:
            for _ in range(5):
                server.run("SCRIPT", "FLUSH")
                assert client.post("/v1/responses", json=REQUEST).status_code == 200
        wait_until_sync(lambda: agrees(gateway, key), what="nothing is held")


@pytest.fixture
async def unenforcing(store: Server) -> AsyncIterator[tuple[UnenforcingStore, str]]:
    proxy = UnenforcingStore(store)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with server:
        yield proxy, f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_the_enforcement_check_names_a_store_that_does_not_enforce(
    unenforcing: tuple[UnenforcingStore, str], tmp_path: Path
) -> None:
    async with open_ledger(unenforcing[1], tmp_path) as parts:
        problem = await check_enforcement(parts.store, parts.ledger)
    assert problem == "the store admitted a second request to a limit of one"


async def test_a_store_that_does_not_enforce_keeps_the_gateway_not_ready(
    unenforcing: tuple[UnenforcingStore, str], tmp_path: Path
) -> None:
    gateway = build_app(gateway_settings(unenforcing[1], "http://127.0.0.1:9/v1", tmp_path, log={"level": "error"}))
    async with gateway.app.router.lifespan_context(gateway.app):
        await wait_until(lambda: unenforcing[0].admissions > 4, what="the canary has tried more than twice")
        assert gateway.services is not None
        assert not gateway.services.ready
        transport = httpx.ASGITransport(app=gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            ready = await client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["parts"]["enforcement"] is False


@pytest.mark.parametrize("how", OUTAGES)
async def test_the_enforcement_check_passes_once_the_store_works_and_all_its_keys_expire(
    server: Server, tmp_path: Path, how: str
) -> None:
    async with open_ledger(server.url, tmp_path) as parts:
        mend = break_by(server, how)
        assert "unavailable" in await check_enforcement(parts.store, parts.ledger)
        mend()
        await wait_until(lambda: parts.store.available)
        assert await check_enforcement(parts.store, parts.ledger) == ""


@pytest.mark.parametrize("cut_after", range(8))
async def test_an_enforcement_check_that_is_cut_off_leaves_no_key_without_a_ttl(
    server: Server, tmp_path: Path, cut_after: int
) -> None:
    async with open_ledger(server.url, tmp_path) as parts:
        proof = asyncio.ensure_future(check_enforcement(parts.store, parts.ledger))
        for _ in range(cut_after):
            await asyncio.sleep(0)
        proof.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await proof

        async def without_ttl() -> list[bytes]:
            names = await parts.store.run("KEYS", "gw:*")
            return [name for name in names if await parts.store.run("TTL", name) == -1]

        async def clean() -> bool:
            return await without_ttl() == []

        await wait_until_found(clean)


async def test_a_void_for_a_team_that_is_gone_writes_nothing(store: Server, tmp_path: Path) -> None:
    """The canary's, say, which an outage spooled: it must not bring the canary's keys back for ever."""
    async with open_ledger(store.url, tmp_path) as parts:
        hold = Hold("req_1", "canary1234", "key", 0, 0, 0, 0)
        await parts.ledger.settle(voided(hold))
        assert parts.ledger.resolutions == {Resolution.UNKNOWN: 1}
        assert await parts.store.run("KEYS", "gw:{canary1234}:*") == []
