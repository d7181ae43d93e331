"""Each behaviour of the table, as a client on a socket sees it."""

import json
import time

import httpx
import pytest

import gateway.simulator
from gateway.simulator.behaviours import ROWS, BadModel, Behaviour, behaviour_of
from tests.simulator.client import Simulator, read_event, read_events, text_of
from tests.support.waiting import wait_until_sync


def partial_stream(simulator: Simulator, model: str) -> tuple[bytes, type[Exception] | None]:
    """The bytes up to the end or to the fault, and the fault's class."""
    body = b""
    with simulator.http.stream("POST", "/v1/responses", json={"model": model, "input": "x", "stream": True}) as answer:
        try:
            for part in answer.iter_raw():
                body += part
        except httpx.HTTPError as error:
            return body, type(error)
    return body, None


def test_the_packages_table_shows_every_behaviour() -> None:
    documented = gateway.simulator.__doc__ or ""
    for row in ROWS:
        assert f"| `sim/{row.name}" in documented
    assert documented.count("| `sim/") == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_every_row_changes_one_field(row: gateway.simulator.behaviours.Row) -> None:
    assert behaviour_of(row.model) != Behaviour()
    assert getattr(behaviour_of(row.model), row.field) == (row.example if row.bounds else row.value)


def test_names_join_with_a_plus_and_unknown_names_behave_well() -> None:
    assert behaviour_of("sim/slow-20+no-usage") == Behaviour(token_delay_ms=20, usage=False)
    for model in ("sim/anything", "sim/", "o4-mini", "openai/gpt-5.2", "other/slow-5"):
        assert behaviour_of(model) == Behaviour()


@pytest.mark.parametrize(
    "model", ["sim/slow-", "sim/slow", "sim/slow-x", "sim/error-prone", "sim/error-999", "sim/big-0"]
)
def test_a_parameter_out_of_its_range_is_an_error_that_names_the_range(model: str) -> None:
    with pytest.raises(BadModel, match="takes a whole number from"):
        behaviour_of(model)


@pytest.mark.parametrize("count", [0, 1, 5, 9])
def test_a_cut_stream_dies_inside_its_body_after_so_many_events(simulator: Simulator, count: int) -> None:
    body, fault = partial_stream(simulator, f"sim/cut-{count}")
    assert fault is httpx.RemoteProtocolError
    assert body.count(b"\n\n") == count
    assert body.endswith(b"\n\n") or not body


@pytest.mark.parametrize("count", [0, 1, 5])
def test_an_ended_stream_ends_cleanly_without_a_terminal_event(simulator: Simulator, count: int) -> None:
    body, fault = partial_stream(simulator, f"sim/end-{count}")
    assert fault is None
    assert body.count(b"\n\n") == count
    assert b"response.completed" not in body
    assert b"[DONE]" not in body


def test_a_stream_may_be_cut_after_its_last_event(simulator: Simulator) -> None:
    total = len(simulator.events("sim/tokens-5"))
    body, fault = partial_stream(simulator, f"sim/tokens-5+cut-{total}")
    assert fault is httpx.RemoteProtocolError
    assert b"event: response.completed" in body
    assert b"[DONE]" not in body


def test_a_cut_json_answer_is_shorter_than_its_content_length(simulator: Simulator) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        simulator.post("sim/cut-3")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["sim/stall-3", "sim/stall-head"])
def test_a_stalled_answer_waits_until_its_client_leaves(simulator_url: str, model: str, stream: bool) -> None:
    headers = {"authorization": "Bearer x"}
    body = {"model": model, "input": "x", "stream": stream}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{simulator_url}/v1/responses", json=body, headers=headers, timeout=0.3)
    with httpx.Client(base_url=simulator_url) as client:
        wait_until_sync(lambda: Simulator(client).received()[0]["finished"])
        assert Simulator(client).received()[0]["client_left"] is True


def test_a_slow_stream_stops_being_made_when_its_client_leaves(simulator: Simulator) -> None:
    body = {"model": "sim/slow-20+tokens-100000", "input": "x", "stream": True}
    with simulator.http.stream("POST", "/v1/responses", json=body) as answer:
        first = next(answer.iter_raw())
    wait_until_sync(lambda: simulator.received()[0]["finished"])
    assert simulator.received()[0]["client_left"] is True
    identity = first.partition(b'"id":"')[2].partition(b'"')[0].decode()
    assert simulator.http.get(f"/v1/responses/{identity}").json()["status"] == "cancelled"


def test_a_fast_stream_stops_too_when_its_client_leaves(simulator: Simulator) -> None:
    body = {"model": "sim/tokens-1000000", "input": "x", "stream": True}
    with simulator.http.stream("POST", "/v1/responses", json=body) as answer:
        next(answer.iter_raw())
    wait_until_sync(lambda: simulator.received()[0]["finished"])
    report = simulator.received()[0]
    assert report["client_left"] is True
    assert report["response_bytes"] < 1_000_000 * 100


