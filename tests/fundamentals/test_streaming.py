"""A streamed answer: as it is produced, event by event, and with a proper end whatever happens to the provider."""

import hashlib
import json
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.fundamentals.test_one_request import HELLO, WEATHER
from tests.support.gateway import StartGateway
from tests.support.sent import Sent


class Ticket(BaseModel):
    title: str
    done: bool


def body(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "input": HELLO, "stream": True, **fields}


def events(data: bytes) -> list[Any]:
    """Returns the JSON of each event, and "[DONE]" as text."""
    lines = [line[6:] for line in data.decode().splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_the_text_arrives_in_deltas(client: OpenAI) -> None:
    text = ""
    kinds = []
    for event in client.responses.create(model="o4-mini", input=HELLO, stream=True):
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type == "response.completed":
            assert event.response.output_text == text
    assert HELLO in text
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


async def test_the_text_arrives_in_deltas_async(async_client: AsyncOpenAI) -> None:
    stream = await async_client.responses.create(model="o4-mini", input=HELLO, stream=True)
    kinds = [event.type async for event in stream]
    assert kinds[-1] == "response.completed"


def test_the_stream_helper_gathers_the_final_response(client: OpenAI) -> None:
    with client.responses.stream(model="o4-mini", input=HELLO) as stream:
        assert HELLO in stream.get_final_response().output_text


async def test_the_stream_helper_with_reasoning_async(async_client: AsyncOpenAI) -> None:
    async with async_client.responses.stream(model="sim/reasoner", input="x", reasoning={"summary": "auto"}) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert "response.reasoning_summary_text.done" in kinds
    assert [item.type for item in final.output] == ["reasoning", "message"]


def test_a_function_call_is_streamed(client: OpenAI) -> None:
    with client.responses.stream(model="o4-mini", input="The weather in Rome?", tools=[WEATHER]) as stream:
        done = [event for event in stream if event.type == "response.function_call_arguments.done"]
    assert json.loads(done[0].arguments) == {"city": "Rome"}


async def test_a_structured_answer_is_streamed_async(async_client: AsyncOpenAI) -> None:
    async with async_client.responses.stream(model="o4-mini", input="A ticket", text_format=Ticket) as stream:
        final = await stream.get_final_response()
    assert isinstance(final.output_parsed, Ticket)


@pytest.mark.parametrize("model", ["sim/crlf", "sim/cr", "sim/comments", "sim/no-done"])
def test_other_line_ends_and_comments_pass(client: OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input=HELLO) as stream:
        assert HELLO in stream.get_final_response().output_text


def test_events_that_the_gateway_does_not_know_pass(client: OpenAI) -> None:
    *_, last = client.responses.create(model="sim/extension", input=HELLO, stream=True)
    assert last.type == "response.completed"


@pytest.mark.parametrize(
    "model",
    ["o4-mini", "sim/crlf", "sim/cr", "sim/comments", "sim/extension", "sim/after-done", "sim/big-512", "sim/failed"],
)
def test_a_stream_has_the_same_digest_on_both_sides(http: httpx.Client, sent: Sent, model: str) -> None:
    with http.stream("POST", "/v1/responses", json=body(model)) as answer:
        received = hashlib.sha256(b"".join(answer.iter_raw())).hexdigest()
    assert answer.headers["content-type"] == "text/event-stream"
    assert sent.of(answer.headers["x-request-id"]).response_sha256 == received


def test_events_arrive_while_the_provider_is_silent(http: httpx.Client) -> None:
    """The provider sends three events and then nothing. A gateway that waited for more would never show them."""
    with http.stream("POST", "/v1/responses", json=body("sim/stall-3")) as answer:
        data = b""
        for piece in answer.iter_raw():
            data += piece
            if len(events(data)) == 3:
                break
    assert data.endswith(b"\n\n")


def test_what_a_client_left_is_read_to_its_end(http: httpx.Client, sent: Sent) -> None:
    with http.stream("POST", "/v1/responses", json=body("sim/slow-20")) as answer:
        next(answer.iter_raw())
    assert not sent.of(answer.headers["x-request-id"]).client_left


def test_a_client_that_leaves_ends_the_work_upstream_where_the_operator_says_so(
    start: StartGateway, sent: Sent
) -> None:
    with start(upstream={"on_client_leave": "abort"}) as gateway, gateway.http(gateway.new_key()) as http:
        with http.stream("POST", "/v1/responses", json=body("sim/stall-3")) as answer:
            next(answer.iter_raw())
        assert sent.of(answer.headers["x-request-id"]).client_left


@pytest.mark.parametrize("model", ["sim/cut-4", "sim/end-4"])
def test_a_cut_stream_ends_with_response_failed(http: httpx.Client, model: str) -> None:
    answer = http.post("/v1/responses", json=body(model))
    *shown, error, failed, done = events(answer.content)
    assert [event["sequence_number"] for event in (*shown, error, failed)] == list(range(6))
    assert error["type"] == "error"
    assert error["error"]["code"] == "upstream_invalid_response"
    assert failed["type"] == "response.failed"
    assert failed["response"]["id"] == shown[0]["response"]["id"]
    assert failed["response"]["error"]["code"] == "upstream_invalid_response"
    assert done == "[DONE]"


def test_the_sdk_raises_on_a_cut_stream(client: OpenAI) -> None:
    with pytest.raises(openai.APIError, match="provider"):
        list(client.responses.create(model="sim/cut-4", input=HELLO, stream=True))


def test_a_failed_response_is_the_providers_to_tell(client: OpenAI) -> None:
    *_, last = client.responses.create(model="sim/failed", input=HELLO, stream=True)
    assert last.type == "response.failed"


def test_proxies_are_asked_not_to_buffer(http: httpx.Client) -> None:
    answer = http.post("/v1/responses", json=body("o4-mini"))
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "no-cache"
