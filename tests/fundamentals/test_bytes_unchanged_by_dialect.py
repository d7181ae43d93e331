"""Promise one for every dialect: any bytes in any pieces arrive unchanged, and an event arrives whole.

`test_bytes_unchanged.py` is the same for /v1/responses.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.sse_framing import last_boundary
from tests.fundamentals.any_bytes import ANYTHING, EXAMPLES, FRAMINGS, PLACES, PLAIN, SSE, cut, send
from tests.fundamentals.raw import RawAnswer, RawConnection, RawProvider, bearer
from tests.support.forms import form, wav
from tests.support.gateway import NewKey, RunningGateway

DONE: Final = b"data: [DONE]\n\n"
ASKED: Final[Any] = [{"role": "user", "content": "x"}]


def data(**fields: Any) -> bytes:
    """An event without a name."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def event(kind: str, **fields: Any) -> bytes:
    """An event whose name is its type."""
    return b"event: %b\n" % kind.encode() + data(type=kind, **fields)


def chunk(reason: str | None = None, **delta: Any) -> bytes:
    return data(id="chatcmpl-1", choices=[{"index": 0, "delta": delta, "finish_reason": reason}])


def text_chunk(text: str, reason: str | None = None) -> bytes:
    return data(id="cmpl-1", choices=[{"index": 0, "text": text, "finish_reason": reason}])


@dataclass(frozen=True)
class Stream:
    """One kind of stream. `events`: before its end; `ends`: what may be that; `own_ending`: the gateway's."""

    path: str
    body: bytes
    events: tuple[bytes, ...]
    ends: tuple[bytes, ...]
    own_ending: bytes
    content_type: str = "application/json"

    @property
    def content(self) -> bytes:
        """An event that carries a piece of the output."""
        return next(one for one in self.events if any(piece in one for piece in (b"Hello", b"AAAA")))


def asking(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "stream": True, **fields}).encode()


WANTS_USAGE: Final = {"stream_options": {"include_usage": True}}
USAGE: Final = {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
ERROR_THEN_DONE: Final = rb"(\n\n)?data: \{\"error\":.+\n\ndata: \[DONE\]\n\n"
ERROR_EVENT: Final = rb"(\n\n)?event: error\ndata: \{\"type\":\"error\".+\n\n"
SPOKEN, SPOKEN_TYPE = form([("model", b"m"), ("stream", b"true")], [("file", "a.wav", wav(1))])
STREAMS: Final = {
    "chat": Stream(
        "/v1/chat/completions",
        asking(messages=ASKED, **WANTS_USAGE),
        (
            data(id="", choices=[], prompt_filter_results=[]),
            chunk(role="assistant", content=""),
            chunk(content="Hello"),
            chunk(reasoning_content="…"),
            data(id="chatcmpl-1", choices=[], usage=USAGE),
            b": keep-alive\n\n",
        ),
        (DONE, chunk("stop"), chunk("stop") + data(choices=[], usage=USAGE) + DONE),
        ERROR_THEN_DONE,
    ),
    "completions": Stream(
        "/v1/completions",
        asking(prompt="x", **WANTS_USAGE),
        (text_chunk("Hello"), text_chunk(" there"), data(choices=[], usage=USAGE)),
        (DONE, text_chunk("", "length")),
        ERROR_THEN_DONE,
    ),
    "messages": Stream(
        "/v1/messages",
        asking(max_tokens=9, messages=ASKED),
        (
            event("message_start", message={"id": "msg_1", "usage": {"input_tokens": 4, "output_tokens": 1}}),
            event("ping"),
            event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"}),
            event("content_block_stop", index=0),
        ),
        (
            event("message_stop"),
            event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3})
            + event("message_stop"),
        ),
        ERROR_EVENT,
    ),
    "images": Stream(
        "/v1/images/generations",
        asking(prompt="x", partial_images=2),
        (event("image_generation.partial_image", b64_json="AAAA", partial_image_index=0),),
        (event("image_generation.completed", b64_json="AAAA", usage={"input_tokens": 4, "output_tokens": 9}),),
        ERROR_EVENT,
    ),
    "speech": Stream(
        "/v1/audio/speech",
        json.dumps({"model": "m", "input": "x", "voice": "alloy", "stream_format": "sse"}).encode(),
        (data(type="speech.audio.delta", audio="AAAA"),),
        (data(type="speech.audio.done", usage={"input_tokens": 4, "output_tokens": 9}),),
        ERROR_EVENT,
    ),
    "transcriptions": Stream(
        "/v1/audio/transcriptions",
        SPOKEN,
        (data(type="transcript.text.delta", delta="Hello"),),
        (data(type="transcript.text.done", text="Hello", usage={"type": "duration", "seconds": 1}),),
        ERROR_EVENT,
        SPOKEN_TYPE,
    ),
}
every_stream = pytest.mark.parametrize("kind", STREAMS)
QUIET: Final = st.sampled_from(
    [b"\n", b"\r\n", b"\n\n", b": c\n", b"id: 1\n", b"retry: 9\n", b"\xe2\x98\x83", b"event: x\n"]
)
"""Bytes that say nothing of an error or an end."""


