"""An answer on a route whose state the gateway keeps: five fields change, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.items import as_items, with_ids
from gateway.state.lists import page
from gateway.state.replay import events, events_after
from gateway.state.rewriting import OutputItems, is_usable_id, read_event, rewrite_event, rewrite_response


def sse(fields: dict[str, Any], name: str = "response.created") -> bytes:
    return f"event: {name}\ndata: {json.dumps(fields)}\n\n".encode()


@given(st.dictionaries(st.sampled_from(["id", "store", "usage", "text", "x"]), st.none() | st.text() | st.integers()))
def test_only_the_named_fields_of_a_response_change(response: dict[str, Any]) -> None:
    changed = json.loads(rewrite_response(json.dumps(response).encode(), {"id": "resp_1", "store": True}))
    assert changed == {**response, "id": "resp_1", "store": True}


def test_an_event_keeps_its_other_lines_and_fields() -> None:
    lines = [b"id: 7", b"event: response.created", b'data: {"type":"response.created",']
    event = b"\n".join([*lines, b'data:  "response":{"id":"a","n":1e400}}', b"", b""])
    changed = rewrite_event(read_event(event), {"id": "resp_1"})
    assert changed == b"\n".join([*lines, b'data:  "response":{"id":"resp_1","n":1e400}}', b"", b""])


@pytest.mark.parametrize(
    "raw",
    [
        b": keep-alive\n\n",
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"\\"response\\""}\n\n',
        b"data: [DONE]\n\n",
        b'data: {"response": "text"}\n\n',
        b'data: not json, but "response"\n\n',
    ],
)
def test_what_holds_no_response_passes_as_it_is(raw: bytes) -> None:
    assert rewrite_event(read_event(raw), {"id": "resp_1"}) == raw


@pytest.mark.parametrize(
    ("identifier", "usable"),
    [
        ("resp_1", True),
        ("resp_" + "a" * 59, True),
        ("resp_" + "a" * 60, False),
        ("gen-1", False),
        (None, False),
        (7, False),
    ],
)
def test_a_response_id_that_clients_cannot_use_is_told(identifier: object, usable: bool) -> None:
    assert is_usable_id(identifier) is usable


def test_output_that_the_terminal_event_lacks_is_filled_from_the_items_own_events() -> None:
    output = OutputItems()
    blob = {"type": "reasoning", "id": "rs_1", "summary": []}
    text = {"type": "message", "id": "msg_1", "content": []}
    for index, item in enumerate([blob, text]):
        output.note({"type": "response.output_item.done", "output_index": index, "item": item})
    assert output.merged([]) == [blob, text]
    sealed = {**blob, "encrypted_content": "b"}
    assert output.merged([sealed]) == [sealed, text]


@given(st.integers(0, 30), st.integers(1, 100), st.sampled_from(["asc", "desc"]))
def test_pages_give_every_item_once_and_end(count: int, limit: int, order: str) -> None:
    items = with_ids(item for number in range(count) for item in as_items(str(number)))
    found, after = [], ""
    while True:
        got = page(items, f"limit={limit}&order={order}{after}".encode())
        found += got["data"]
        if not got["has_more"]:
            break
        after = f"&after={got['last_id']}"
    assert found == (items if order == "asc" else items[::-1])


def test_a_replayed_response_begins_with_created_and_ends_with_its_own_terminal_event() -> None:
    part = {"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    response = {"id": "resp_1", "object": "response", "status": "incomplete", "output": [message], "usage": {"x": 1}}
    made = [json.loads(event.split(b"data: ")[1]) for event in events(response)]
    assert [event["sequence_number"] for event in made] == list(range(len(made)))
    assert (made[0]["type"], made[-1]["type"]) == ("response.created", "response.incomplete")
    assert made[0]["response"]["output"] == []
    assert made[-1]["response"] == response
    assert [event["delta"] for event in made if event["type"] == "response.output_text.delta"] == ["hi"]


def replayed(*items: dict[str, Any], after: int = -1) -> list[dict[str, Any]]:
    response = {"id": "resp_1", "object": "response", "status": "completed", "output": list(items), "usage": None}
    return [json.loads(event.split(b"data: ")[1]) for event in events_after(response, after)]


@pytest.mark.parametrize(
    ("kind", "member", "event"),
    [
        ("function_call", "arguments", "response.function_call_arguments"),
        ("custom_tool_call", "input", "response.custom_tool_call_input"),
        ("mcp_call", "arguments", "response.mcp_call_arguments"),
        ("code_interpreter_call", "code", "response.code_interpreter_call_code"),
    ],
)
def test_a_replayed_call_begins_empty_and_its_text_comes_by_its_own_events(kind: str, member: str, event: str) -> None:
    call = {"type": kind, "id": "x_1", "status": "completed", "name": "add", member: '{"a": 1}'}
    [_, _, added, delta, done, item_done, last] = replayed(call)
    assert (added["item"], item_done["item"]) == ({**call, "status": "in_progress", member: ""}, call)
    assert (delta["type"], delta["delta"]) == (f"{event}.delta", call[member])
    assert (done["type"], done[member]) == (f"{event}.done", call[member])
    assert done.get("name") == ("add" if kind == "function_call" else None)
    assert {one["item_id"] for one in (delta, done)} == {"x_1"}
    assert last["response"]["output"] == [call]


def test_replayed_reasoning_comes_in_parts_and_its_summary_behind_them() -> None:
    reasoning = {
        "type": "reasoning",
        "id": "rs_1",
        "content": [{"type": "reasoning_text", "text": "because"}],
        "summary": [{"type": "summary_text", "text": "in short"}],
        "encrypted_content": "sealed",
    }
    found = replayed(reasoning)
    assert found[2]["item"] == {**reasoning, "content": [], "summary": []}
    assert [event["type"].removeprefix("response.") for event in found[3:-2]] == [
        *("content_part.added", "reasoning.delta", "reasoning.done", "content_part.done"),
        *("reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done"),
    ]
    assert [event["delta"] for event in found if "delta" in event] == ["because", "in short"]
    assert found[-2]["item"] == reasoning


def test_an_item_of_any_other_form_is_replayed_whole() -> None:
    unusual: list[dict[str, Any]] = [
        {"type": "function_call", "id": "fc_1", "arguments": {"a": 1}},
        {"type": "message", "id": "msg_1", "content": "a text"},
        {"type": "program", "id": "p_1", "content": [{"type": "reasoning_text", "text": "x"}]},
    ]
    found = replayed(*unusual)
    for kind in ("added", "done"):
        assert [one["item"] for one in found if one["type"] == f"response.output_item.{kind}"] == unusual


@pytest.mark.parametrize("after", [6, 7, 500])
def test_who_has_seen_more_events_than_are_replayed_gets_the_end(after: int) -> None:
    call = {"type": "function_call", "id": "fc_1", "name": "add", "arguments": "{}"}
    [last] = replayed(call, after=after)
    assert (last["type"], last["sequence_number"]) == ("response.completed", after + 1)
    assert replayed(call, after=5) == [{**last, "sequence_number": 6}]
