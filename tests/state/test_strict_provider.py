"""The whole API over a provider that keeps nothing and refuses whatever refers to something kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.gateway import RunningGateway, running_gateway, simulator
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

MODEL = "o4-mini"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


@pytest.fixture(scope="module")
def gateway(shared_store: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        simulator(post_only=True) as url,
        running_gateway(shared_store.url, url, tmp_path_factory.mktemp("data"), route={"state": "gateway"}) as running,
    ):
        yield running


@pytest.fixture
def sdk(gateway: RunningGateway) -> Iterator[openai.OpenAI]:
    with gateway.sdk(gateway.new_key()) as client:
        yield client


def test_tools_and_chains(sdk: openai.OpenAI) -> None:
    tools: Any = [dict(WEATHER)]
    first = sdk.responses.create(model=MODEL, input="Weather?", tools=tools, tool_choice="required")
    [call] = [item for item in first.output if item.type == "function_call"]
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = sdk.responses.create(model=MODEL, input=[output], tools=tools, previous_response_id=first.id)
    third = sdk.responses.create(model=MODEL, input="And tomorrow?", previous_response_id=second.id)
    assert third.status == "completed"
    with pytest.raises(openai.BadRequestError, match=call.call_id):
        sdk.responses.create(model=MODEL, input="No output.", previous_response_id=first.id)


def test_reasoning_streams_and_what_agents_send_back(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model="sim/reasoner", input="Think.")
    with sdk.responses.stream(model=MODEL, input="Go on.", previous_response_id=first.id) as stream:
        streamed: Any = stream.get_final_response()
    items: Any = [item.to_dict() for item in first.output]
    resent = sdk.responses.create(model=MODEL, input=[*items, {"role": "user", "content": "Again."}])
    referred: Any = {"type": "item_reference", "id": streamed.output[-1].id}
    named = sdk.responses.create(model=MODEL, input=[referred, {"role": "user", "content": "This one."}])
    assert {resent.status, named.status} == {"completed"}


def test_conversations(sdk: openai.OpenAI) -> None:
    made = sdk.conversations.create(items=[{"type": "message", "role": "user", "content": "Before."}])
    for text in ("One.", "Two."):
        assert sdk.responses.create(model=MODEL, input=text, conversation=made.id).status == "completed"
    assert len(list(sdk.conversations.items.list(made.id, limit=2))) == 5


def test_background_and_compaction(sdk: openai.OpenAI) -> None:
    made = sdk.responses.create(model=MODEL, input="Work.", background=True)
    wait_until_sync(lambda: sdk.responses.retrieve(made.id).status == "completed", what="it is completed")
    compacted = sdk.responses.compact(model=MODEL, previous_response_id=made.id)
    items: Any = [item.to_dict(warnings=False) for item in compacted.output]
    after = sdk.responses.create(model=MODEL, input=[*items, {"role": "user", "content": "Go on."}])
    last = sdk.responses.create(model=MODEL, input="Further.", previous_response_id=after.id)
    assert last.status == "completed"