@dataclass(frozen=True)
class Ask:
    url: str
    key: str

    def __call__(self, path: str, body: bytes, content_type: str = "application/json") -> RawAnswer:
        with RawConnection(self.url) as wire:
            return wire.request(body, bearer(self.key), f"Content-Type: {content_type}", path=path)


@pytest.fixture
def ask(raw_gateway: RunningGateway, raw_key: NewKey) -> Ask:
    return Ask(raw_gateway.url, raw_key.text)


def whole_events(answer: RawAnswer) -> bool:
    """Whether each of its chunks but the last ends where an event does."""
    sent = b"\n"  # a stream starts as a line does
    for piece in answer.chunks[:-1]:
        sent += piece
        if sent[max(0, last_boundary(sent + b"x")) :].strip(b"\r\n"):  # a last CR may be a line end, too
            return False
    return True


@every_stream
@EXAMPLES
@given(drawn=st.data(), after=ANYTHING, places=PLACES, framing=FRAMINGS)
def test_a_stream_that_ends_is_the_same_bytes(
    provider: RawProvider, ask: Ask, kind: str, drawn: st.DataObject, after: bytes, places: list[int], framing: str
) -> None:
    stream = STREAMS[kind]
    before = b"".join(drawn.draw(st.lists(st.sampled_from(stream.events) | ANYTHING, max_size=6)))
    end = drawn.draw(st.sampled_from(stream.ends))
    sent = before + b"\n\n" + end + after
    send(provider, SSE, cut(sent, places), framing)
    answer = ask(stream.path, stream.body, stream.content_type)
    assert (answer.status, answer.body) == (200, sent)
    assert whole_events(answer)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


@every_stream
@EXAMPLES
@given(drawn=st.data(), places=PLACES)
def test_a_stream_without_its_end_is_the_same_bytes_and_then_the_gateways_ending(
    provider: RawProvider, ask: Ask, kind: str, drawn: st.DataObject, places: list[int]
) -> None:
    stream = STREAMS[kind]
    pieces = drawn.draw(st.lists(st.sampled_from(stream.events) | QUIET, max_size=8))
    sent = b"".join([stream.content, *pieces])
    send(provider, SSE, cut(sent, places), "chunked")
    answer = ask(stream.path, stream.body, stream.content_type)
    assert answer.body.startswith(sent)
    assert re.compile(stream.own_ending).fullmatch(answer.body, len(sent)), answer.body[len(sent) :]


WHOLE: Final[dict[str, Any]] = {
    "/v1/chat/completions": ({"messages": ASKED}, {"object": "chat.completion", "choices": []}),
    "/v1/completions": ({"prompt": "x"}, {"object": "text_completion", "choices": []}),
    "/v1/embeddings": ({"input": "x"}, {"object": "list", "data": []}),
    "/v1/messages": ({"max_tokens": 9, "messages": ASKED}, {"type": "message", "content": []}),
    "/v1/messages/count_tokens": ({"messages": ASKED}, {"input_tokens": 9}),
    "/v1/images/generations": ({"prompt": "x"}, {"created": 1, "data": []}),
    "/v1/moderations": ({"input": "x"}, {"results": []}),
    "/v1/rerank": ({"query": "x", "documents": ["y"]}, {"results": []}),
}
FIELDS: Final = st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=30), max_size=4)


@pytest.mark.parametrize("path", WHOLE)
@EXAMPLES
@given(fields=FIELDS, space=st.sampled_from([b"", b" ", b"\r\n\t", b"\n" * 40]), places=PLACES, framing=FRAMINGS)
def test_a_whole_answer_is_the_same_bytes(
    provider: RawProvider, ask: Ask, path: str, fields: dict[str, Any], space: bytes, places: list[int], framing: str
) -> None:
    asked, answered = WHOLE[path]
    sent = space + json.dumps({**answered, "extra": fields}).encode() + space
    send(provider, PLAIN, cut(sent, places), framing)
    answer = ask(path, json.dumps({"model": "m", **asked}).encode())
    assert (answer.status, answer.body) == (200, sent)


@pytest.mark.parametrize("kind", ["audio/mpeg", "application/octet-stream"])
@EXAMPLES
@given(sound=st.binary(min_size=1, max_size=400), places=PLACES, framing=FRAMINGS)
def test_sound_is_the_same_bytes(
    provider: RawProvider, ask: Ask, kind: str, sound: bytes, places: list[int], framing: str
) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n".encode()
    send(provider, head, cut(sound, places), framing)
    answer = ask("/v1/audio/speech", json.dumps({"model": "m", "input": "x", "voice": "alloy"}).encode())
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, sound, kind)
