"""A request that needs a summary first runs once for its Idempotency-Key, and so does the summary."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest

from gateway.accounts.entities import Changes
from gateway.billing.money import parse_usd
from gateway.ledger.verification import verify
from gateway.store.keyspace import TeamKeys
from tests.state.answers import COST_NANO_USD, MODEL, answer
from tests.support.gateway import NewKey, RunningGateway
from tests.support.post_only_provider import Answer, PostOnlyProvider
from tests.support.waiting import wait_until_sync

LONG = "A long story. " * 50
COMPACTS = [{"type": "compaction", "compact_threshold": 100}]


class Repeating:
    """A client that sends one request with one Idempotency-Key to two gateways."""

    def __init__(
        self, provider: PostOnlyProvider, gateways: tuple[RunningGateway, RunningGateway], background: bool
    ) -> None:
        self.provider, self.gateway, self.background = provider, gateways[0], background
        self.key: NewKey = self.gateway.new_key()
        self.clients = [gateway.http(self.key) for gateway in gateways]
        self.calls = len(provider.received)

    def post(self, number: int = 0) -> httpx.Response:
        body: dict[str, Any] = {"model": MODEL, "input": LONG, "context_management": COMPACTS}
        body |= {"background": True} if self.background else {}
        return self.clients[number].post("/v1/responses", json=body, headers={"idempotency-key": "once"})

    def held_answer(self, text: str) -> threading.Event:
        released = threading.Event()
        self.provider.next(replace(answer(text, "gen"), released=released))
        return released

    def received(self) -> int:
        return len(self.provider.received) - self.calls

    def status_of(self, made: httpx.Response) -> str:
        found: str = self.clients[1].get(f"/v1/responses/{made.json()['id']}").json()["status"]
        return found

    def ended(self, made: httpx.Response) -> None:
        wait_until_sync(lambda: self.status_of(made) not in ("queued", "in_progress"), what="the response has ended")

    def settled(self) -> int:
        wait_until_sync(lambda: not self.gateway.balance(self.key).held, what="nothing is held")
        assert self.gateway.run(verify(self.gateway.services.store, self.key.team.id)).differences == ()
        return self.gateway.balance(self.key).spent

    def kept(self) -> bytes | None:
        name = TeamKeys(self.key.team.id).idempotency_key(self.key.id, "once")

        async def read() -> bytes | None:
            found: bytes | None = await self.gateway.services.store.run("GET", name)
            return found

        return self.gateway.run(read())


@pytest.fixture(params=[False, True], ids=["in the foreground", "in the background"])
def repeating(
    request: pytest.FixtureRequest, provider: PostOnlyProvider, gateways: tuple[RunningGateway, RunningGateway]
) -> Iterator[Repeating]:
    made = Repeating(provider, gateways, background=request.param)
    yield made
    for client in made.clients:
        client.close()


def code_of(got: httpx.Response) -> str:
    assert got.status_code == 409, got.text
    found: str = got.json()["error"]["code"]
    return found


def test_of_two_at_once_one_runs_and_one_summary_is_made(repeating: Repeating) -> None:
    summary, turn = repeating.held_answer("In short."), repeating.held_answer("At last.")
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(repeating.post, number) for number in (0, 1)]
        repeating.provider.wait_for_calls(repeating.calls + 1)
        wait_until_sync(
            lambda: any(one.done() and one.result().status_code == 409 for one in both), what="one is refused"
        )
        assert code_of(repeating.post(1)) == "request_in_progress"
        summary.set()
        repeating.provider.wait_for_calls(repeating.calls + 2)
        assert code_of(repeating.post(1)) == "request_in_progress"
        turn.set()
        got = sorted((one.result() for one in both), key=lambda one: one.status_code)
    assert (got[0].status_code, code_of(got[1])) == (200, "request_in_progress")
    assert got[0].headers["x-request-id"] in got[1].json()["error"]["message"]
    if repeating.background:
        repeating.ended(got[0])
    assert repeating.settled() == 2 * COST_NANO_USD
    assert code_of(repeating.post(1)) == "already_answered"
    assert repeating.received() == 2


def test_between_its_summary_and_its_own_admission_the_key_is_taken(repeating: Repeating) -> None:
    """The request waits for its turn: nothing of it is held meanwhile."""
    accounts, gateway = repeating.gateway.services.accounts, repeating.gateway
    summary, other = repeating.held_answer("In short."), repeating.held_answer("other")
    with ThreadPoolExecutor(2) as threads:
        posted = threads.submit(repeating.post)
        repeating.provider.wait_for_calls(repeating.calls + 1)
        busy = threads.submit(repeating.clients[0].post, "/v1/responses", json={"model": MODEL, "input": "x"})
        repeating.provider.wait_for_calls(repeating.calls + 2)
        limits = {"concurrency": 1, "queue_s": 30, "queue_length": 9}
        gateway.run(accounts.update_team(repeating.key.team, Changes(limits=limits)))
        summary.set()
        wait_until_sync(lambda: (repeating.kept() or b"").endswith(b" waits"), what="the summary has ended")
        assert code_of(repeating.post(1)) == "request_in_progress"
        repeating.provider.next(answer("At last.", "gen"))
        other.set()
        assert busy.result().status_code == 200
        got = posted.result()
    assert got.status_code == 200
    if repeating.background:
        repeating.ended(got)
    assert repeating.settled() == 3 * COST_NANO_USD


def test_one_that_does_not_follow_its_summary_may_be_sent_again(repeating: Repeating) -> None:
    accounts, gateway = repeating.gateway.services.accounts, repeating.gateway
    summary = repeating.held_answer("In short.")
    with ThreadPoolExecutor(1) as threads:
        posted = threads.submit(repeating.post)
        repeating.provider.wait_for_calls(repeating.calls + 1)
        balance = gateway.balance(repeating.key)
        gateway.run(accounts.move_credits(repeating.key.team, "adjust", -balance.available - balance.held))
        summary.set()
        got = posted.result()
    if repeating.background:
        repeating.ended(got)
        assert repeating.status_of(got) == "failed"
    else:
        assert got.status_code == 402
    wait_until_sync(lambda: repeating.kept() is None, what="the key is free")
    gateway.run(accounts.move_credits(repeating.key.team, "grant", parse_usd("10")))
    for text in ("In short.", "At last."):
        repeating.provider.next(answer(text, "gen"))
    again = repeating.post(1)
    assert again.status_code == 200, again.text
    if repeating.background:
        repeating.ended(again)
        assert repeating.status_of(again) == "completed"


def test_a_summary_that_fails_does_not_free_the_key(repeating: Repeating) -> None:
    repeating.provider.next(Answer({"error": {"message": "too long"}}, 400))
    turn = repeating.held_answer("fine")
    with ThreadPoolExecutor(1) as threads:
        posted = threads.submit(repeating.post)
        repeating.provider.wait_for_calls(repeating.calls + 2)
        assert code_of(repeating.post(1)) == "request_in_progress"
        turn.set()
        got = posted.result()
    assert got.status_code == 200
    if repeating.background:
        repeating.ended(got)
    assert repeating.settled() == COST_NANO_USD
    assert repeating.received() == 2


def test_one_that_is_cancelled_while_it_waits_may_be_sent_again(
    provider: PostOnlyProvider, gateways: tuple[RunningGateway, RunningGateway]
) -> None:
    repeating = Repeating(provider, gateways, background=True)
    client, other = repeating.clients[0], repeating.held_answer("other")
    first = client.post("/v1/responses", json={"model": MODEL, "input": "x", "background": True})
    provider.wait_for_calls(repeating.calls + 1)
    waits = repeating.post()
    assert client.post(f"/v1/responses/{waits.json()['id']}/cancel").json()["status"] == "cancelled"
    wait_until_sync(lambda: repeating.kept() is None, what="the key is free")
    for text in ("In short.", "At last."):
        provider.next(answer(text, "gen"))
    again = repeating.post(1)
    assert again.status_code == 200, again.text
    other.set()
    for made in (first, again):
        repeating.ended(made)
        assert repeating.status_of(made) == "completed"
    for one in repeating.clients:
        one.close()
