"""The upstream fails: the client is told in a form that it can read, and pays for what it received.

 the upstream                    | the client sees                                  | charged            |
---------------------------------|--------------------------------------------------|--------------------|
 refuses the connection          | 502 upstream_unreachable                         | nothing            |
 stalls before headers           | 408 upstream_timeout                             | the input          |
 resets before headers           | 502 upstream_unreachable                         | the input          |
 dies or stalls in a stream      | error, response.failed, [DONE]                   | what was relayed   |
 ends without a terminal event   | error, response.failed, [DONE]                   | what was relayed   |
 sends an error event, continues | all of it, unchanged                             | its usage          |
 sends an error event, then ends | the error, response.failed, [DONE]: one error    | what was relayed   |
 sends bytes after [DONE]        | all of it, unchanged                             | its usage          |
 breaks a plain answer           | 502 upstream_invalid_response                    | the input          |
"""

import json
from typing import Any

import openai
import pytest

from gateway.protocol.sse_framing import fields
from tests.faults.conftest import Stages
from tests.support.ports import free_port
from tests.support.scenario import (
    DONE,
    EVENT_STREAM,
    JSON,
    MODEL,
    chunk,
    completed,
    created,
    delta,
    end_of_body,
    event,
    more,
    stream,
)
from tests.support.scripted_upstream import Step, close, hang, request, reset, send
from tests.support.waiting import wait_until

Event = dict[str, Any]
STALL_S = 0.5  # long enough for the regular answers of a busy machine


def events_of(body: bytes) -> list[Event | str]:
    """The data of each event: JSON, or the text of `[DONE]`."""
    blocks = [fields(block)[1] for block in body.split(b"\n\n") if block.strip()]
    return ["[DONE]" if data == b"[DONE]" else json.loads(data) for data in blocks]


def assert_last_words(body: bytes, code: str, *, first: int) -> None:
    """Checks the specification's error event, response.failed and [DONE], numbered on from the upstream's events."""
    error, failed, done = events_of(body)[-3:]
    assert isinstance(error, dict)
    assert isinstance(failed, dict)
    assert (error["type"], error["error"]["code"], error["sequence_number"]) == ("error", code, first)
    assert (failed["type"], failed["sequence_number"]) == ("response.failed", first + 1)
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["code"] == code
    assert done == "[DONE]"


async def test_a_refused_connection_is_a_502(stages: Stages) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/v1"
    async with stages(upstream={"base_url": nobody}) as scenario:
        with pytest.raises(openai.InternalServerError) as caught:
            await scenario.sdk().responses.create(model=MODEL, input="hello")
        assert (caught.value.status_code, caught.value.code) == (502, "upstream_unreachable")
        await wait_until(lambda: bool(scenario.log_lines()))
        (line,) = scenario.log_lines()
        assert (line["outcome"], line["settled_by"], line["tried"]) == ("upstream_unreachable", "-", ["simulator#0"])
        assert scenario.journal()[0]["type"] == "void"


@pytest.mark.parametrize(
    ("fault", "status", "code", "outcome"),
    [
        (hang(), 408, "upstream_timeout", "upstream_timeout"),
        (reset(), 502, "upstream_unreachable", "upstream_unreachable"),
        (close(), 502, "upstream_unreachable", "upstream_unreachable"),
        (send(b"nonsense\r\n\r\n"), 502, "upstream_invalid_response", "upstream_refused"),
    ],
    ids=["stalls", "resets", "closes", "speaks no HTTP"],
)
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "plain"])
async def test_an_upstream_that_fails_before_its_headers(
    stages: Stages, fault: Step, status: int, code: str, outcome: str, streamed: bool
) -> None:
    async with stages([request(), fault], upstream={"first_byte_timeout_s": STALL_S}) as scenario:
        client = await scenario.ask(stream=streamed)
        await client.read_all()
        assert client.status == status
        assert json.loads(client.body)["error"]["code"] == code
        await scenario.upstream_left()
        await scenario.ended(outcome=outcome, settled_by="estimate", code=code, status=status)


async def test_the_sdk_raises_a_status_error_for_an_upstream_that_stalls(stages: Stages) -> None:
    async with stages([request(), hang()], upstream={"first_byte_timeout_s": STALL_S}) as scenario:
        with pytest.raises(openai.APIStatusError) as caught:
            await scenario.sdk().responses.create(model=MODEL, input="hello", stream=True)
        assert (caught.value.status_code, caught.value.code) == (408, "upstream_timeout")


ENDINGS_IN_A_STREAM = [
    pytest.param(hang(), "upstream_timeout", "upstream_stalled", id="stalls"),
    pytest.param(reset(), "upstream_unreachable", "upstream_cut", id="resets"),
    pytest.param(close(), "upstream_invalid_response", "upstream_cut", id="closes inside the body"),
    pytest.param(end_of_body(), "upstream_invalid_response", "upstream_cut", id="ends cleanly, unfinished"),
    pytest.param(send(b"no chunk\r\n"), "upstream_invalid_response", "upstream_cut", id="breaks its framing"),
]


