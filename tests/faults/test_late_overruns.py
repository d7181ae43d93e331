"""A cost above the hold that only a later look at a response shows is an overrun of the request that made it.

| made by                          | and its usage is seen by             |
|----------------------------------|--------------------------------------|
| a request in the background      | its client's GET, plain or streamed  |
| a stream in the background, left | its client's cancel                  |
| a stream that was left           | a question of the gateway's own      |
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import httpx
import pytest

from gateway.ledger.verification import verify
from gateway.proxy import late_usage
from tests.faults.conftest import Stages
from tests.support.admins import admin_client, done
from tests.support.scenario import (
    EVENT_STREAM,
    JSON,
    Scenario,
    chunk,
    created,
    delta,
    end_of_body,
    event,
    response,
    stream,
    usage,
)
from tests.support.scripted_upstream import Step, answer, hang, request, send, wait_for
from tests.support.waiting import wait_until

ID: Final = "resp_upstream1"
USED: Final = (100, 40_000)
COST: Final = 100 * 1_000 + 40_000 * 10_000
PAUSES: Final = {"on_overrun": "pause"}
ABORTS: Final = {"on_client_leave": "abort"}


def told(status: str, **fields: Any) -> Sequence[Step]:
    return (request(), answer(json.dumps(response(status, **fields)).encode(), headers=JSON))


def ended(used: tuple[int, int] = USED, **fields: Any) -> Sequence[Step]:
    return told("completed", usage={**usage(*used), **fields})


def streamed(used: tuple[int, int] = USED) -> Sequence[Step]:
    last = event("response.completed", 1, response=response("completed", usage=usage(*used)))
    return (request(), stream(created(), last), end_of_body())


QUEUED: Final = told("queued", background=True)
LEFT: Final = (request(), send(EVENT_STREAM, chunk(created()), chunk(delta("one"))), hang())
IN_THE_BACKGROUND: Final = event("response.created", 0, response=response("in_progress", background=True))
LEFT_IN_THE_BACKGROUND: Final = (request(), send(EVENT_STREAM, chunk(IN_THE_BACKGROUND)), hang())


@pytest.fixture(autouse=True)
def asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's own questions come late, except where a test hastens them."""
    monkeypatch.setattr(late_usage, "_DELAYS_S", (60.0,))


async def by_id(scenario: Scenario, method: str = "GET", path: str = "") -> None:
    headers = {"authorization": scenario.authorization.partition(": ")[2].strip()}
    async with httpx.AsyncClient(headers=headers) as http:
        answer = await http.request(method, f"{scenario.gateway.url}/v1/responses/{ID}{path}")
        assert answer.status_code == 200, answer.text


async def polled(scenario: Scenario) -> None:
    await (await scenario.ask(background=True)).read_all()
    await by_id(scenario)


async def read_as_a_stream(scenario: Scenario) -> None:
    await (await scenario.ask(background=True)).read_all()
    await by_id(scenario, path="?stream=true")


async def cancelled(scenario: Scenario) -> None:
    client = await scenario.ask(stream=True, background=True)
    await client.read_until(ID.encode())
    client.leave()
    await scenario.logged(1)
    await by_id(scenario, "POST", "/cancel")


async def left(scenario: Scenario) -> None:
    client = await scenario.ask(stream=True)
    await client.read_until(b'"one"')
    client.leave()
    await scenario.logged(1)


async def left_and_polled(scenario: Scenario) -> None:
    await left(scenario)
    await by_id(scenario)


SEEN: dict[str, tuple[Callable[[Scenario], Awaitable[None]], Sequence[Sequence[Step]]]] = {
    "a poll": (polled, [[*QUEUED, *ended()]]),
    "a stream of it": (read_as_a_stream, [[*QUEUED, *streamed()]]),
    "its cancelling": (cancelled, [LEFT_IN_THE_BACKGROUND, ended()]),
    "a poll behind a stream": (left_and_polled, [LEFT, ended()]),
    "the gateway": (left, [LEFT, ended()]),
}


async def settled(scenario: Scenario) -> tuple[dict[str, str], dict[str, str]]:
    """What was charged first, and the correction, in a journal that adds up."""

    def charges() -> list[dict[str, str]]:
        return [entry for entry in scenario.journal() if entry["type"] == "settle"]

    await wait_until(lambda: len(charges()) == 2, what="the correction is in the journal")
    services = scenario.gateway.services
    checked = await asyncio.to_thread(scenario.gateway.run, verify(services.store, scenario.key.team.id))
    assert checked.differences == ()
    made, corrected = charges()
    return made, corrected


def overruns(scenario: Scenario) -> dict[str, float]:
    """What is counted of them, without the labels."""
    lines = httpx.get(f"{scenario.gateway.url}/metrics").text.splitlines()
    names = ("gateway_overruns_total{", "gateway_overrun_usd_total{", "gateway_pauses_total{")
    found = (line.rpartition(" ") for line in lines if line.startswith(names))
    return {name.partition("{")[0]: float(value) for name, _, value in found}


