"""The official SDK talks to the simulator, sync and async, and finds what it expects."""

import json
from collections.abc import AsyncIterator, Iterator
from enum import StrEnum
from typing import Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import FunctionToolParam, ResponseFunctionToolCall
from pydantic import BaseModel


def weather_tool() -> FunctionToolParam:
    return {
        "type": "function",
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
        "strict": True,
    }


class Priority(StrEnum):
    LOW = "low"
    HIGH = "high"


class Step(BaseModel):
    kind: Literal["step"]
    text: str
    minutes: int | None


class Ticket(BaseModel):
    title: str
    priority: Priority
    estimate: float
    steps: list[Step]
    parent: "Ticket | None"


@pytest.fixture
def client(simulator_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{simulator_url}/v1", api_key="sk-anything", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(simulator_url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{simulator_url}/v1", api_key="sk-anything", max_retries=0) as client:
        yield client


def test_a_plain_answer(client: OpenAI) -> None:
    answer = client.responses.create(model="o4-mini", input="Hello, world!")
    assert answer.status == "completed"
    assert "Hello, world!" in answer.output_text
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


async def test_a_plain_answer_async(async_client: AsyncOpenAI) -> None:
    answer = await async_client.responses.create(model="o4-mini", input="Hello, world!")
    assert "Hello, world!" in answer.output_text


def test_a_streamed_answer(client: OpenAI) -> None:
    text = ""
    for event in client.responses.create(model="o4-mini", input="Hello, world!", stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type == "response.completed":
            assert event.response.output_text == text
    assert "Hello, world!" in text


def test_unknown_events_and_items_do_not_disturb_a_stream(client: OpenAI) -> None:
    events = list(client.responses.create(model="sim/extension", input="Hello, world!", stream=True))
    last = events[-1]
    assert last.type == "response.completed"
    assert "Hello, world!" in last.response.output_text


@pytest.mark.parametrize("model", ["o4-mini", "sim/crlf", "sim/cr", "sim/comments", "sim/slow-1"])
def test_the_stream_helper_gathers_the_final_response(client: OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input="Hello, world!") as stream:
        assert "Hello, world!" in stream.get_final_response().output_text


async def test_the_stream_helper_async_with_reasoning(async_client: AsyncOpenAI) -> None:
    async with async_client.responses.stream(model="sim/reasoner", input="x", reasoning={"summary": "auto"}) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert "response.reasoning_summary_text.done" in kinds
    assert [item.type for item in final.output] == ["reasoning", "message"]


def test_a_tool_call_and_the_answer_that_uses_its_output(client: OpenAI) -> None:
    question = "What is the weather in Paris?"
    asked = client.responses.create(model="o4-mini", input=question, tools=[weather_tool()])
    call = asked.output[0]
    assert isinstance(call, ResponseFunctionToolCall)
    assert json.loads(call.arguments) == {"city": "Paris", "unit": "celsius"}
    done = client.responses.create(
        model="o4-mini",
        tools=[weather_tool()],
        input=[
            {"role": "user", "content": question},
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
            {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees and sunny"},
        ],
    )
    assert "21 degrees and sunny" in done.output_text


def test_a_streamed_tool_call(client: OpenAI) -> None:
    with client.responses.stream(model="m", input="The weather in Rome?", tools=[weather_tool()]) as stream:
        done = [event for event in stream if event.type == "response.function_call_arguments.done"]
        final = stream.get_final_response()
    assert json.loads(done[0].arguments)["city"] == "Rome"
    assert final.output[0].type == "function_call"


def test_a_parsed_answer_is_an_instance_of_its_class(client: OpenAI) -> None:
    ticket = client.responses.parse(model="o4-mini", input="Make a ticket", text_format=Ticket).output_parsed
    assert isinstance(ticket, Ticket)
    assert ticket.steps[0].kind == "step"


async def test_a_parsed_stream_async(async_client: AsyncOpenAI) -> None:
    async with async_client.responses.stream(model="m", input="Make a ticket", text_format=Ticket) as stream:
        final = await stream.get_final_response()
    assert isinstance(final.output_parsed, Ticket)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_an_error_is_typed_and_carries_code_and_request_id(
    client: OpenAI, status: int, error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error) as caught:
        client.responses.create(model=f"sim/error-{status}", input="x")
    assert caught.value.status_code == status
    assert caught.value.code == "simulated_error"
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("req_")


def test_an_error_event_in_a_stream_raises(client: OpenAI) -> None:
    with pytest.raises(openai.APIError, match="asked to fail"):
        list(client.responses.create(model="sim/error-event", input="x", stream=True))


def test_a_cut_connection_raises(client: OpenAI) -> None:
    with pytest.raises(openai.APIConnectionError):
        client.responses.create(model="sim/cut-1", input="x")


def test_a_stored_response_read_listed_counted_compacted_and_deleted(client: OpenAI) -> None:
    made = client.responses.create(model="m", input="Hello, world!")
    assert client.responses.retrieve(made.id).output_text == made.output_text
    rest = list(client.responses.retrieve(made.id, stream=True, starting_after=5))
    assert rest[0].sequence_number == 6
    assert len(list(client.responses.input_items.list(made.id))) == 1
    assert client.responses.input_tokens.count(model="m", input="Hello, world!").input_tokens > 0
    assert client.responses.compact(model="m", input="Hello, world!").output[-1].type == "compaction"
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_background_response_is_cancelled(client: OpenAI) -> None:
    made = client.responses.create(model="sim/slow-60000", input="x", background=True)
    assert made.status == "in_progress"
    assert client.responses.cancel(made.id).status == "cancelled"


async def test_models_are_listed(async_client: AsyncOpenAI) -> None:
    assert "sim/reasoner" in [model.id async for model in async_client.models.list()]
    assert (await async_client.models.retrieve("any/name")).id == "any/name"
