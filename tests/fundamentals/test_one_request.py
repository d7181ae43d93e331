"""One request, one answer, through the official SDK: whatever the specification permits reaches the provider."""

import json
from typing import Any, Literal

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import FunctionToolParam, ResponseFunctionToolCall
from pydantic import BaseModel

from tests.support.gateway import UPSTREAM_KEY, NewKey
from tests.support.sent import Sent, request_id, sha256

HELLO = "Hello, world!"
IMAGE = "data:image/png;base64,iVBORw0KGgo="
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Ticket(BaseModel):
    title: str
    priority: Literal["low", "high"]
    steps: list[str]


def test_a_text_is_answered(client: OpenAI) -> None:
    answer = client.responses.create(model="o4-mini", input=HELLO)
    assert answer.status == "completed"
    assert HELLO in answer.output_text
    assert answer.usage is not None
    assert answer.usage.output_tokens > 0


async def test_a_text_is_answered_async(async_client: AsyncOpenAI) -> None:
    answer = await async_client.responses.create(model="o4-mini", input=HELLO)
    assert HELLO in answer.output_text


def test_the_input_may_be_a_conversation(client: OpenAI, sent: Sent) -> None:
    conversation: Any = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello Ada."},
        {"role": "user", "content": [{"type": "input_text", "text": "What is my name?"}]},
    ]
    answer = client.responses.create(model="o4-mini", input=conversation)
    assert "What is my name?" in answer.output_text
    assert sent.of(request_id(answer)).fields["input"] == conversation


def test_every_answer_names_its_request(client: OpenAI, http: httpx.Client) -> None:
    answer = client.responses.create(model="o4-mini", input=HELLO)
    assert request_id(answer).startswith("req_")
    plain = http.post("/v1/responses", json={"model": "o4-mini", "input": HELLO})
    assert plain.headers["x-request-id"] != plain.headers["x-upstream-request-id"]


def test_a_function_is_called_and_its_output_used(client: OpenAI) -> None:
    question = "What is the weather in Paris?"
    asked = client.responses.create(model="o4-mini", input=question, tools=[WEATHER])
    call = asked.output[0]
    assert isinstance(call, ResponseFunctionToolCall)
    assert json.loads(call.arguments) == {"city": "Paris"}
    done = client.responses.create(
        model="o4-mini",
        tools=[WEATHER],
        input=[
            {"role": "user", "content": question},
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
            {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"},
        ],
    )
    assert "21 degrees" in done.output_text


def test_an_answer_is_parsed_into_a_class(client: OpenAI) -> None:
    ticket = client.responses.parse(model="o4-mini", input="Make a ticket", text_format=Ticket).output_parsed
    assert isinstance(ticket, Ticket)


async def test_an_answer_is_parsed_into_a_class_async(async_client: AsyncOpenAI) -> None:
    answer = await async_client.responses.parse(model="o4-mini", input="Make a ticket", text_format=Ticket)
    assert isinstance(answer.output_parsed, Ticket)


def test_a_model_reasons(client: OpenAI, sent: Sent) -> None:
    answer = client.responses.create(
        model="sim/reasoner", input=HELLO, reasoning={"effort": "low", "summary": "auto"}, include=[]
    )
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert sent.of(request_id(answer)).fields["reasoning"] == {"effort": "low", "summary": "auto"}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": IMAGE, "detail": "auto"},
        {"type": "input_image", "image_url": "https://example.com/cat.png", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
        {"type": "input_file", "file_url": "https://example.com/a.pdf"},
        {"type": "input_file", "file_id": "file-123"},
    ],
)
def test_images_and_attachments_reach_the_provider(client: OpenAI, sent: Sent, part: Any) -> None:
    content: Any = [{"type": "input_text", "text": "What is this?"}, part]
    answer = client.responses.create(model="o4-mini", input=[{"role": "user", "content": content}])
    assert sent.of(request_id(answer)).fields["input"][0]["content"] == content


@pytest.mark.parametrize(
    "extra",
    [
        {"provider": {"order": ["openai", "azure"], "allow_fallbacks": False}},
        {"a_field_of_tomorrow": {"deep": [1, None, {"x": "\N{SNOWMAN}"}]}},
        {"tools": [{"type": "a_tool_of_tomorrow", "x": 1}], "input": [{"type": "an_item_of_tomorrow", "y": [2]}]},
        {"temperature": 0.1, "metadata": {"a": "b"}, "store": False, "instructions": "Be short."},
    ],
)
def test_fields_that_the_gateway_does_not_know_reach_the_provider(
    client: OpenAI, sent: Sent, extra: dict[str, Any]
) -> None:
    answer = client.responses.create(model="o4-mini", input=HELLO, extra_body=extra)
    assert sent.of(request_id(answer)).fields == {"model": "o4-mini", "input": HELLO, **extra}


def test_items_that_the_gateway_does_not_know_reach_the_client(http: httpx.Client) -> None:
    answer = http.post("/v1/responses", json={"model": "sim/extension", "input": HELLO})
    assert answer.json()["output"][0]["type"] == "sim:note"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"o4-mini","input":"Hello"}',
        b' \r\n{ "input" :\t"Hello" , "stream":null, "model" : "o4-mini" }\n ',
        b'{"model":"o4-mini","input":"\\u0048ello \xe2\x98\x83 \\ud83d","n":1e400,"m":1.00000000000000000001}',
        b'{"model":"o4-mini","input":"Hello","x":{},"x":1}',
    ],
)
def test_the_body_reaches_the_provider_byte_for_byte(http: httpx.Client, sent: Sent, body: bytes) -> None:
    answer = http.post("/v1/responses", content=body, headers={"content-type": "application/json"})
    assert sent.of(answer.headers["x-request-id"]).body == body


def test_the_provider_sees_the_gateways_key_and_nothing_of_the_clients(
    http: httpx.Client, sent: Sent, key: NewKey
) -> None:
    private = {"cookie": "a=b", "x-forwarded-for": "192.0.2.1", "openai-organization": "org-1", "x-api-key": key.text}
    shared = {"openai-beta": "responses=v2", "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
    answer = http.post("/v1/responses", json={"model": "o4-mini", "input": HELLO}, headers=private | shared)
    seen = sent.of(answer.headers["x-request-id"])
    assert seen.authorization_sha256 == sha256(f"Bearer {UPSTREAM_KEY}".encode())
    assert not private.keys() & seen.headers.keys()
    assert shared.items() <= seen.headers.items()
    assert seen.headers["accept-encoding"] == "identity"
    assert key.text not in str(seen)


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8", None]
)
def test_json_is_accepted_with_and_without_a_charset(http: httpx.Client, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = http.post("/v1/responses", content=b'{"model":"o4-mini","input":"Hello"}', headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("body", [{"stream": None}, {"stream": False}, {}])
def test_no_stream_unless_it_is_asked_for(http: httpx.Client, body: dict[str, Any]) -> None:
    answer = http.post("/v1/responses", json={"model": "o4-mini", "input": HELLO, **body})
    assert answer.json()["object"] == "response"