@pytest.mark.parametrize(("fault", "code", "outcome"), ENDINGS_IN_A_STREAM)
async def test_a_broken_stream_ends_with_the_gateways_closing_events(
    stages: Stages, fault: Step, code: str, outcome: str
) -> None:
    code = "upstream_invalid_response" if code == "upstream_unreachable" else code
    script = [request(), stream(created(), delta("one", 1), delta("two", 2)), fault]
    async with stages(script, upstream={"chunk_timeout_s": STALL_S}) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_all()
        assert client.status == 200
        assert client.body.startswith(created() + delta("one", 1) + delta("two", 2))
        assert_last_words(client.body, code, first=3)
        await scenario.ended(outcome=outcome, settled_by="estimate", output_tokens=2, code=code)


@pytest.mark.parametrize(("fault", "code", "outcome"), ENDINGS_IN_A_STREAM)
async def test_the_sdk_raises_for_a_broken_stream(stages: Stages, fault: Step, code: str, outcome: str) -> None:
    script = [request(), stream(created(), delta("one")), fault]
    async with stages(script, upstream={"chunk_timeout_s": STALL_S}) as scenario:
        seen: list[str] = []
        with pytest.raises(openai.APIError, match="provider"):
            await scenario.stream_with_sdk(seen)
        assert seen == ["response.created", "response.output_text.delta"]


@pytest.mark.parametrize("fault", [reset(), close(), end_of_body()], ids=["resets", "closes", "ends"])
async def test_a_stream_that_dies_before_its_first_event_still_has_a_beginning(stages: Stages, fault: Step) -> None:
    async with stages([request(), send(EVENT_STREAM), fault]) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_all()
        kinds = [one["type"] for one in events_of(client.body) if isinstance(one, dict)]
        assert kinds == ["response.created", "error", "response.failed"]
        assert client.body.endswith(DONE)
        await scenario.ended(outcome="upstream_cut", settled_by="estimate", output_tokens=0)


async def test_half_an_event_is_not_passed_on(stages: Stages) -> None:
    script = [request(), stream(created(), delta("one"), delta("two", 2)[:-5]), reset()]
    async with stages(script) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_all()
        assert b'"two"' not in client.body
        assert_last_words(client.body, "upstream_invalid_response", first=2)
        await scenario.ended(outcome="upstream_cut", settled_by="estimate", output_tokens=1)


ERROR_EVENT = event("error", 2, error={"type": "server_error", "code": "busy", "message": "Busy.", "param": None})


async def test_an_error_event_and_what_follows_it_pass_unchanged(stages: Stages) -> None:
    events = [created(), delta("one"), ERROR_EVENT, delta("two", 3), completed(4), DONE]
    async with stages([request(), stream(*events), end_of_body()]) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_all()
        assert client.body == b"".join(events)
        await scenario.ended(outcome="completed", settled_by="usage", usage=(100, 7))


async def test_an_error_event_and_no_end_is_ended_without_a_second_error(stages: Stages) -> None:
    async with stages([request(), stream(created(), delta("one"), ERROR_EVENT), end_of_body()]) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_all()
        assert client.body.count(b"event: error") == 1
        failed, done = events_of(client.body)[-2:]
        assert isinstance(failed, dict)
        assert (failed["type"], failed["sequence_number"], done) == ("response.failed", 3, "[DONE]")
        await scenario.ended(outcome="failed", settled_by="estimate", output_tokens=1)


async def test_bytes_after_done_pass_unchanged(stages: Stages) -> None:
    events = [created(), delta("one"), completed(), DONE, b": goodbye\n\n", DONE]
    async with stages([request(), stream(*events[:4]), more(*events[4:]), end_of_body()]) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_all()
        assert client.body == b"".join(events)
        await scenario.ended(outcome="completed", settled_by="usage", usage=(100, 7))


@pytest.mark.parametrize("fault", [reset(), hang()], ids=["resets", "stalls"])
async def test_after_a_terminal_event_nothing_is_added(stages: Stages, fault: Step) -> None:
    events = [created(), delta("one"), completed()]
    async with stages([request(), stream(*events), fault], upstream={"chunk_timeout_s": STALL_S}) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_all()
        assert client.body == b"".join(events)
        await scenario.ended(outcome="completed", settled_by="usage", usage=(100, 7))


@pytest.mark.parametrize(
    ("fault", "status", "outcome"),
    [(reset(), 502, "upstream_cut"), (hang(), 408, "upstream_stalled")],
    ids=["resets", "stalls"],
)
async def test_a_plain_answer_that_breaks_off_is_an_error_and_its_input_is_charged(
    stages: Stages, fault: Step, status: int, outcome: str
) -> None:
    half = send(b"HTTP/1.1 200 OK\r\n" + JSON + b'content-length: 900\r\n\r\n{"id": "resp_upstream1", ')
    async with stages([request(), half, fault], upstream={"chunk_timeout_s": STALL_S}) as scenario:
        client = await scenario.ask()
        await client.read_all()
        assert client.status == status
        await scenario.ended(outcome=outcome, settled_by="estimate", output_tokens=0)


async def test_a_stream_of_crlf_is_ended_in_a_form_that_clients_read(stages: Stages) -> None:
    crlf = (created() + delta("one")).replace(b"\n", b"\r\n")
    async with stages([request(), send(EVENT_STREAM + chunk(crlf)), reset()]) as scenario:
        seen: list[str] = []
        with pytest.raises(openai.APIError):
            await scenario.stream_with_sdk(seen)
        assert seen == ["response.created", "response.output_text.delta"]
