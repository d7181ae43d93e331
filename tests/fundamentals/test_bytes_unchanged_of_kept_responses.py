"""Of an answer, the fields of the table in gateway/state/rewriting.py are changed, and no other byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fundamentals.any_bytes import cut, send
from tests.fundamentals.raw import RawProvider
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.servers import Server

JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
# As no library writes it: spaces, escapes, the form of numbers, and fields that no specification has.
RESPONSE = (
    b'{ "object":"response" , "id" : "resp_%b", "status":"%b","extra":{"id":"x","store":false, "n":1.50e1},'
    b' "model":"m","output":[{"type":"message","role":"assistant","id":"msg_\\u0030","content":[{"type":"output_text",'
    b'"text":"caf\\u00e9 \\/ \xf0\x9f\x8d\x8e \\"store\\":false"}],"zzz":null}] ,"previous_response_id":null, '
    b'"store" :false,"usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2},"tail":[ ]}'
)
PLAIN_EVENTS = (
    b": a comment\r\n\r\n",
    b'id: 7\r\nevent: sim:delta\r\ndata: {"type":"sim:delta" ,"delta":"\\u00e9", "output_index":0}\r\n\r\n',
    b'event: sim:custom\ndata:{"type":"sim:custom",\ndata: "more" : 1.0}\n\n',
    b'data: {"item":{"id":"msg_0","type":"message"} ,"output_index":0, "type":"response.output_item.done"}\n\n',
)
PLACES: list[list[int]] = [[], [1, 40, 41, 300], list(range(0, 2000, 7))]


def response(identifier: str, status: str = "completed") -> bytes:
    return RESPONSE % (identifier.encode(), status.encode())


def rewritten(whole: bytes, previous: str | None = None) -> bytes:
    """The response with what the client gets of the fields that are the gateway's."""
    named = b"null" if previous is None else b'"%b"' % previous.encode()
    whole = whole.replace(b'"previous_response_id":null', b'"previous_response_id":' + named)
    return whole.replace(b'"store" :false', b'"store" :true')


def events(identifier: str, change: Any = bytes) -> bytes:
    """A stream whose events that carry the response are changed by `change`."""
    return b"".join(
        [
            *PLAIN_EVENTS[:1],
            b'event: response.created\nid: 1\ndata: {"response": %b ,"type":"response.created","sequence_number":0}\n\n'
            % change(response(identifier, "in_progress")),
            *PLAIN_EVENTS[1:],
            b'data: {"type":"response.completed","response":%b, "x":[1, 2 ]}\n\n' % change(response(identifier)),
            b"data: [DONE]\n\n",
        ]
    )


@pytest.fixture(scope="module")
def keeping(provider: RawProvider, store: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a gateway that keeps the provider's responses."""
    data, route = tmp_path_factory.mktemp("raw"), {"state": "gateway"}
    with running_gateway(store.url, provider.url, data, route=route) as gateway:
        running: RunningGateway = gateway
        with running.http(running.new_key()) as client:
            yield client


def ask(client: httpx.Client, **fields: Any) -> bytes:
    return client.post("/v1/responses", json={"model": "m", "input": "x", **fields}).raise_for_status().content


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("places", PLACES, ids=["whole", "in pieces", "in many pieces"])
def test_a_json_answer(keeping: httpx.Client, provider: RawProvider, places: list[int], framing: str) -> None:
    first, second = (f"{framing}_{len(places)}_{number}" for number in (1, 2))
    send(provider, JSON, cut(response(first), places), framing)
    assert ask(keeping) == rewritten(response(first))
    send(provider, JSON, cut(response(second), places), framing)
    assert ask(keeping, previous_response_id=f"resp_{first}") == rewritten(response(second), f"resp_{first}")


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("places", PLACES, ids=["whole", "in pieces", "in many pieces"])
def test_a_stream(keeping: httpx.Client, provider: RawProvider, places: list[int], framing: str) -> None:
    identifier = f"stream_{framing}_{len(places)}"
    send(provider, SSE, cut(events(identifier), places), framing)
    assert ask(keeping, stream=True) == events(identifier, rewritten)


def test_what_is_no_response_passes_as_it_is(keeping: httpx.Client, provider: RawProvider) -> None:
    body = b'{ "object":"other" , "store":false}'
    send(provider, JSON, [body], "length")
    assert ask(keeping) == body
