"""A response can be named as soon as its client has seen its id, though its own request still runs.

| the client has seen          | and at once, over any worker            |
|------------------------------|-----------------------------------------|
| response.created             | reads, cancels, lists it                |
| response.completed           | goes on from it, with the body still open |
| a whole JSON answer          | reads it, goes on from it               |

While its request runs, nobody else is charged for it; what its request is settled by counts once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest

from gateway.errors import GatewayError
from gateway.identity.api_keys import parse_api_key
from gateway.ledger.known_responses import KnownResponses, Standing
from tests.faults.conftest import Stages
from tests.support.gateway import RunningGateway, running_gateway, simulator
from tests.support.scenario import (
    EVENT_STREAM,
    JSON,
    MODEL,
    Scenario,
    chunk,
    completed,
    created,
    delta,
    end_of_body,
    event,
    more,
    response,
    stream,
    usage,
)
from tests.support.scripted_upstream import Step, answer, close, hang, request, send, wait_for
from tests.support.servers import Server
from tests.support.waiting import wait_until, wait_until_sync

ID = "resp_upstream1"
ENDED = answer(json.dumps(response("completed", usage=usage(100, 7))).encode(), headers=JSON)
AGAIN: tuple[Step, ...] = (request(), ENDED) * 3


@contextlib.asynccontextmanager
async def by_id(scenario: Scenario) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {scenario.key.text}"}
    async with httpx.AsyncClient(base_url=f"{scenario.gateway.url}/v1/responses", headers=headers) as http:
        yield http


def standing(scenario: Scenario, response_id: str = ID) -> int | None:
    """How what the store remembers of a response says that it was charged; None where it remembers nothing."""
    responses = KnownResponses(scenario.gateway.services.store, 3600)
    try:
        return scenario.gateway.run(responses.find(parse_api_key(scenario.key.text), response_id)).settled
    except GatewayError:
        return None


def kept_keys(scenario: Scenario) -> list[str]:
    """What the store keeps of running responses."""
    return [name.decode() for name in scenario.store.run("KEYS", f"*{scenario.key.team.id}*:response:*")]


def spent(scenario: Scenario) -> int:
    return scenario.gateway.balance(scenario.key).spent


SHOWN: dict[str, Sequence[bytes]] = {
    "in one read": [created()],
    "with the first output": [created() + delta("a") + delta("b", 2)],
    "after a comment": [b": hello\n\n", created()],
    "cut anywhere": [created()[:40], created()[40:]],
    "with CRLF": [created().replace(b"\n", b"\r\n")],
    "otherwise spelt": [
        b'data: {"response": {"status": "queued", "id": "%b"}, "type": "response.created"}\n\n' % ID.encode()
    ],
    "with instructions as long as a book": [
        event("response.created", 0, response=response("in_progress", instructions="x" * 200_000))
    ],
    "as queued": [event("response.queued", 0, response=response("queued"))],
}


@pytest.mark.parametrize("name", SHOWN)
async def test_a_response_is_known_when_its_client_has_seen_its_id(stages: Stages, name: str) -> None:
    go_on = asyncio.Event()
    pieces = [step for piece in SHOWN[name] for step in (send(chunk(piece)), wait_a_moment)]
    script = [request(), send(EVENT_STREAM), *pieces, wait_for(go_on), more(delta("a"), completed()), end_of_body()]
    async with stages(script, AGAIN, limits={}) as scenario, by_id(scenario) as http:
        client = await scenario.ask(stream=True)
        await client.read_until(ID.encode())
        assert standing(scenario) == Standing.RUNNING
        for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/input_items")):
            assert (await http.request(method, f"/{ID}{path}")).status_code == 200
        go_on.set()
        await client.read_all()
        await scenario.logged(4)
        assert standing(scenario) == Standing.SETTLED
        assert kept_keys(scenario) == [], "nothing is left over"
        assert spent(scenario) == 100 * 1_000 + 7 * 10_000, "once, though its usage was seen twice"


async def wait_a_moment(_peer: object) -> None:
    await asyncio.sleep(0.01)  # apart on the wire: each arrives as a read of its own


@pytest.mark.parametrize("opened", [True, False], ids=["shown at the start", "shown at the end alone"])
async def test_a_conversation_goes_on_though_the_body_of_its_last_turn_is_still_open(
    stages: Stages, opened: bool
) -> None:
    shown = [created()] if opened else []
    script = [request(), stream(*shown, delta("one")), wait_a_moment, more(delta("two", 2)), wait_a_moment]
    async with stages([*script, more(completed(3)), hang()], AGAIN, limits={}) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_until(b"response.completed")
        turn = await scenario.ask(previous_response_id=ID)
        await turn.read_all()
        assert turn.status == 200


async def test_a_turn_that_goes_on_from_one_that_runs_holds_all_that_it_may_have_put_out(stages: Stages) -> None:
    async with stages([request(), stream(created()), hang()], AGAIN, limits={}) as scenario:
        client = await scenario.ask(stream=True, max_output_tokens=1_000)
        await client.read_until(ID.encode())
        await (await scenario.ask(previous_response_id=ID, max_output_tokens=1)).read_all()
        await wait_until(lambda: bool(scenario.journal()))
        (entry,) = scenario.journal()
        assert int(entry["hold"]) > 1_000 * 1_000


@pytest.mark.parametrize(
    ("fields", "sections"),
    [({"store": False}, {}), ({}, {"route": {"state": "none"}}), ({}, {"routing": {"response_ttl_s": 0}})],
    ids=["not stored", "a route without state", "nothing is remembered"],
)
async def test_what_nobody_may_name_is_not_remembered(
    stages: Stages, fields: dict[str, Any], sections: dict[str, Any]
) -> None:
    script = [request(), stream(created(), delta("one")), hang()]
    async with stages(script, upstream={"on_client_leave": "abort"}, **sections) as scenario:
        client = await scenario.ask(stream=True, **fields)
        await client.read_until(b'"one"')
        assert standing(scenario) is None


async def test_what_was_shown_and_charged_nothing_is_charged_by_a_usage_that_is_seen_later(stages: Stages) -> None:
    script = [request(), stream(created()), close()]
    sections = {"assumed": {"charge_failed_input": False}}
    async with stages(script, AGAIN, **sections) as scenario, by_id(scenario) as http:
        await (await scenario.ask(stream=True)).read_all()
        await scenario.logged(1)
        assert (spent(scenario), standing(scenario)) == (0, Standing.ESTIMATED)
        assert (await http.get(f"/{ID}")).status_code == 200
        await scenario.logged(2)
        assert (spent(scenario), standing(scenario)) == (100 * 1_000 + 7 * 10_000, Standing.SETTLED)


async def test_a_store_that_is_away_for_a_moment_costs_no_stream_anything(stages: Stages, own_store: Server) -> None:
    """The id is not remembered before it is shown, then; the settlement writes it down."""
    go_on = asyncio.Event()
    script = [request(), wait_for(go_on), stream(created(), delta("one"), completed()), end_of_body()]
    async with stages(script) as scenario:
        client = await scenario.ask(stream=True)
        await wait_until(lambda: bool(scenario.upstream.requests))
        scenario.store.run("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        go_on.set()
        await client.read_all()
        assert client.body == created() + delta("one") + completed()
        await wait_until(lambda: standing(scenario) == Standing.SETTLED, what="the settlement has arrived")


@pytest.fixture(scope="module")
def workers(store: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningGateway, RunningGateway]]:
    """Two workers on one store and one provider."""
    with (
        simulator() as upstream,
        running_gateway(store.url, upstream, tmp_path_factory.mktemp("first")) as first,
        running_gateway(store.url, upstream, tmp_path_factory.mktemp("second")) as second,
    ):
        yield first, second


TIMES = 100


def test_another_worker_knows_a_response_whose_stream_has_just_begun(
    workers: tuple[RunningGateway, RunningGateway],
) -> None:
    first, second = workers
    key = first.new_key()
    with first.sdk(key) as here, second.sdk(key) as there:
        for _ in range(TIMES):
            made = ""
            for one in here.responses.create(model=MODEL, input="Hello", stream=True):
                if one.type == "response.created":
                    made = one.response.id
                    assert there.responses.retrieve(made).id == made
                if one.type == "response.completed":
                    assert there.responses.create(model=MODEL, input="Go on", previous_response_id=made).id != made


def test_another_worker_knows_a_response_whose_answer_has_just_come(
    workers: tuple[RunningGateway, RunningGateway],
) -> None:
    first, second = workers
    key = first.new_key()
    with first.sdk(key) as here, second.sdk(key) as there:
        for _ in range(TIMES):
            made = here.responses.create(model=MODEL, input="Hello").id
            assert there.responses.retrieve(made).id == made


def test_another_worker_cancels_what_has_just_begun(workers: tuple[RunningGateway, RunningGateway]) -> None:
    first, second = workers
    key = first.new_key()
    with first.sdk(key) as here, second.sdk(key) as there:
        for _ in range(TIMES // 4):
            with here.responses.create(model="sim/slow-5", input="x", stream=True, background=True) as events:
                made = next(iter(events)).response.id  # type: ignore[union-attr]  # it is response.created
                assert there.responses.cancel(made).id == made
    wait_until_sync(lambda: first.balance(key).held == 0, what="all of it is settled")


def test_an_id_that_was_never_made_is_soon_a_404(workers: tuple[RunningGateway, RunningGateway]) -> None:
    first, _ = workers
    with first.sdk(first.new_key()) as here, pytest.raises(openai.NotFoundError):
        here.responses.retrieve("resp_never_made")
