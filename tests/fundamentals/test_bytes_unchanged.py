"""Promise one: the client receives what the provider sends, whatever it is and however it is cut.

The provider is a socket that sends given bytes in given pieces, and the client reads its socket; the gateway is between
them. A stream without its end (no terminal event, no [DONE]) is passed on up to its last whole event and ended by the
gateway.
"""

import hashlib
import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.protocol.sse_framing import last_boundary
from tests.fundamentals.any_bytes import ANYTHING, EXAMPLES, FRAMINGS, PLACES, PLAIN, SSE, cut, send
from tests.fundamentals.raw import RawAnswer, RawConnection, RawProvider, bearer
from tests.support.gateway import NewKey, RunningGateway

COMPLETED = (
    b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"resp_1","usage":null}}\n\n'
)
DONE = b"data: [DONE]\n\n"
OWN_ENDING = re.compile(
    rb"(event: response\.created\ndata: .+\n\n)?(event: error\ndata: .+\n\n)?"
    rb"event: response\.failed\ndata: .+\n\ndata: \[DONE\]\n\n"
)


@pytest.fixture
def ask(raw_gateway: RunningGateway, raw_key: NewKey) -> "Ask":
    return Ask(raw_gateway.url, raw_key.text)


class Ask:
    """One request on a connection of its own."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._headers = (bearer(key), "Content-Type: application/json")

    def stream(self) -> RawAnswer:
        return self._send(b'{"model":"m","input":"x","stream":true}')

    def whole(self) -> RawAnswer:
        return self._send(b'{"model":"m","input":"x"}')

    def _send(self, body: bytes) -> RawAnswer:
        with RawConnection(self._url) as wire:
            return wire.request(body, *self._headers)


@EXAMPLES
@given(before=ANYTHING, after=ANYTHING, end=st.sampled_from([COMPLETED, DONE]), places=PLACES, framing=FRAMINGS)
@example(before=b"", after=b"", end=COMPLETED, places=[1], framing="chunked")
@example(before=b"\r", after=b"data: half", end=DONE, places=[1, 2], framing="close")
def test_a_stream_that_ends_is_the_same_bytes(
    provider: RawProvider, ask: Ask, before: bytes, after: bytes, end: bytes, places: list[int], framing: str
) -> None:
    data = before + b"\n\n" + end + after
    send(provider, SSE, cut(data, places), framing)
    answer = ask.stream()
    assert answer.body == data
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


@EXAMPLES
@given(data=ANYTHING.filter(lambda data: b"[DONE]" not in data and b"response.completed" not in data), places=PLACES)
@example(data=b"", places=[])
@example(data=b'data: {"type":"response.created"}\r\n\r\ndata: half', places=[3])
def test_a_stream_without_its_end_is_passed_on_to_its_last_event_and_ended(
    provider: RawProvider, ask: Ask, data: bytes, places: list[int]
) -> None:
    send(provider, SSE, cut(data, places), "chunked")
    answer = ask.stream()
    whole = data[: max(0, last_boundary(b"\n" + data) - 1)]  # a stream starts as a line does
    assert answer.body.startswith(whole)
    assert OWN_ENDING.fullmatch(answer.body, len(whole))


@EXAMPLES
@given(
    fields=st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=30), max_size=4),
    space=st.sampled_from([b"", b" ", b"\r\n\t"]),
    places=PLACES,
    framing=FRAMINGS,
)
def test_a_whole_answer_is_the_same_bytes(
    provider: RawProvider, ask: Ask, fields: dict[str, object], space: bytes, places: list[int], framing: str
) -> None:
    data = space + b'{"id":"resp_1","object":"response","extra":' + json.dumps(fields).encode() + b"}" + space
    send(provider, PLAIN, cut(data, places), framing)
    answer = ask.whole()
    assert (answer.status, answer.body) == (200, data)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    "body",
    [
        b'{"object":"response","output_text":"half an emoji: \\ud83d"}',
        b'{"object":"response","n":1e999,"m":123456789012345678901234567890}',
        b'{"object":"response","x":1,"x":2}',
    ],
)
def test_an_answer_that_strict_parsers_refuse_is_the_same_bytes(provider: RawProvider, ask: Ask, body: bytes) -> None:
    send(provider, PLAIN, [body], "length")
    assert ask.whole().body == body


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 422, 429, 500, 503, 529])
def test_a_refusal_by_the_provider_is_the_same_bytes(
    provider: RawProvider, ask: Ask, status: int, framing: str
) -> None:
    body = b' {"error": {"message": "no", "code": null, "extra": [1]}}\n'
    head = (
        PLAIN.replace(b"200 OK", b"%d No" % status) + b"Retry-After: 0\r\nX-Request-Id: theirs\r\nSet-Cookie: a=b\r\n"
    )
    send(provider, head, [body], framing)
    answer = ask.stream()
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers["retry-after"] == "0"
    assert answer.headers["x-upstream-request-id"] == "theirs"
    assert answer.headers["x-gateway-limit-source"] == "upstream"
    assert "set-cookie" not in answer.headers


def test_a_large_stream_has_the_same_digest_at_both_sockets(provider: RawProvider, ask: Ask) -> None:
    delta = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"%d"}\n\n'
    data = b"".join(delta % number for number in range(20_000)) + COMPLETED + DONE
    send(provider, SSE, cut(data, list(range(0, len(data), 7_001))), "chunked")
    assert ask.stream().sha256 == hashlib.sha256(data).hexdigest()


def test_json_in_answer_to_a_stream_request_is_passed_on(provider: RawProvider, ask: Ask) -> None:
    data = b'{"object":"response","status":"completed"}'
    send(provider, PLAIN, [data], "length")
    assert ask.stream().body == data


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (SSE, COMPLETED + DONE),
        (PLAIN, b"<html>"),
        (PLAIN, b'{"object":"respon'),
        (PLAIN, b"[1]"),
        (PLAIN, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n", b"<html>"),
        (b"HTTP/1.1 200 OK\r\n", b'{"object":"response"}'),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n", b"{}"),
        (b"HTTP/1.1 500 Bad\r\nContent-Type: text/html\r\n", b""),
        (b"HTTP/1.1 401 Bad\r\nContent-Type: application/json\r\n", b'{"error":{"message":"your key"}}'),
    ],
)
def test_what_is_no_answer_is_a_502_of_the_gateways_own(
    provider: RawProvider, ask: Ask, raw_gateway: RunningGateway, head: bytes, body: bytes
) -> None:
    send(provider, head, [body], "length")
    answer = ask.whole()
    assert answer.status == 502
    assert json.loads(answer.body)["error"]["code"] in ("upstream_invalid_response", "upstream_rejected_gateway")
    for upstream in raw_gateway.services.handler.snapshot.upstreams.values():
        for key in upstream.keys.keys:
            key.rests_until_s = 0.0  # a refused key rests a minute: not in the next test


@pytest.mark.parametrize("head", [SSE, PLAIN])
def test_an_answer_in_an_unknown_coding_is_a_502(provider: RawProvider, ask: Ask, head: bytes) -> None:
    """Its bytes without the Content-Encoding would be meaningless, and its usage could not be read."""
    send(provider, head + b"Content-Encoding: compress\r\n", [b"\x1f\x8b\x08"], "length")
    answer = ask.stream()
    assert answer.status == 502
    assert json.loads(answer.body)["error"]["code"] == "upstream_invalid_response"
