"""An answer on a route whose state the gateway keeps: five fields change, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.items import as_items, with_ids
from gateway.state.lists import page
from gateway.state.replay import events
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
