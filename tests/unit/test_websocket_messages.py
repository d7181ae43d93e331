"""Messages of WebSocket mode: what becomes of them as requests, and of events as messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.protocol.body_bounds import BodyBounds
from gateway.protocol.decoded_body import LARGE_BYTES
from gateway.websocket.messages import error_message, event_message, input_of, read_message, request_body, with_lane

BOUNDS = BodyBounds()
NAMES = ["model", "input", "stream", "stream_options", "stream_id", "generate", "background", "store", "x", "y z", "é"]
SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))
NOT_SENT_ON = {"type", "stream", "stream_options", "stream_id", "generate", "background"}


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in {*NOT_SENT_ON, *names}}


@given(
    st.dictionaries(st.sampled_from(NAMES), VALUES),
    st.integers(0, 11),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", " :\r\n ")]),
    st.sampled_from([False, False, False, True]),
)
@example({}, 0, (",", ":"), False)
@example({"stream": True, "generate": False}, 1, (", ", ": "), False)
def test_a_request_is_the_message_without_what_only_messages_have(
    fields: dict[str, Any], place: int, separators: tuple[str, str], large: bool
) -> None:
    fields.pop("stream_id", None)
    if large:
        fields["input"] = "x" * LARGE_BYTES
    members = list(fields.items())
    members.insert(place, ("type", "response.create"))
    text = json.dumps(dict(members), separators=separators).encode()
    message = read_message(text, BOUNDS)
    assert json.loads(request_body(message)) == {"stream": True, **without(fields)}
    changed = request_body(message, {"input": b"[1]", "previous_response_id": None})
    assert json.loads(changed) == {
        "stream": True,
        "input": [1],
        **without(fields, "input", "previous_response_id"),
    }
    assert input_of(message) == fields.get("input")


def test_every_other_byte_stays() -> None:
    text = b'{ "type" : "response.create" , "model":"m",  "n": 1.0e2, "t":"\\u00e9",\n "stream": false, "d":[ ]} '
    assert (
        request_body(read_message(text, BOUNDS)) == b'{"stream":true,"model":"m",  "n": 1.0e2, "t":"\\u00e9","d":[ ]}'
    )


@pytest.mark.parametrize(
    "text", [b'{"type":"response.create","type":"x"}', b'{"type":"response.create","Stream":true}']
)
def test_a_member_that_two_could_read_in_two_ways_is_refused(text: bytes) -> None:
    with pytest.raises(GatewayError) as refused:
        read_message(text, BOUNDS)
    assert refused.value.code == "duplicate_field"


def sse(data: str, name: str = "", newline: str = "\n") -> bytes:
    lines = ([f"event: {name}"] if name else []) + [f"data: {line}" for line in data.split("\n")]
    return newline.join([*lines, "", ""]).encode()


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["", "response.output_text.delta"])
def test_an_event_is_its_data_byte_for_byte(name: str, newline: str) -> None:
    data = '{"type":"response.output_text.delta", "delta" : "a\\n\\u00e9 é", "sequence_number":3}'
    shown = event_message(sse(data, name, newline), "")
    assert shown is not None
    assert shown.message == data.encode()
    assert shown.error is None


@pytest.mark.parametrize("event", [b": keep-alive\n\n", b"data: [DONE]\n\n", b"event: x\n\n", b"\n\n", b"id: 7\n\n"])
def test_what_has_no_object_is_no_message(event: bytes) -> None:
    assert event_message(event, "") is None


@given(st.dictionaries(st.text(max_size=5), VALUES), st.booleans())
@example({}, True)
@example({"stream_id": "theirs"}, False)
def test_an_event_of_a_lane_says_so(fields: dict[str, Any], spaced: bool) -> None:
    data = json.dumps(fields, indent=1 if spaced else None).encode()
    assert json.loads(with_lane(data, "a.b")) == {**fields, "stream_id": "a.b"}
    assert with_lane(data, "") == data


def test_bytes_that_are_no_utf_8_are_replaced() -> None:
    shown = event_message(b'data: {"type":"x","delta":"\xff"}\n\n', "")
    assert shown is not None
    assert json.loads(shown.message)["delta"] == "�"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        ('{"type":"error","code":"rate_limit_exceeded","message":"m","param":null}', 429, "rate_limit_exceeded"),
        (
            '{"type":"error","error":{"code":"upstream_timeout","message":"m","type":"timeout"}}',
            408,
            "upstream_timeout",
        ),
        ('{"type":"error","error":{"message":"m","type":"overloaded_error"}}', 529, None),
        ('{"type":"error","status":418,"error":{"code":"c","message":"m"}}', 418, "c"),
        ('{"type":"error","status":"400","code":"unheard","message":"m"}', 500, "unheard"),
        ('{"type":"error","message":"m"}', 500, "http_500"),
    ],
)
def test_an_error_event_has_a_numeric_status(data: str, status: int, code: str | None) -> None:
    shown = event_message(sse(data, "error"), "lane")
    assert shown is not None
    event = json.loads(shown.message)
    assert (event["status"], event["error"].get("code"), event["stream_id"]) == (status, code, "lane")
    assert {**event, "status": 0, "error": 0, "stream_id": 0} == {
        **json.loads(data), "status": 0, "error": 0, "stream_id": 0,
    }  # fmt: skip


def test_a_word_in_a_text_is_no_error() -> None:
    shown = event_message(sse('{"type":"response.output_text.delta","delta":"\\"type\\":\\"error\\""}'), "")
    assert shown is not None
    assert shown.error is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error":{"message":"m","type":"t","param":"","code":"c"}}', "c"),
        (b'{"error":{"message":"m","type":"t","code":429}}', "429"),
        (b'{"error":{"message":"m","type":"t"}}', "t"),
        (b'{"error":"m"}', "http_429"),
        (b"<html>", "http_429"),
    ],
)
def test_a_refusal_in_any_form_is_an_error_with_a_code_and_a_message(body: bytes, code: str) -> None:
    event = json.loads(error_message(429, body, [(b"retry-after", b"3"), (b"content-length", b"1")], ""))
    assert (event["type"], event["status"], event["error"]["code"]) == ("error", 429, code)
    assert isinstance(event["error"]["message"], str)
    assert event["headers"] == {"retry-after": "3"}
