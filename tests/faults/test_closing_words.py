"""What the gateway says itself where a stream breaks off, and where it must not say anything.

| the stream                                   | breaks off: the client gets                             |
|----------------------------------------------|---------------------------------------------------------|
| of a response by id, resumed with            | an error event alone: the response goes on, and can be  |
| starting_after, or in the background         | resumed; no ending, id or number is made up             |
| any other                                    | an error event, then response.failed with the shown id  |
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from tests.faults.conftest import Stages
from tests.support.scenario import (
    EVENT_STREAM,
    JSON,
    Scenario,
    chunk,
    created,
    delta,
    end_of_body,
    event,
    more,
    response,
    stream,
    usage,
)
from tests.support.scripted_upstream import Step, answer, close, hang, request, reset, send

ID = "resp_upstream1"
MADE = (request(), answer(json.dumps(response("completed", usage=usage(100, 7))).encode(), headers=JSON))
SENT = delta("one", 6)
QUERIES = {"by id": "?stream=true", "resumed": "?stream=true&starting_after=5"}
FAULTS: dict[str, Sequence[Step]] = {
    "closed before any event": [close()],
    "closed behind an event": [more(SENT), close()],
    "closed inside an event": [more(SENT), send(chunk(b"event: response.output_te")), close()],
    "reset": [more(SENT), reset()],
    "silent": [more(SENT), hang()],
    "half a chunk": [more(SENT), send(b"400\r\ndata: "), close()],
}
IMPATIENT = {"chunk_timeout_s": 0.5}


def events_in(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream, without its last word."""
    datas = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(data) for data in datas if data != b"[DONE]"]


def check_closing_error(told: dict[str, Any]) -> None:
    """For SDKs that read the error's own object, and for clients that look at the event's top level."""
    assert told["type"] == "error"
    for place in (told, told["error"]):
        assert all(isinstance(place[name], str) for name in ("message", "code", "param")), told


async def resumed(scenario: Scenario, query: str) -> bytes:
    """The body of the stream of a response that exists."""
    await (await scenario.ask()).read_all()
    headers = {"authorization": f"Bearer {scenario.key.text}"}
    async with httpx.AsyncClient(base_url=scenario.gateway.url, headers=headers, timeout=20) as http:
        answered = await http.get(f"/v1/responses/{ID}{query}")
        assert answered.status_code == 200
        return answered.content


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("query", QUERIES)
async def test_nothing_is_made_up_of_a_response_by_id(stages: Stages, query: str, fault: str) -> None:
    script = [*MADE, request(), send(EVENT_STREAM), *FAULTS[fault]]
    async with stages(script, upstream=IMPATIENT, limits={}) as scenario:
        body = await resumed(scenario, QUERIES[query])
        assert body.startswith(SENT) == (SENT in body)
        *passed, last = events_in(body)
        check_closing_error(last)
        assert "sequence_number" not in last
        assert "response" not in last
        assert [one["type"] for one in passed] == ["response.output_text.delta"] * (SENT in body)


@pytest.mark.parametrize("query", QUERIES)
async def test_an_empty_stream_by_id_ends_as_its_provider_ends_it(stages: Stages, query: str) -> None:
    async with stages([*MADE, request(), stream(), end_of_body()], limits={}) as scenario:
        assert await resumed(scenario, QUERIES[query]) == b""
        await scenario.logged(2)
        assert scenario.log_lines()[-1]["outcome"] == "completed"


@pytest.mark.parametrize("fault", FAULTS)
async def test_nothing_is_made_up_of_a_response_in_the_background(stages: Stages, fault: str) -> None:
    opening = event("response.created", 0, response=response("queued", background=True))
    script = [request(), stream(opening), *FAULTS[fault]]
    async with stages(script, upstream=IMPATIENT) as scenario:
        client = await scenario.ask(stream=True, background=True)
        await client.read_all()
        assert client.body.startswith(opening)
        told = events_in(client.body)
        check_closing_error(told[-1])
        assert "sequence_number" not in told[-1]
        assert not {one["type"] for one in told} & {"response.failed", "response.incomplete", "response.completed"}


@pytest.mark.parametrize("by_id", [False, True], ids=["its own", "by id"])
async def test_a_cancelled_response_has_ended(stages: Stages, by_id: bool) -> None:
    cancelled = event("response.cancelled", 7, response=response("cancelled", usage=usage(100, 3)))
    rest = [stream(created(), SENT, cancelled), close()]
    script = [*MADE, request(), *rest] if by_id else [request(), *rest]
    async with stages(script, limits={}) as scenario:
        if by_id:
            body = await resumed(scenario, QUERIES["by id"])
        else:
            client = await scenario.ask(stream=True)
            await client.read_all()
            body = client.body
        assert body == created() + SENT + cancelled, "and no word more"
        await scenario.logged(1 + by_id)
        assert scenario.log_lines()[-1]["outcome"] == "incomplete"


@pytest.mark.parametrize("fault", FAULTS)
async def test_elsewhere_an_error_and_an_ending_follow(stages: Stages, fault: str) -> None:
    script = [request(), stream(created()), *FAULTS[fault]]
    async with stages(script, upstream=IMPATIENT) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_all()
        *_, error, failed = events_in(client.body)
        check_closing_error(error)
        assert (failed["type"], failed["response"]["id"]) == ("response.failed", ID)
        numbers = [one["sequence_number"] for one in events_in(client.body)]
        assert numbers == sorted(numbers)