async def refused(scenario: Scenario) -> dict[str, Any] | None:
    """The error of another request of the team; None: it is served."""
    again = await scenario.ask()
    await again.read_all()
    error: dict[str, Any] | None = json.loads(again.body).get("error")
    return error


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("route", [PAUSES, {}], ids=["pauses", "allows"])
async def test_a_late_overrun_is_journalled_counted_and_pauses_as_any_other(
    stages: Stages, monkeypatch: pytest.MonkeyPatch, name: str, route: dict[str, str]
) -> None:
    happens, scripts = SEEN[name]
    if name == "the gateway":
        monkeypatch.setattr(late_usage, "_DELAYS_S", (0.1, 0.2, 0.3))
    async with stages(*scripts, upstream=ABORTS, route=route, limits={}) as scenario:
        await happens(scenario)
        made, corrected = await settled(scenario)
        over = COST - int(made["hold"])
        assert over > 0
        assert int(made["amount"]) + int(corrected["amount"]) == -COST
        assert (made.get("over"), corrected.get("over"), corrected["response"]) == (None, str(over), ID)
        await wait_until(lambda: bool(overruns(scenario)), what="it is counted")
        counted = {"gateway_overruns_total": 1.0, "gateway_overrun_usd_total": over / 1e9}
        assert overruns(scenario) == counted | ({"gateway_pauses_total": 1.0} if route else {})
        error = await refused(scenario)
        if not route:
            assert error is None
            return
        assert error is not None
        assert (error["code"], error["request_id"]) == ("team_paused", made["id"]), "who made it, not who saw it"
        with admin_client(scenario.gateway) as root:

            def pauses() -> list[dict[str, Any]]:
                found = done(root.get("/audit", params={"team": scenario.key.team.id}))["data"]
                return [entry for entry in found if entry["action"] == "pause the team"]

            await wait_until(lambda: bool(pauses()), what="the audit log has the pause")
            assert {entry["request_id"] for entry in pauses()} == {made["id"]}


async def test_requests_that_see_a_usage_at_once_count_once(stages: Stages) -> None:
    both_ask = asyncio.Event()
    read, tell = ended()
    waits = (read, wait_for(both_ask), tell)
    async with stages([*QUEUED, *waits], waits, route=PAUSES, limits={}) as scenario:
        await (await scenario.ask(background=True)).read_all()
        polls = asyncio.gather(by_id(scenario), by_id(scenario))
        await wait_until(lambda: len(scenario.upstream.requests) == 3, what="both have asked")
        both_ask.set()
        await polls
        made, _ = await settled(scenario)
        await scenario.logged(3)
        over = COST - int(made["hold"])
        counted = {"gateway_overruns_total": 1.0, "gateway_overrun_usd_total": over / 1e9, "gateway_pauses_total": 1.0}
        assert overruns(scenario) == counted
        costs = [line["cost_usd"] for line in scenario.log_lines()]
        assert sum(map(Decimal, costs)) * 10**9 == COST


@pytest.mark.parametrize(
    ("route", "cost", "over"),
    [({"cost_source": "upstream"}, "0.75", True), ({"cost_source": "upstream"}, "0.0001", False)],
)
async def test_the_upstreams_own_cost_is_held_against_the_hold_too(
    stages: Stages, route: dict[str, str], cost: str, *, over: bool
) -> None:
    script = [*QUEUED, *ended((10, 10), cost=cost)]
    async with stages(script, upstream=ABORTS, route={**PAUSES, **route}, limits={}) as scenario:
        await polled(scenario)
        made, corrected = await settled(scenario)
        nano_usd = round(float(cost) * 1e9)
        assert int(made["amount"]) + int(corrected["amount"]) == -nano_usd
        assert corrected.get("over") == (str(nano_usd - int(made["hold"])) if over else None)
        assert (await refused(scenario) is not None) is over


async def test_a_correction_within_the_hold_is_no_overrun_though_it_is_more_than_was_charged(stages: Stages) -> None:
    async with stages(LEFT, ended((100, 7)), upstream=ABORTS, route=PAUSES, limits={}) as scenario:
        await left_and_polled(scenario)
        made, corrected = await settled(scenario)
        assert int(corrected["amount"]) < 0
        assert (made.get("over"), corrected.get("over")) == (None, None)
        assert await refused(scenario) is None
        assert overruns(scenario) == {}


async def test_a_usage_that_nobody_believes_is_charged_once_however_often_it_is_told(stages: Stages) -> None:
    """What the first request was charged beyond its hold is no overrun of the second."""
    absurd = event("response.completed", 1, response=response("completed", usage=usage(10, 2**53)))
    script = [request(), stream(created(), absurd), end_of_body(), *ended((10, 2**53))]
    async with stages(script, limits={}) as scenario:
        await (await scenario.ask(stream=True)).read_all()
        await scenario.logged(1)
        once = overruns(scenario)
        await by_id(scenario)
        made, corrected = await settled(scenario)
        assert (made["by"], corrected["amount"], corrected.get("over")) == ("suspicious", "0", None)
        assert once == overruns(scenario) != {}


async def test_an_ending_without_a_usage_is_charged_its_output_within_the_hold(stages: Stages) -> None:
    """And not within what was charged while nobody knew how it would end."""
    output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "word " * 30}]}]
    async with stages(LEFT, told("incomplete", output=output), upstream=ABORTS, route=PAUSES, limits={}) as scenario:
        await left_and_polled(scenario)
        made, corrected = await settled(scenario)
        assert int(made["amount"]) > int(made["amount"]) + int(corrected["amount"]) >= -int(made["hold"])
        assert await refused(scenario) is None


async def test_an_ending_without_a_usage_is_never_charged_more_than_the_hold(stages: Stages) -> None:
    output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "word " * 3000}]}]
    async with stages(LEFT, told("incomplete", output=output), upstream=ABORTS, route=PAUSES, limits={}) as scenario:
        await left_and_polled(scenario)
        made, corrected = await settled(scenario)
        assert int(made["amount"]) + int(corrected["amount"]) == -int(made["hold"])
        assert corrected.get("over") is None
        assert await refused(scenario) is None
