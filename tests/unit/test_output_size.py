"""How much of an answer its model has put out: what it repeats, and what its tools found, is no output."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.dialects import chat, messages, responses
from gateway.protocol.dialects.responses import RESPONSES
from gateway.protocol.output_size import text_bytes
from gateway.protocol.sse_framer import SseFramer
from gateway.protocol.sse_observer import SseObserver
from gateway.protocol.token_estimates import BYTES_PER_TOKEN, IMAGE_TOKENS

TEXT = "abcd" * 100
PNG = "iVBORw0KGgo" + "A" * 2_000_000
SOUND = base64.b64encode(bytes(1_500_000)).decode()
MP3 = "SUQz" + "A" * 2_000_000


def message(text: str = TEXT, **fields: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": [], **fields}
    return {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}


ITEMS: dict[str, tuple[dict[str, Any], int]] = {
    "a text": (message(), 400),
    "a text with places of citations": (message(annotations=[{"type": "url_citation", "url": "x" * 5000}]), 400),
    "a text with chances": (message(logprobs=[{"token": "abcd", "bytes": [1] * 50, "logprob": -0.1}] * 100), 400),
    "a refusal": ({"type": "message", "content": [{"type": "refusal", "refusal": TEXT}]}, 400),
    "reasoning": ({"type": "reasoning", "summary": [{"type": "summary_text", "text": TEXT}], "content": []}, 400),
    "hidden reasoning": ({"type": "reasoning", "summary": [], "encrypted_content": "A" * 4000}, 3000),
    "a call": ({"type": "function_call", "call_id": "c" * 90, "name": "find", "arguments": TEXT}, 404),
    "what a tool found": ({"type": "mcp_call", "name": "find", "arguments": "{}", "output": TEXT * 50}, 6),
    "what a search found": ({"type": "file_search_call", "queries": ["abcd"], "results": [{"text": TEXT * 9}]}, 4),
    "code and what it said": ({"type": "code_interpreter_call", "code": TEXT, "outputs": [{"logs": TEXT * 9}]}, 400),
    "a list of tools": ({"type": "mcp_list_tools", "tools": [{"name": "x", "description": TEXT * 90}]}, 0),
    "a picture": ({"type": "image_generation_call", "result": PNG}, IMAGE_TOKENS * BYTES_PER_TOKEN),
    "a picture that was too long to read": (
        {"type": "image_generation_call", "result": ""},
        IMAGE_TOKENS * BYTES_PER_TOKEN,
    ),
    "a picture by its address": (
        {"images": [{"image_url": {"url": "data:image/png;base64," + PNG}}]},
        IMAGE_TOKENS * BYTES_PER_TOKEN,
    ),
    "sound": ({"type": "output_audio", "data": SOUND, "transcript": TEXT}, len(SOUND) // 4 + 400),
    "sound with a head": ({"audio": {"data": MP3, "transcript": TEXT, "id": "a" * 99}}, len(MP3) // 4 + 400),
    "text that looks like a picture": (message(PNG[:8000]), 8000),
    "other scripts": (message("日本語"), 9),
}


@pytest.mark.parametrize("name", ITEMS)
def test_an_item_counts_what_its_model_has_put_out(name: str) -> None:
    item, size = ITEMS[name]
    assert text_bytes([item]) == size


def test_what_a_response_repeats_of_its_request_is_no_output() -> None:
    body = {
        "object": "response",
        "output": [message()],
        "instructions": TEXT * 1000,
        "tools": [{"type": "function", "name": "f", "description": TEXT * 1000}],
        "metadata": {"note": TEXT * 100},
        "text": {"format": {"schema": {"description": TEXT * 100}}},
    }
    assert responses.output_bytes(body) == 400


@pytest.mark.parametrize(
    ("measure", "whole", "deltas"),
    [
        (
            chat.output_bytes,
            {"choices": [{"message": {"role": "assistant", "content": TEXT, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": TEXT}}]}}]},
            [{"choices": [{"delta": {"content": TEXT}}]},
             {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "f"}}]}}]},
             {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": TEXT}}]}}]}],
        ),
        (
            chat.output_bytes,
            {"choices": [{"message": {"content": "a", "reasoning": TEXT, "reasoning_details": [{"text": TEXT}]}}]},
            [{"choices": [{"delta": {"content": "a"}}]}, {"choices": [{"delta": {"reasoning": TEXT}}]}],
        ),
        (
            chat.output_bytes,
            {"choices": [{"text": TEXT, "finish_reason": "stop", "logprobs": {"tokens": ["x"] * 100}}]},
            [{"choices": [{"text": TEXT}]}],
        ),
    ],
    ids=["calls", "reasoning twice", "completions"],
)  # fmt: skip
def test_an_answer_in_pieces_has_the_size_of_the_whole(measure: Any, whole: Any, deltas: list[Any]) -> None:
    assert sum(map(measure, deltas)) == measure(whole) > 0


def test_a_tools_input_counts_as_it_is_streamed() -> None:
    whole = {"content": [{"type": "text", "text": TEXT}, {"type": "tool_use", "name": "f", "input": {"a": [1, 2]}}]}
    pieces = [
        {"delta": {"type": "text_delta", "text": TEXT}},
        {"delta": {"type": "input_json_delta", "partial_json": '{"a":[1,'}},
        {"delta": {"type": "input_json_delta", "partial_json": "2]}"}},
    ]
    assert sum(map(messages.delta_bytes, pieces)) == messages.output_bytes(whole)


def test_sound_in_pieces_counts_by_its_kind() -> None:
    sound = {"type": "response.output_audio.delta", "delta": SOUND}
    said = {"type": "response.output_audio_transcript.delta", "delta": TEXT}
    assert responses.delta_bytes(sound) == len(SOUND) // 4
    assert responses.delta_bytes(said) == len(TEXT)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda node: st.lists(node) | st.dictionaries(st.text(), node),
    )
)
def test_anything_has_a_size_of_at_most_its_text(node: Any) -> None:
    assert 0 <= text_bytes(node) <= len(json.dumps(node, ensure_ascii=True).encode()) * 4


def observed(*events: dict[str, Any]) -> SseObserver:
    observer = SseObserver(RESPONSES.stream)  # type: ignore[arg-type]  # responses stream
    framer = SseFramer(observer, 10**8)
    for event in events:
        framer.feed(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode()))
    return observer


@pytest.mark.parametrize("size", [1_000, 40_000, 3_000_000])
def test_an_item_that_comes_whole_is_measured_by_what_is_in_it(size: int) -> None:
    """A stream that breaks off behind a picture of any size: its bytes are no tokens."""
    picture = {"type": "image_generation_call", "id": "ig_1", "result": base64.b64encode(os.urandom(size)).decode()}
    created = {"type": "response.created", "response": {"id": "resp_1", "instructions": TEXT * 10}}
    observer = observed(created, {"type": "response.output_item.done", "item": picture})
    assert observer.output_tokens_estimate() == IMAGE_TOKENS


def test_deltas_count_at_least_one_token_each_until_the_answer_has_ended() -> None:
    deltas = [{"type": "response.output_text.delta", "delta": "ab"} for _ in range(10)]
    observer = observed(*deltas)
    assert observer.output_tokens_estimate() == 10
    observer = observed(*deltas, {"type": "response.completed", "response": {"id": "resp_1"}})
    assert observer.output_tokens_estimate() == 5
