"""Every answer and every streamed event is what the specification describes, in the order that it describes."""

from collections.abc import Mapping
from typing import Any, Final

import pytest

from tests.simulator.client import WEATHER, Simulator, text_of
from tests.support.specification import event_schemas, validate, validate_event

SCHEMA: Final[Mapping[str, Any]] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PHOTO: Final[Mapping[str, str]] = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
REPORT: Final[Mapping[str, str]] = {
    "type": "input_file",
    "filename": "report.pdf",
    "file_data": "data:application/pdf;base64,AAAA",
}

REQUESTS: Final[Mapping[str, dict[str, Any]]] = {
    "text": {"model": "o4-mini", "input": "Hello, world!"},
    "another name": {"model": "openai/gpt-5.2", "input": "Hello", "temperature": 0, "metadata": {"a": "b"}},
    "items": {"model": "m", "input": [{"type": "message", "role": "user", "content": "Hello"}], "instructions": "Hi"},
    "attachments": {"model": "m", "input": [{"type": "message", "role": "user", "content": [PHOTO, REPORT]}]},
    "function call": {"model": "m", "input": "The weather in Paris?", "tools": [WEATHER]},
    "function, forced": {"model": "m", "input": "x", "tools": [WEATHER], "tool_choice": "required"},
    "function, cut": {"model": "m", "input": "weather", "tools": [WEATHER], "max_output_tokens": 3},
    "function, allowed": {
        "model": "m",
        "input": "weather",
        "tools": [WEATHER],
        "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "get_weather"}]},
    },
    "structured": {
        "model": "m",
        "input": "x",
        "text": {"format": {"type": "json_schema", "name": "c", "schema": SCHEMA, "strict": True}},
    },
    "json object": {"model": "m", "input": "x", "text": {"format": {"type": "json_object"}, "verbosity": "low"}},
    "cut": {"model": "m", "input": "Hello", "max_output_tokens": 5},
    "reasoning": {"model": "sim/reasoner-1", "input": "Hello"},
    "reasoning, summed up": {
        "model": "sim/reasoner",
        "input": "Hello",
        "reasoning": {"summary": "auto", "effort": "low"},
        "include": ["reasoning.encrypted_content"],
    },
    "reasoning, cut": {"model": "sim/reasoner", "input": "Hello", "max_output_tokens": 5},
    "failed": {"model": "sim/failed", "input": "Hello"},
    "incomplete": {"model": "sim/incomplete", "input": "Hello"},
    "error in mid-stream": {"model": "sim/error-event", "input": "Hello"},
    "no usage": {"model": "sim/no-usage", "input": "Hello"},
    "cost": {"model": "sim/cost+cached", "input": "Hello"},
    "provider and a field of tomorrow": {"model": "m", "input": "Hello", "provider": {"order": ["a"]}, "tomorrow": [1]},
}
every_request = pytest.mark.parametrize("request_body", REQUESTS.values(), ids=REQUESTS.keys())


@every_request
def test_a_plain_answer_is_a_response_resource(simulator: Simulator, request_body: dict[str, Any]) -> None:
    answer = simulator.http.post("/v1/responses", json=request_body)
    assert answer.status_code == 200
    validate("ResponseResource", answer.json())


@every_request
def test_every_streamed_event_fits_the_schema_of_its_type(simulator: Simulator, request_body: dict[str, Any]) -> None:
    events = simulator.events(request_body["model"], **{k: v for k, v in request_body.items() if k != "model"})
    for event in events:
        validate_event(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@every_request
def test_the_last_event_holds_the_same_answer_as_the_plain_one(
    simulator: Simulator, request_body: dict[str, Any]
) -> None:
    plain = simulator.http.post("/v1/responses", json=request_body).json()
    events = simulator.events(request_body["model"], **{k: v for k, v in request_body.items() if k != "model"})
    streamed = events[-1]["response"]
    assert events[-1]["type"] == f"response.{plain['status']}"
    assert text_of(streamed) == text_of(plain)
    assert streamed["usage"] == plain["usage"]
    assert [item["type"] for item in streamed["output"]] == [item["type"] for item in plain["output"]]


@every_request
def test_deltas_add_up_to_the_done_events_and_to_the_output(simulator: Simulator, request_body: dict[str, Any]) -> None:
    events = simulator.events(request_body["model"], **{k: v for k, v in request_body.items() if k != "model"})
    gathered: dict[tuple[str, str], str] = {}
    for event in events:
        kind, _, last = event["type"].rpartition(".")
        if last == "delta":
            place = (kind, event["item_id"])
            gathered[place] = gathered.get(place, "") + event["delta"]
        elif last == "done" and kind in ("response.output_text", "response.reasoning"):
            assert gathered.pop((kind, event["item_id"]), "") == event["text"]
        elif event["type"] == "response.function_call_arguments.done":
            assert gathered.pop((kind, event["item_id"]), "") == event["arguments"]
        elif event["type"] == "response.reasoning_summary_text.done":
            assert gathered.pop((kind, event["item_id"])) == event["text"]
        elif event["type"] == "response.output_item.done":
            assert event["item"] == events[-1]["response"]["output"][event["output_index"]]
    assert gathered == {}


def test_a_message_streams_in_the_order_of_the_specification(simulator: Simulator) -> None:
    kinds = [event["type"].removeprefix("response.") for event in simulator.events("o4-mini", max_output_tokens=2)]
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]


def test_a_reasoning_model_thinks_first_and_says_how_many_tokens_that_took(simulator: Simulator) -> None:
    events = simulator.events("sim/reasoner", reasoning={"summary": "auto"})
    kinds = list(dict.fromkeys(event["type"].removeprefix("response.") for event in events))
    assert kinds[2:13] == [
        "output_item.added",
        "content_part.added",
        "reasoning.delta",
        "reasoning.done",
        "content_part.done",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_text.delta",
    ]
    thoughts = sum(event["type"] == "response.reasoning.delta" for event in events)
    assert events[-1]["response"]["usage"]["output_tokens_details"]["reasoning_tokens"] == thoughts > 0


def test_output_tokens_are_the_deltas_that_were_sent(simulator: Simulator) -> None:
    events = simulator.events("o4-mini")
    deltas = sum(event["type"] == "response.output_text.delta" for event in events)
    usage = events[-1]["response"]["usage"]
    assert usage["output_tokens"] == deltas
    assert usage["total_tokens"] == usage["input_tokens"] + deltas


def test_a_compaction_is_a_compact_resource(simulator: Simulator) -> None:
    answer = simulator.http.post("/v1/responses/compact", json={"model": "m", "input": "A long story"})
    validate("CompactResource", answer.json())
    assert answer.json()["output"][-1]["type"] == "compaction"


def test_the_validator_refuses_what_the_specification_does_not_allow(simulator: Simulator) -> None:
    answer = simulator.answer("m")
    del answer["truncation"]
    with pytest.raises(Exception, match="truncation"):
        validate("ResponseResource", answer)
    assert len(event_schemas()) == 24
