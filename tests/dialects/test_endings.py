"""How an answer begins and ends, for every dialect: errors under a 200, comments, blank lines, open sockets."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.dialects.conftest import Stages
from tests.support.forms import form, wav
from tests.support.scenario import DONE, EVENT_STREAM, JSON, MODEL, RawClient, Scenario, end_of_body, more, stream
from tests.support.scripted_upstream import Step, Upstream, answer, hang, request, send, serve

ASKED: Final[Any] = [{"role": "user", "content": "hello"}]


def data(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\n" % kind.encode() + data(type=kind, **fields)


def chunk(reason: str | None = None, index: int = 0, **delta: Any) -> bytes:
    return data(id="chatcmpl-1", choices=[{"index": index, "delta": delta, "finish_reason": reason}])


def text_chunk(text: str, reason: str | None = None, index: int = 0) -> bytes:
    return data(id="cmpl-1", choices=[{"index": index, "text": text, "finish_reason": reason}])


@dataclass(frozen=True)
class Kind:
    """A kind of call. `good`: a stream that ends well, without `[DONE]`; empty: it has no streams. `whole`: in JSON."""

    path: str
    asked: Mapping[str, Any]
    good: Sequence[bytes] = ()
    whole: Mapping[str, Any] | None = None
    streaming: tuple[str, Any] = ("stream", True)
    is_form: bool = False

    def request(self, *, streams: bool, **fields: Any) -> dict[str, Any]:
        """A request, for `Scenario.ask`."""
        asked = {"model": MODEL, **self.asked, **fields, **(dict([self.streaming]) if streams else {})}
        if not self.is_form:
            return {"body": json.dumps(asked).encode(), "path": self.path}
        texts = [(name, str(value).lower().encode()) for name, value in asked.items()]
        body, content_type = form(texts, [("file", "a.wav", wav(1))])
        return {"body": body, "path": self.path, "content_type": content_type}


USAGE: Final = {"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47}
TOKENS: Final = {"input_tokens": 40, "output_tokens": 7, "total_tokens": 47}
SPOKEN: Final = {"type": "tokens", "input_tokens": 40, "output_tokens": 7, "total_tokens": 47}
KINDS: Final[Mapping[str, Kind]] = {
    "responses": Kind(
        "/v1/responses",
        {"input": "x"},
        [
            event("response.created", response={"id": "resp_1", "status": "in_progress"}),
            event("response.output_text.delta", delta="Hi"),
            event("response.completed", response={"id": "resp_1", "status": "completed", "usage": TOKENS}),
        ],
        {"id": "resp_1", "object": "response", "status": "completed", "output": [], "usage": TOKENS},
    ),
    "chat": Kind(
        "/v1/chat/completions",
        {"messages": ASKED, "stream_options": {"include_usage": True}},
        [chunk(role="assistant", content=""), chunk(content="Hi"), chunk("stop"), data(choices=[], usage=USAGE)],
        {"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"index": 0}], "usage": USAGE},
    ),
    "completions": Kind(
        "/v1/completions",
        {"prompt": "x", "stream_options": {"include_usage": True}},
        [text_chunk("Hi"), text_chunk("", "stop"), data(choices=[], usage=USAGE)],
        {"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0}], "usage": USAGE},
    ),
    "messages": Kind(
        "/v1/messages",
        {"messages": ASKED, "max_tokens": 50},
        [
            event("message_start", message={"id": "msg_1", "usage": {"input_tokens": 40, "output_tokens": 1}}),
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"}),
            event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7}),
            event("message_stop"),
        ],
        {"id": "msg_1", "type": "message", "content": [], "usage": {"input_tokens": 40, "output_tokens": 7}},
    ),
    "images": Kind(
        "/v1/images/generations",
        {"prompt": "x", "partial_images": 1},
        [
            event("image_generation.partial_image", b64_json="AA", partial_image_index=0),
            event("image_generation.completed", b64_json="AA", usage=TOKENS),
        ],
        {"created": 1, "data": [{"b64_json": "AA"}], "usage": TOKENS},
    ),
    "speech": Kind(
        "/v1/audio/speech",
        {"input": "x", "voice": "alloy"},
        [data(type="speech.audio.delta", audio="AA"), data(type="speech.audio.done", usage=TOKENS)],
        streaming=("stream_format", "sse"),
    ),
    "transcriptions": Kind(
        "/v1/audio/transcriptions",
        {},
        [data(type="transcript.text.delta", delta="Hi"), data(type="transcript.text.done", text="Hi", usage=SPOKEN)],
        {"text": "Hi", "usage": SPOKEN},
        is_form=True,
    ),
    "embeddings": Kind(
        "/v1/embeddings",
        {"input": "x"},
        whole={"object": "list", "data": [], "usage": {"prompt_tokens": 47, "total_tokens": 47}},
    ),
    "moderations": Kind("/v1/moderations", {"input": "x"}, whole={"id": "modr-1", "results": []}),
    "rerank": Kind("/v1/rerank", {"query": "x", "documents": []}, whole={"results": [], "usage": {"total_tokens": 47}}),
}
STREAMED: Final = [name for name, kind in KINDS.items() if kind.good]
WHOLE: Final = [name for name, kind in KINDS.items() if kind.whole is not None]
ERROR: Final = {"type": "server_error", "message": "Down.", "code": 503}


@contextlib.asynccontextmanager
async def two(
    stages: Stages, first: Sequence[Step], second: Sequence[Step], **of_route: Any
) -> AsyncIterator[tuple[Scenario, Upstream]]:
    """Two upstreams; the second is asked where the first gives no answer."""
    async with serve(second) as other:
        upstreams = {"second": {"base_url": f"{other.url}/v1", "api_keys": ["env:TEST_UPSTREAM_KEY"]}}
        route = {"upstreams": ["simulator", "second"], **of_route}
        async with stages(first, upstreams=upstreams, route=route) as scenario:
            yield scenario, other


async def ask(scenario: Scenario, name: str, *, streams: bool, **fields: Any) -> RawClient:
    client = await scenario.ask(**KINDS[name].request(streams=streams, **fields))
    await client.read_all()
    return client


def answered(name: str, *, blank: bytes = b"") -> Step:
    return answer(blank + json.dumps(KINDS[name].whole).encode(), headers=JSON)


async def settled_once(scenario: Scenario) -> str:
    """What the request was settled by; nothing is held any more."""
    (entry,) = await scenario.settled()
    assert scenario.gateway.balance(scenario.key).held == 0
    return entry["by"]


# An error under a 200, before the first content


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("error", [event("error", error=ERROR), data(error=ERROR), data(type="error", error=ERROR)])
@pytest.mark.parametrize("before", [b"", b": queued\n\n"], ids=["", "comment"])
async def test_a_stream_that_begins_with_an_error_goes_to_another_upstream(
    stages: Stages, name: str, error: bytes, before: bytes
) -> None:
    kind = KINDS[name]
    failing = [request(), send(EVENT_STREAM + chunked(before + error)), end_of_body()]
    async with two(stages, failing, [request(), stream(*kind.good), end_of_body()]) as (scenario, other):
        client = await ask(scenario, name, streams=True)
        assert (client.status, client.body) == (200, b"".join(kind.good))
        assert len(other.requests) == 1
        assert await settled_once(scenario) == "usage"
        upstream = scenario.gateway.services.handler.snapshot.upstreams["simulator"]
        assert [found.model for found in upstream.health.models(time.monotonic())] == [MODEL]


@pytest.mark.parametrize("state", ["upstream", "gateway"])
@pytest.mark.parametrize("before", [b"", b": queued\n\n", b": queued\r\n\r\n"], ids=["", "comment", "CRLF"])
@pytest.mark.parametrize("size", [1, 7, 40])
async def test_a_response_that_begins_with_an_error_is_none_however_it_is_cut(
    stages: Stages, state: str, before: bytes, size: int
) -> None:
    failing = before + event("error", error=ERROR)
    pieces = [chunked(failing[at : at + size]) for at in range(0, len(failing), size)]
    good = [request(), stream(*KINDS["responses"].good), end_of_body()]
    async with two(stages, [request(), send(EVENT_STREAM, *pieces), end_of_body()], good, state=state) as (
        scenario,
        other,
    ):
        client = await ask(scenario, "responses", streams=True)
        assert (client.status, len(other.requests)) == (200, 1)
        assert b"response.completed" in client.body
        assert b"Down." not in client.body
        assert await settled_once(scenario) == "usage"


async def test_a_stream_that_is_silent_begins_all_the_same(stages: Stages) -> None:
    async with stages([request(), stream(), hang()], upstream={"on_client_leave": "abort"}) as scenario:
        client = await scenario.ask(**KINDS["responses"].request(streams=True))
        await client.read_until(b"\r\n\r\n")
        assert client.status == 200
        client.leave()


async def test_a_kept_response_that_begins_with_an_error_goes_to_another_upstream(stages: Stages) -> None:
    failing = [request(), send(EVENT_STREAM + chunked(event("error", error=ERROR))), end_of_body()]
    good = [request(), stream(*KINDS["responses"].good), end_of_body()]
    async with two(stages, failing, good, state="gateway") as (scenario, other):
        client = await ask(scenario, "responses", streams=True)
        assert (client.status, len(other.requests)) == (200, 1)
        assert b"response.completed" in client.body
        assert b"Down." not in client.body
        assert await settled_once(scenario) == "usage"


def chunked(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("blank", [b"", b"\n" * 9], ids=["", "blank lines"])
async def test_an_answer_that_is_an_error_goes_to_another_upstream(stages: Stages, name: str, blank: bytes) -> None:
    failing = [request(), answer(blank + json.dumps({"error": ERROR}).encode(), headers=JSON)]
    async with two(stages, failing, [request(), answered(name)]) as (scenario, other):
        client = await ask(scenario, name, streams=False)
        assert (client.status, json.loads(client.body)) == (200, KINDS[name].whole)
        assert len(other.requests) == 1
        assert await settled_once(scenario) == "usage"


@pytest.mark.parametrize("name", STREAMED)
async def test_an_error_that_rests_the_key_rests_it(stages: Stages, name: str) -> None:
    error = event("error", error={"type": "rate_limit_error", "message": "Slow down.", "code": "rate_limit_exceeded"})
    good = KINDS[name].good
    failing = [request(), stream(error), end_of_body()]
    async with two(stages, failing, [request(), stream(*good), end_of_body()]) as (scenario, _):
        client = await ask(scenario, name, streams=True)
        assert client.body == b"".join(good)
        (key,) = scenario.gateway.services.handler.snapshot.upstreams["simulator"].keys.keys
        assert key.resting_until_s(MODEL) > time.monotonic()


# What is no first byte of an answer


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("blank", [b"\r\n\n \n", b"\xef\xbb\xbf"], ids=["blank lines", "a byte order mark"])
async def test_what_says_nothing_before_an_answer_is_passed_on_and_read_past(
    stages: Stages, name: str, blank: bytes
) -> None:
    async with stages([request(), answered(name, blank=blank)]) as scenario:
        client = await ask(scenario, name, streams=False)
        assert client.body == blank + json.dumps(KINDS[name].whole).encode()
        assert await settled_once(scenario) == "usage"


# The end


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("done", [True, False], ids=["with [DONE]", "without"])
async def test_an_answer_that_has_ended_is_waited_for_so_long_and_comments_do_not_renew_it(
    stages: Stages, name: str, done: bool
) -> None:
    good = [*KINDS[name].good, *([DONE] if done else [])]
    comments = [more(b": ping\n\n") for _ in range(5)]
    script = [request(), stream(*good), *comments, hang()]
    async with stages(script, upstream={"end_wait_s": 0.1}) as scenario:
        client = await ask(scenario, name, streams=True)
        assert client.body.replace(b": ping\n\n", b"") == b"".join(good)
        assert client.received.endswith(b"0\r\n\r\n")
        await scenario.upstream_left()
        await scenario.logged(1)
        assert scenario.log_lines()[0]["outcome"] == "completed"
        assert await settled_once(scenario) == "usage"


@pytest.mark.parametrize("name", [name for name in STREAMED if name != "responses"])
async def test_an_error_in_mid_stream_is_failed_also_when_done_follows(stages: Stages, name: str) -> None:
    events = [*KINDS[name].good[:-1][:2], event("error", error=ERROR), DONE]
    async with stages([request(), stream(*events), end_of_body()]) as scenario:
        client = await ask(scenario, name, streams=True)
        assert client.body == b"".join(events)
        await scenario.logged(1)
        assert scenario.log_lines()[0]["outcome"] == "failed"


CHOICES: Final[Mapping[str, Any]] = {
    "chat": lambda reason, index: chunk(reason, index, content="x"),
    "completions": lambda reason, index: text_chunk("x", reason, index),
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize(
    ("finished", "outcome"), [([0, 1, 2], "completed"), ([2, 0, 1], "completed"), ([0, 1], "upstream_cut")]
)
async def test_with_several_choices_the_last_end_is_the_end(
    stages: Stages, name: str, finished: list[int], outcome: str
) -> None:
    choice = CHOICES[name]
    events = [choice(None, index) for index in range(3)] + [choice("stop", index) for index in finished]
    async with stages([request(), stream(*events, data(choices=[], usage=USAGE)), end_of_body()]) as scenario:
        client = await ask(scenario, name, streams=True, n=3)
        assert client.body.startswith(b"".join(events))
        await scenario.logged(1)
        assert scenario.log_lines()[0]["outcome"] == outcome
        assert await settled_once(scenario) == "usage"


# A refusal of what the gateway added


def refusing(status: bytes, body: Any) -> Step:
    return answer(json.dumps(body).encode(), status=status, headers=JSON)


UNDER_200: Final = {"error": {"message": "stream_options is not supported", "code": 400}}
REFUSALS: Final = {
    "detail": refusing(
        b"422 Unprocessable Entity", {"detail": [{"loc": ["body", "stream_options"], "msg": "extra_forbidden"}]}
    ),
    "param": refusing(b"400 Bad Request", {"error": {"message": "Unknown parameter.", "param": "stream_options"}}),
    "words": refusing(b"400 Bad Request", {"object": "error", "message": "'include_usage' is not supported"}),
    "under a 200": refusing(b"200 OK", UNDER_200),
    "as an event": answer(data(**UNDER_200) + DONE, headers=b"content-type: text/event-stream\r\n"),
}


@pytest.mark.parametrize("name", ["chat", "completions"])
@pytest.mark.parametrize("words", REFUSALS)
@pytest.mark.parametrize("usage_at", ["last choice", "a chunk of its own"])
async def test_a_refusal_of_an_added_field_is_repeated_once_without_it_and_its_usage_is_read(
    stages: Stages, name: str, words: str, usage_at: str
) -> None:
    choice = CHOICES[name]
    counted = data(choices=[], usage=USAGE)
    last = (
        choice("stop", 0)
        if usage_at != "last choice"
        else choice("stop", 0)[:-3] + b', "usage": %b}\n\n' % (json.dumps(USAGE).encode())
    )
    events = [choice(None, 0), last, *([counted] if usage_at != "last choice" else [])]
    plain = [request(), stream(*events, DONE), end_of_body()]
    script = [request(), REFUSALS[words], *plain, *plain]
    async with stages(script) as scenario:
        for number in (1, 2):
            client = await ask(scenario, name, streams=True, stream_options=None)
            assert (client.status, client.body) == (200, b"".join(event for event in events if event != counted) + DONE)
            await scenario.logged(number)
        sent = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in scenario.upstream.requests]
        assert [(one.get("stream_options") or {}).get("include_usage") for one in sent] == [True, None, None]
        assert [(entry["by"], entry["amount"]) for entry in scenario.journal()] == [("usage", "-110000")] * 2
