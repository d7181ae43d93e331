"""What every row costs: the usage that is reported, to the nano-dollar, in JSON and in streams, ended well or badly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import pytest

from tests.dialects.conftest import Stages
from tests.support.forms import form, wav
from tests.support.scenario import JSON, MODEL, Scenario, end_of_body, stream
from tests.support.scripted_upstream import Step, answer, close, hang, request, reset, send

RATES: Final = {
    "input": "0.123457",
    "cached_input": "0.012346",
    "cache_write": "0.154321",
    "output": "7.654321",
    "output_image": "38.271605",
    "input_audio": "3.141593",
    "per_unit": {"second": "0.0001", "search_unit": "0.002"},
    "per_request": "0.000000123",
}
PER_REQUEST_NANO_USD: Final = 123
DONE: Final = b"data: [DONE]\n\n"
ASKED: Final[Any] = [{"role": "user", "content": "hello"}]


def cost_nano_usd(quantities: Mapping[str, Any]) -> int:
    """What the quantities cost by `RATES`; a fraction of a nano-dollar is one, once for the whole."""
    units: Any = RATES["per_unit"]
    cost = Decimal(PER_REQUEST_NANO_USD)
    for name, number in quantities.items():
        per_nano = Decimal(units[name]) * 10**9 if name in units else Decimal(str(RATES[name])) * 1000
        cost += per_nano * Decimal(str(number))
    return math.ceil(cost)


def data(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\n" % kind.encode() + data(type=kind, **fields)


@dataclass(frozen=True)
class Row:
    """An operation: what is asked, and how the same usage looks in JSON and in a stream.

    `quantities`: what is to be charged, by the names of `RATES`. `events`: up to the usage; `ends`: what follows it.
    """

    path: str
    asked: Mapping[str, Any]
    quantities: Mapping[str, Any]
    whole: Mapping[str, Any] | None = None
    events: Sequence[bytes] = ()
    ends: Sequence[bytes] = ()
    streaming: Mapping[str, Any] = field(default_factory=lambda: {"stream": True})
    is_form: bool = False


CHAT_USAGE: Final = {
    "prompt_tokens": 1017,
    "completion_tokens": 333,
    "total_tokens": 1350,
    "prompt_tokens_details": {"cached_tokens": 513},
}
CHAT_COST: Final = {"input": 504, "cached_input": 513, "output": 333}
RESPONSE_USAGE: Final = {
    "input_tokens": 1017,
    "output_tokens": 333,
    "total_tokens": 1350,
    "input_tokens_details": {"cached_tokens": 513},
}
MESSAGE_USAGE: Final = {
    "input_tokens": 504,
    "cache_read_input_tokens": 513,
    "cache_creation_input_tokens": 77,
    "output_tokens": 333,
}
IMAGE_USAGE: Final = {"input_tokens": 19, "output_tokens": 545, "total_tokens": 564}
SOUND_USAGE: Final = {
    "type": "tokens",
    "input_tokens": 29,
    "input_token_details": {"text_tokens": 0, "audio_tokens": 29},
    "output_tokens": 17,
    "total_tokens": 46,
}


def chunk(text: str, reason: str | None = None) -> bytes:
    return data(id="chatcmpl-1", choices=[{"index": 0, "delta": {"content": text}, "finish_reason": reason}])


def text_chunk(text: str, reason: str | None = None) -> bytes:
    return data(id="cmpl-1", choices=[{"index": 0, "text": text, "finish_reason": reason}])


ROWS: Final = {
    "responses": Row(
        "/v1/responses",
        {"input": "x", "max_output_tokens": 500},
        CHAT_COST,
        {"id": "resp_1", "object": "response", "status": "completed", "output": [], "usage": RESPONSE_USAGE},
        [
            event("response.created", response={"id": "resp_1", "status": "in_progress"}),
            event("response.output_text.delta", delta="Hi"),
            event("response.completed", response={"id": "resp_1", "status": "completed", "usage": RESPONSE_USAGE}),
        ],
        [DONE],
    ),
    "chat": Row(
        "/v1/chat/completions",
        {"messages": ASKED, "max_completion_tokens": 500},
        CHAT_COST,
        {"id": "chatcmpl-1", "object": "chat.completion", "choices": [], "usage": CHAT_USAGE},
        [chunk("Hel"), chunk("lo", "stop"), data(id="chatcmpl-1", choices=[], usage=CHAT_USAGE)],
        [DONE],
    ),
    "completions": Row(
        "/v1/completions",
        {"prompt": "x", "max_tokens": 500},
        CHAT_COST,
        {"id": "cmpl-1", "object": "text_completion", "choices": [], "usage": CHAT_USAGE},
        [text_chunk("Hel"), text_chunk("lo", "stop"), data(id="cmpl-1", choices=[], usage=CHAT_USAGE)],
        [DONE],
    ),
    "messages": Row(
        "/v1/messages",
        {"messages": ASKED, "max_tokens": 500},
        {"input": 504, "cached_input": 513, "cache_write": 77, "output": 333},
        {"id": "msg_1", "type": "message", "content": [], "usage": MESSAGE_USAGE},
        [
            event("message_start", message={"id": "msg_1", "usage": {**MESSAGE_USAGE, "output_tokens": 4}}),
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"}),
            event("message_delta", delta={"stop_reason": "end_turn"}, usage=MESSAGE_USAGE),
        ],
        [event("message_stop")],
    ),
    "embeddings": Row(
        "/v1/embeddings",
        {"input": "x"},
        {"input": 1017},
        {"object": "list", "data": [], "usage": {"prompt_tokens": 1017, "total_tokens": 1017}},
    ),
    "images": Row(
        "/v1/images/generations",
        {"prompt": "x", "partial_images": 1},
        {"input": 19, "output_image": 545},
        {"created": 1, "data": [{"b64_json": "AA"}], "usage": IMAGE_USAGE},
        [
            event("image_generation.partial_image", b64_json="AA", partial_image_index=0),
            event("image_generation.completed", b64_json="AA", usage=IMAGE_USAGE),
        ],
    ),
    "transcriptions by tokens": Row(
        "/v1/audio/transcriptions",
        {},
        {"input_audio": 29, "output": 17},
        {"text": "Hi", "usage": SOUND_USAGE},
        [
            data(type="transcript.text.delta", delta="Hi"),
            data(type="transcript.text.done", text="Hi", usage=SOUND_USAGE),
        ],
        is_form=True,
    ),
    "transcriptions by seconds": Row(
        "/v1/audio/transcriptions",
        {},
        {"second": "7.43"},
        {"text": "Hi", "usage": {"type": "duration", "seconds": 7.43}},
        [
            data(type="transcript.text.delta", delta="Hi"),
            data(type="transcript.text.done", text="Hi", usage={"type": "duration", "seconds": 7.43}),
        ],
        is_form=True,
    ),
    "speech": Row(
        "/v1/audio/speech",
        {"input": "x", "voice": "alloy"},
        {"input": 14, "output": 101},
        None,
        [
            data(type="speech.audio.delta", audio="AA"),
            data(type="speech.audio.done", usage={"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}),
        ],
        streaming={"stream_format": "sse"},
    ),
    "moderations": Row("/v1/moderations", {"input": "x"}, {}, {"id": "modr-1", "results": []}),
    "rerank": Row(
        "/v1/rerank",
        {"query": "x", "documents": ["y"]},
        {"search_unit": 3},
        {"results": [], "meta": {"billed_units": {"search_units": 3}}},
    ),
}
WHOLE: Final = [name for name, row in ROWS.items() if row.whole is not None]
STREAMED: Final = [name for name, row in ROWS.items() if row.events]
ENDINGS: Final[Mapping[str, Sequence[Step]]] = {
    "well": (end_of_body(),),
    "reset": (reset(),),
    "closed": (close(),),
    "silent": (hang(),),
}


async def asked(scenario: Scenario, row: Row, extra: Mapping[str, Any]) -> bytes:
    fields = {"model": MODEL, **row.asked, **extra}
    if row.is_form:
        texts = [(name, json.dumps(value).strip('"').encode()) for name, value in fields.items()]
        body, kind = form(texts, [("file", "a.wav", wav(1))])
        client = await scenario.ask(body, path=row.path, content_type=kind)
    else:
        client = await scenario.ask(json.dumps(fields).encode(), path=row.path)
    await client.read_all()
    assert client.status == 200, client.received
    return client.body


async def charged(scenario: Scenario) -> tuple[str, int]:
    (entry,) = await scenario.settled()
    balance = scenario.gateway.balance(scenario.key)
    assert (balance.held, balance.spent) == (0, -int(entry["amount"]))
    assert balance.granted == balance.available + balance.spent
    return entry["by"], -int(entry["amount"])


@pytest.mark.parametrize("name", WHOLE)
async def test_a_whole_answer_costs_its_usage(stages: Stages, name: str) -> None:
    row = ROWS[name]
    whole = answer(json.dumps(row.whole).encode(), headers=JSON)
    async with stages([request(), whole], prices={"*": RATES}) as scenario:
        assert json.loads(await asked(scenario, row, {})) == row.whole
        assert await charged(scenario) == ("usage", cost_nano_usd(row.quantities))


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("with_end", [True, False], ids=["with its end", "without"])
async def test_a_stream_that_reported_its_usage_costs_that_however_it_ends(
    stages: Stages, name: str, ending: str, with_end: bool
) -> None:
    row = ROWS[name]
    events = [*row.events, *(row.ends if with_end else ())]
    script = [request(), stream(*events), *ENDINGS[ending]]
    async with stages(script, prices={"*": RATES}, upstream={"end_wait_s": 0.1}) as scenario:
        assert row.events[0] in await asked(scenario, row, row.streaming)
        assert await charged(scenario) == ("usage", cost_nano_usd(row.quantities))


@pytest.mark.parametrize("name", STREAMED)
async def test_a_stream_that_broke_off_before_its_usage_is_estimated_within_its_hold(stages: Stages, name: str) -> None:
    row = ROWS[name]
    async with stages([request(), stream(*row.events[:-1]), reset()], prices={"*": RATES}) as scenario:
        await asked(scenario, row, row.streaming)
        by, amount = await charged(scenario)
        assert by == "estimate"
        assert amount > PER_REQUEST_NANO_USD
        (entry,) = scenario.journal()
        assert amount <= int(entry["hold"])


@pytest.mark.parametrize("name", [name for name in STREAMED if name != "responses"])
async def test_an_error_behind_the_usage_is_failed_and_costs_the_usage(stages: Stages, name: str) -> None:
    row = ROWS[name]
    error = event("error", error={"type": "server_error", "message": "Down.", "code": "server_error"})
    async with stages([request(), stream(*row.events, error), end_of_body()], prices={"*": RATES}) as scenario:
        assert error in await asked(scenario, row, row.streaming)
        assert await charged(scenario) == ("usage", cost_nano_usd(row.quantities))


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "moderations"])
async def test_a_whole_answer_that_breaks_off_is_estimated_within_its_hold(stages: Stages, name: str) -> None:
    row = ROWS[name]
    body = json.dumps(row.whole).encode()
    half = send(b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (JSON, len(body), body[:-9]))
    async with stages([request(), half, reset()], prices={"*": RATES}) as scenario:
        client = await scenario.ask(**_request_of(row))
        await client.read_all()
        assert client.status == 502
        by, amount = await charged(scenario)
        assert by == "estimate"
        (entry,) = scenario.journal()
        assert 0 < amount <= int(entry["hold"])


def _request_of(row: Row) -> dict[str, Any]:
    fields = {"model": MODEL, **row.asked}
    if not row.is_form:
        return {"body": json.dumps(fields).encode(), "path": row.path}
    body, kind = form([(name, str(value).encode()) for name, value in fields.items()], [("file", "a.wav", wav(1))])
    return {"body": body, "path": row.path, "content_type": kind}
