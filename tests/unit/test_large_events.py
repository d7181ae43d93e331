"""Events of more than 64 KiB tell what smaller ones tell, and pass as they came; so do large answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import sse_framer, sse_observer
from gateway.protocol.dialects.chat import CHAT
from gateway.protocol.dialects.dialect import StreamForm
from gateway.protocol.dialects.responses import RESPONSES
from gateway.protocol.large_json import LARGE_BYTES, read_large
from gateway.protocol.sse_framer import SseFramer
from gateway.protocol.sse_framing import fields, last_boundary, places_of_data
from gateway.protocol.sse_observer import SseObserver
from gateway.protocol.usage_dropping import UsageDroppingFramer
from tests.support.sse_corpus import USAGE, cuts, frame, read, streams

BOUND = 1 << 24
STREAM = cast("StreamForm", RESPONSES.stream)
READ = 32 * 1024


@contextmanager
def every_event_is_large() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (sse_framer, sse_observer):
            patch.setattr(module, "LARGE_BYTES", 30)  # the end of a stream, [DONE], is never large
        yield


@given(st.data(), streams())
def test_large_events_tell_what_a_client_reads(data: st.DataObject, stream: bytes) -> None:
    with every_event_is_large():
        framer = SseFramer(SseObserver(STREAM), BOUND)
        pieces = [framer.feed(chunk) for chunk in data.draw(cuts(stream))]
        pieces.append(framer.finish())
        written = b"".join(pieces)
        facts, truth = framer.observer.summary(), read(written)
    assert stream.startswith(written)
    assert last_boundary(stream[len(written) :]) < 0, "at most half an event is dropped"
    assert facts.usage == truth.usage
    assert (facts.terminal, facts.error is not None) == (truth.terminal, truth.error_seen)


def fed(framer: SseFramer, stream: bytes) -> bytes:
    """Feeds it as it comes from a socket, and examines large events as a relay does."""
    pieces = []
    for at in range(0, len(stream), READ):
        pieces.append(framer.feed(stream[at : at + READ]))
        if framer.observer.large:
            framer.observer.examine()
    return b"".join(pieces)


def test_a_large_response_is_read_without_what_is_only_long() -> None:
    image = {"type": "image_generation_call", "result": "A" * 3_000_000}
    search = {"type": "web_search_call", "action": {"type": "search", "query": "x"}}
    response = {"id": "resp_1", "usage": USAGE, "output": [image, search], "service_tier": "flex"}
    events = [
        {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "instructions": "x" * 100_000}},
        {"type": "response.output_item.done", "sequence_number": 1, "item": image},
        {"type": "response.completed", "sequence_number": 2, "response": response},
    ]
    stream = "".join(frame(event, name=str(event["type"])) for event in events).encode()
    framer = SseFramer(SseObserver(STREAM), BOUND)
    assert fed(framer, stream) == stream
    facts = framer.observer.summary()
    assert (facts.usage, facts.ended, facts.response_id, facts.has_opening) == (USAGE, "completed", "resp_1", True)
    assert facts.answer["service_tier"] == "flex"
    assert [item["type"] for item in facts.answer["output"]] == ["image_generation_call", "web_search_call"]
    assert (facts.last_sequence_number(), facts.events) == (2, 3)


def test_a_large_event_without_its_blank_line_is_read_for_its_usage() -> None:
    response = {"id": "resp_1", "output": ["x" * 200_000], "usage": USAGE}
    framer = SseFramer(SseObserver(STREAM), BOUND)
    fed(framer, frame({"type": "response.completed", "response": response}).encode().rstrip())
    assert framer.takes_long
    framer.finish(was_cut=True)
    assert framer.observer.summary().usage == USAGE


def test_large_deltas_count_by_their_text() -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "word " * 40_000}}]}
    framer = SseFramer(SseObserver(cast("StreamForm", CHAT.stream)), BOUND)
    stream = (frame(chunk) * 3).encode()
    assert fed(framer, stream) == stream
    assert framer.observer.summary().deltas == 3
    assert framer.observer.output_tokens_estimate() == 3 * 200_000 // 4


def test_a_usage_that_nobody_asked_for_is_left_out_behind_a_large_event() -> None:
    large = frame({"choices": [{"index": 0, "delta": {"content": "x" * 200_000}}]})
    usage = frame({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    framer = UsageDroppingFramer(SseObserver(cast("StreamForm", CHAT.stream)), BOUND)
    assert fed(framer, (large + usage + frame("[DONE]")).encode()) == (large + frame("[DONE]")).encode()
    assert framer.observer.summary().usage == {"prompt_tokens": 1, "completion_tokens": 2}


# Large answers


def test_an_answer_with_more_values_than_are_looked_at_is_read_at_its_beginning_and_its_end() -> None:
    filler: dict[str, Any] = {"logprobs": [[] for _ in range(9_000)]}
    answer: dict[str, Any] = {"id": "resp_1", "note": "x" * LARGE_BYTES, "output": [filler] * 9, "usage": USAGE}
    data = json.dumps(answer).encode()
    assert read_large(data) == answer
    assert read_large(b"\xef\xbb\xbf" + data) == answer
    some = read_large(data, max_values=1000)
    assert some is not None
    assert (some["id"], some["usage"]) == ("resp_1", USAGE)


def test_of_millions_of_values_the_first_are_kept() -> None:
    answer = {"output": [{"logprobs": [{"token": "a"}] * 200_000, "type": "message"}] * 2, "usage": USAGE}
    read_ = read_large(json.dumps(answer).encode())
    assert read_ is not None
    assert read_["usage"] == USAGE
    assert [item["type"] for item in read_["output"]] == ["message", "message"]
    assert all(len(item["logprobs"]) < 20_000 for item in read_["output"])


@given(st.lists(st.sampled_from(["data: a", "data:b", "data", "event: e", ": c", "id:1", "", "x" * 40]), max_size=8))
def test_the_fields_of_a_large_block_are_those_of_a_small_one(lines: list[str]) -> None:
    block = "\n".join(lines).encode()
    name, places = places_of_data(block)
    assert (name, b"\n".join(block[start:end] for start, end in places)) == fields(block)


@pytest.mark.parametrize("data", [b'{"a":1', b"[1]", b'{"a":%b' % (b"[" * 100_000), b'"a"'])
def test_what_is_no_object_is_none(data: bytes) -> None:
    assert read_large(data) is None