def test_slow_tokens_take_at_least_their_time(simulator: Simulator) -> None:
    begin = time.monotonic()
    events = simulator.events("sim/slow-10+tokens-5")
    assert time.monotonic() - begin >= 0.05
    assert len(events) == 4 + 5 + 4


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 429, 500, 502, 503, 529])
def test_errors_have_the_asked_status_and_the_error_format(simulator: Simulator, status: int) -> None:
    answer = simulator.post(f"sim/error-{status}", stream=True)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert ("retry-after" in answer.headers) is (status in {429, 503})


def test_bodies_that_are_no_answers(simulator: Simulator) -> None:
    page = simulator.post("sim/html")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    with pytest.raises(json.JSONDecodeError):
        simulator.post("sim/bad-json").json()
    error = simulator.post("sim/error-200")
    assert error.status_code == 200
    assert error.json()["error"]["code"] == "simulated_error"


def test_usage_may_be_missing_cached_or_priced(simulator: Simulator) -> None:
    assert simulator.answer("sim/no-usage")["usage"] is None
    assert simulator.events("sim/no-usage")[-1]["response"]["usage"] is None
    prompt = "twelve words " * 20
    assert simulator.answer("m", prompt)["usage"]["input_tokens_details"]["cached_tokens"] == 0
    cached = simulator.answer("sim/cached", prompt)["usage"]
    assert cached["input_tokens_details"]["cached_tokens"] == cached["input_tokens"] // 2 > 0
    priced = simulator.answer("sim/cost", prompt)["usage"]
    expected = priced["input_tokens"] * 1.25e-6 + priced["output_tokens"] * 1e-5
    assert priced["cost"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("ending", ["failed", "incomplete"])
def test_answers_that_do_not_complete_still_say_what_they_used(simulator: Simulator, ending: str) -> None:
    last = simulator.events(f"sim/{ending}")[-1]
    assert last["type"] == f"response.{ending}"
    assert last["response"]["usage"]["output_tokens"] > 0
    assert bool(last["response"]["error"]) is (ending == "failed")
    assert bool(last["response"]["incomplete_details"]) is (ending == "incomplete")


@pytest.mark.parametrize("count", [1, 3, 100])
def test_the_number_of_output_tokens_can_be_chosen(simulator: Simulator, count: int) -> None:
    events = simulator.events(f"sim/tokens-{count}")
    assert sum(event["type"].endswith(".delta") for event in events) == count
    assert events[-1]["response"]["usage"]["output_tokens"] == count


def test_a_big_delta_has_the_asked_size(simulator: Simulator) -> None:
    deltas = [event["delta"] for event in simulator.events("sim/big-64") if event["type"].endswith("text.delta")]
    assert [len(delta) for delta in deltas] == [64 * 1024]


@pytest.mark.parametrize(("model", "newline"), [("sim/crlf", b"\r\n"), ("sim/cr", b"\r")])
def test_lines_may_end_otherwise(simulator: Simulator, model: str, newline: bytes) -> None:
    body = simulator.post(model, stream=True).content
    assert body.count(b"\n") == (body.count(newline) if b"\n" in newline else 0)
    assert body.endswith(b"data: [DONE]" + newline * 2)
    assert read_events(body.replace(newline, b"\n"))[-1]["type"] == "response.completed"


def test_comments_stand_between_events(simulator: Simulator) -> None:
    body = simulator.post("sim/comments", stream=True).content
    comment = b": simulated comment\n\n"
    assert body.count(comment) == len(read_events(body.replace(comment, b"")))


def test_extension_events_and_items_stand_among_the_known_ones(simulator: Simulator) -> None:
    events = simulator.events("sim/extension")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert any(event["type"] == "sim:custom" for event in events)
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["sim:note", "message"]
    assert text_of(events[-1]["response"])


@pytest.mark.parametrize("also", ["", "+reasoner", "+extension", "+tokens-1"])
def test_an_error_event_does_not_end_the_stream(simulator: Simulator, also: str) -> None:
    kinds = [event["type"] for event in simulator.events(f"sim/error-event{also}")]
    assert kinds.count("error") == 1
    assert kinds.index("error") < kinds.index("response.completed")


def test_the_end_mark_may_be_missing_or_not_the_last(simulator: Simulator) -> None:
    assert b"[DONE]" not in simulator.post("sim/no-done", stream=True).content
    body = simulator.post("sim/after-done", stream=True).content
    known, _, late = body.partition(b"data: [DONE]\n\n")
    assert b"response.completed" in known
    assert read_event(late.decode().removesuffix("\n\n"))["type"] == "sim:late"
