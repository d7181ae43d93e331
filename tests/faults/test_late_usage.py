"""A response that nobody followed to its end is asked for later, and charged what it used, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.identity.api_keys import parse_api_key
from gateway.ledger.known_responses import KnownResponses, Standing
from gateway.ledger.verification import verify
from gateway.proxy import late_usage
from tests.faults.conftest import Stages
from tests.support.ledgers import read_books
from tests.support.scenario import EVENT_STREAM, JSON, Scenario, chunk, created, delta, response, usage
from tests.support.scripted_upstream import Step, answer, close, hang, request, send
from tests.support.waiting import wait_until

ID = "resp_upstream1"
USED = (100, 7)
COST = 100 * 1_000 + 7 * 10_000


def told(status: str, **fields: Any) -> Sequence[Step]:
    """The provider's answer to a GET."""
    return (request(), answer(json.dumps(response(status, **fields)).encode(), headers=JSON))


NOT_THERE = (request(), answer(b'{"error":{"message":"none"}}', status=b"404 Not Found", headers=JSON))
ENDED = told("completed", usage=usage(*USED))
BEGUN = (request(), send(EVENT_STREAM, chunk(created()), chunk(delta("one"))))
ABORTS = {"on_client_leave": "abort"}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedule, some times faster."""
    monkeypatch.setattr(late_usage, "_DELAYS_S", (0.1, 0.2, 0.3))


def spent(scenario: Scenario) -> int:
    return scenario.gateway.balance(scenario.key).spent


def standing(scenario: Scenario) -> int | None:
    responses = KnownResponses(scenario.gateway.services.store, 3600)
    try:
        return scenario.gateway.run(responses.find(parse_api_key(scenario.key.text), ID)).settled
    except GatewayError:
        return None


def asked(scenario: Scenario) -> list[str]:
    """The methods that the provider has seen."""
    return [one.partition(b" ")[0].decode() for one in scenario.upstream.requests]


async def left(scenario: Scenario, **fields: Any) -> None:
    """A client leaves its stream behind the first output."""
    client = await scenario.ask(stream=True, **fields)
    await client.read_until(b'"one"')
    client.leave()


@pytest.mark.parametrize(
    "scripts",
    [[ENDED], [[*told("in_progress"), *ENDED]], [(request(), close()), ENDED]],
    ids=["has ended", "runs", "is away"],
)
async def test_a_stream_that_was_left_is_charged_what_it_used(stages: Stages, scripts: list[Sequence[Step]]) -> None:
    async with stages([*BEGUN, hang()], *scripts, upstream=ABORTS) as scenario:
        await left(scenario)
        await wait_until(lambda: standing(scenario) == Standing.SETTLED, what="its usage was asked for")
        assert spent(scenario) == COST
        store = scenario.gateway.services.store
        checked = await asyncio.to_thread(scenario.gateway.run, verify(store, scenario.key.team.id))
        assert checked.differences == ()


async def test_a_correction_is_no_overrun_and_pauses_nobody(stages: Stages) -> None:
    """What was charged before bounds it, and was never held."""
    async with stages([*BEGUN, hang()], ENDED, upstream=ABORTS, route={"on_overrun": "pause"}) as scenario:
        await left(scenario)
        await wait_until(lambda: standing(scenario) == Standing.SETTLED, what="its usage was asked for")
        assert spent(scenario) == COST
        store, team = scenario.gateway.services.store, scenario.key.team.id
        books = await asyncio.to_thread(scenario.gateway.run, read_books(store, team))
        assert {entry.get("over", "0") for entry in books.journal} == {"0"}
        again = await scenario.ask()
        await again.read_all()
        assert again.status != 402


async def test_a_stream_that_broke_off_is_charged_what_it_used(stages: Stages) -> None:
    async with stages([*BEGUN, close()], ENDED) as scenario:
        await (await scenario.ask(stream=True)).read_all()
        await wait_until(lambda: standing(scenario) == Standing.SETTLED, what="its usage was asked for")
        assert spent(scenario) == COST


async def test_a_background_response_that_nobody_polls_is_charged_what_it_used(stages: Stages) -> None:
    async with stages([*told("queued", background=True), *told("in_progress"), *ENDED]) as scenario:
        await (await scenario.ask(background=True)).read_all()
        await wait_until(lambda: standing(scenario) == Standing.SETTLED, what="its usage was asked for")
        assert spent(scenario) == COST


@pytest.mark.parametrize(
    ("answers", "questions"),
    [(NOT_THERE, 1), (told("in_progress"), 3)],
    ids=["what is not there is asked for once", "what runs on is asked for some times"],
)
async def test_questions_end(stages: Stages, answers: Sequence[Step], questions: int) -> None:
    async with stages([*BEGUN, hang()], [*answers] * 5, upstream=ABORTS) as scenario:
        await left(scenario)
        await wait_until(lambda: asked(scenario).count("GET") == questions, what="it was asked for")
        estimate = spent(scenario)
        await asyncio.sleep(2.5)  # longer than the schedule and two rounds: nothing more comes
        assert asked(scenario).count("GET") == questions
        assert (spent(scenario), standing(scenario)) == (estimate, Standing.ESTIMATED)


@pytest.mark.parametrize(
    ("fields", "sections"),
    [({"store": False}, {}), ({}, {"route": {"state": "none"}})],
    ids=["not stored", "a route without state"],
)
async def test_what_no_provider_keeps_is_not_asked_for(
    stages: Stages, fields: dict[str, Any], sections: dict[str, Any]
) -> None:
    async with stages([*BEGUN, hang()], ENDED, upstream=ABORTS, **sections) as scenario:
        await left(scenario, **fields)
        await scenario.logged(1)
        await asyncio.sleep(1.5)  # longer than the first question takes: nothing comes
        assert asked(scenario) == ["POST"]
