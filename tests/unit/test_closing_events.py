"""How the gateway ends a stream that its upstream left open: valid events, in order, never after a terminal event."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any, cast

import openai
import pytest

from gateway.errors import GatewayError
from gateway.protocol.dialects.dialect import Origin, StreamForm, StreamSummary
from gateway.protocol.dialects.responses import RESPONSES
from gateway.protocol.dialects.responses import close_broken as failure_frames
from gateway.protocol.dialects.responses import close_capped as incomplete_frames
from gateway.protocol.sse_framer import SseFramer
from gateway.protocol.sse_observer import SseObserver
from tests.support.specification import validate_event
from tests.support.sse_corpus import USAGE, frame

CUT = GatewayError("upstream_unreachable", "The upstream ended the stream early.")
ORIGIN = Origin("req_own", "openai/gpt-5", 1_700_000_000)
STREAM = cast("StreamForm", RESPONSES.stream)
SHOWN = {
    "id": "resp_1",
    "model": "gpt-5-2026",
    "instructions": "Be \ud83d brief",
    "x_extra": 1,
    "status": "in_progress",
}
CREATED = frame({"type": "response.created", "sequence_number": 0, "response": SHOWN}, name="response.created")
DELTA = frame(
    {
        "type": "response.output_text.delta",
        "sequence_number": 4,
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "delta": "Hi",
        "logprobs": [],
    }
)


def framed(*chunks: str | bytes, bound: int = 1 << 20) -> SseFramer:
    framer = SseFramer(SseObserver(STREAM), bound)
    for chunk in chunks:
        framer.feed(chunk.encode() if isinstance(chunk, str) else chunk)
    return framer


def after(*chunks: str | bytes) -> StreamSummary:
    return framed(*chunks).observer.summary()


def events(frames: bytes) -> list[dict[str, Any]]:
    """Returns the closing events, each validated against the specification. Checks and removes the final `[DONE]`."""
    *blocks, done = frames.decode().removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    found = []
    for block in blocks:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        validate_event(event)
        found.append(event)
    return found


def test_a_cut_stream_ends_with_error_then_response_failed_then_done() -> None:
    error, failed = events(failure_frames(after(CREATED, DELTA), CUT, ORIGIN))
    assert error == {
        "type": "error",
        "sequence_number": 5,
        "code": "upstream_unreachable",
        "message": "The upstream ended the stream early.",
        "param": "",
        "error": {
            "type": "model_error",
            "code": "upstream_unreachable",
            "message": "The upstream ended the stream early.",
            "param": "",
        },
    }
    assert (failed["type"], failed["sequence_number"]) == ("response.failed", 6)
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "upstream_unreachable", "message": CUT.message}


def test_the_failed_response_is_the_one_that_the_upstream_showed() -> None:
    response = events(failure_frames(after(CREATED, DELTA), CUT, ORIGIN))[-1]["response"]
    assert {name: response[name] for name in ("id", "model", "instructions", "x_extra")} == {
        name: SHOWN[name] for name in ("id", "model", "instructions", "x_extra")
    }


@pytest.mark.parametrize("chunks", [(), (": connected\n\n",), (b'data: {"type":',)])
def test_a_stream_that_showed_no_response_gets_one_first(chunks: tuple[str | bytes, ...]) -> None:
    created, error, failed = events(failure_frames(after(*chunks), CUT, ORIGIN))
    assert [created["type"], error["type"], failed["type"]] == ["response.created", "error", "response.failed"]
    assert created["response"]["status"] == "in_progress"
    assert created["response"]["id"] == failed["response"]["id"] == "resp_own"
    numbers = [event["sequence_number"] for event in (created, error, failed)]
    assert numbers == list(range(numbers[0], numbers[0] + 3))


def test_an_opening_event_too_large_to_keep_lends_its_id() -> None:
    large = frame({"type": "response.created", "response": SHOWN | {"instructions": "A" * 70_000}})
    failed = events(failure_frames(after(large), CUT, ORIGIN))[-1]
    assert (failed["response"]["id"], failed["response"]["model"]) == ("resp_1", "openai/gpt-5")


def test_an_upstream_that_sent_its_own_error_event_gets_no_second_one() -> None:
    own = frame({"type": "error", "sequence_number": 5, "error": {"message": "overloaded"}})
    assert [event["type"] for event in events(failure_frames(after(CREATED, own), CUT, ORIGIN))] == ["response.failed"]


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_after_a_terminal_event_nothing_is_added(kind: str) -> None:
    summary = after(CREATED, frame({"type": kind, "sequence_number": 1, "response": {"usage": USAGE}}))
    assert failure_frames(summary, CUT, ORIGIN) == incomplete_frames(summary, ORIGIN) == b""


def test_after_done_nothing_is_added() -> None:
    assert failure_frames(after(CREATED, frame("[DONE]")), CUT, ORIGIN) == b""


def test_an_event_that_is_still_held_is_no_part_of_the_ending() -> None:
    summary = after(CREATED, DELTA, b'data: {"type":"response.output_text.delta","sequence_number":5,')
    assert failure_frames(summary, CUT, ORIGIN).startswith(b"event: error\n")


def test_an_oversized_event_that_was_cut_is_closed_by_a_blank_line_first() -> None:
    framer = framed(CREATED, DELTA, b"data: " + b"A" * 5_000, bound=1_000)
    closing = failure_frames(framer.observer.summary(), CUT, ORIGIN)
    assert framer.separated(closing) == b"\n\n" + closing
    assert closing.startswith(b"event: error\n")


def test_a_stream_cut_at_its_cap_ends_with_response_incomplete() -> None:
    (incomplete,) = events(incomplete_frames(after(CREATED, DELTA), ORIGIN))
    assert (incomplete["type"], incomplete["sequence_number"]) == ("response.incomplete", 5)
    assert incomplete["response"]["status"] == "incomplete"
    assert incomplete["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert incomplete["response"]["error"] is None


# What the official SDK makes of them


@contextmanager
def provider(stream: bytes) -> Iterator[openai.OpenAI]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("content-length", str(len(stream)))
            self.end_headers()
            self.wfile.write(stream)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            with openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}", api_key="-", max_retries=0) as client:
                yield client
        finally:
            server.shutdown()


@pytest.mark.parametrize("relayed", [CREATED + DELTA, ""])
def test_the_sdk_raises_our_error_from_a_broken_stream(relayed: str) -> None:
    stream = relayed.encode() + failure_frames(after(relayed), CUT, ORIGIN)
    with provider(stream) as client, pytest.raises(openai.APIError, match="ended the stream early"):
        list(client.responses.create(model="m", input="hi", stream=True))


def test_the_sdks_stream_helper_raises_our_error_even_if_nothing_was_relayed() -> None:
    with (
        provider(failure_frames(after(), CUT, ORIGIN)) as client,
        pytest.raises(openai.APIError, match="ended the stream early"),
        client.responses.stream(model="m", input="hi") as stream,
    ):
        list(stream)


def test_the_sdk_reads_a_stream_cut_at_its_cap_to_its_end() -> None:
    stream = (CREATED + DELTA).encode() + incomplete_frames(after(CREATED, DELTA), ORIGIN)
    with provider(stream) as client:
        kinds = [event.type for event in client.responses.create(model="m", input="hi", stream=True)]
    assert kinds == ["response.created", "response.output_text.delta", "response.incomplete"]


@pytest.mark.parametrize("chunks", [(), (CREATED,), (CREATED, DELTA)], ids=["nothing", "opened", "output"])
def test_of_a_response_that_goes_on_elsewhere_nothing_is_made_up(chunks: tuple[bytes | str, ...]) -> None:
    """It can be read by its id, or resumed behind the last number that the provider gave."""
    ending = failure_frames(after(*chunks), CUT, ORIGIN._replace(continues_upstream=True)).decode()
    block, done = ending.removesuffix("\n\n").split("\n\n")
    event = json.loads(block.partition("data: ")[2])
    assert done == "data: [DONE]"
    assert (event["type"], event["code"], event["param"]) == ("error", "upstream_unreachable", "")
    assert not {"sequence_number", "response"} & set(event)
    assert "resp_" not in ending


def test_a_cancelled_response_has_ended() -> None:
    cancelled = frame(
        {"type": "response.cancelled", "sequence_number": 1, "response": {**SHOWN, "status": "cancelled"}}
    )
    summary = after(CREATED, cancelled)
    assert summary.terminal == "response.cancelled"
    assert failure_frames(summary, CUT, ORIGIN) == b""
