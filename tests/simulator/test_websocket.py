"""WebSocket mode of the simulator: the events of POST, lanes, memory and steering."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from gateway.simulator import build_simulator
from tests.simulator.conftest import running
from tests.support.websocket_client import Socket


@pytest.fixture
def socket(simulator_url: str) -> Iterator[Socket]:
    with Socket(simulator_url, "any-key") as socket:
        yield socket


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def test_a_turn_has_the_events_of_a_stream(simulator_url: str, socket: Socket) -> None:
    body = {"model": "sim/tokens-4", "input": "x"}
    socket.create(**body)
    events = socket.events()
    headers = {"authorization": "Bearer any-key"}
    posted = httpx.post(f"{simulator_url}/v1/responses", json={**body, "stream": True}, headers=headers).text
    assert kinds(events) == [line[7:] for line in posted.splitlines() if line.startswith("event: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_what_nobody_stores_is_continued_on_its_connection_alone(simulator_url: str, socket: Socket) -> None:
    first = socket.turn({"model": "sim/echo", "input": "one", "store": False})[1]["response"]
    again = {"model": "sim/echo", "input": "two", "previous_response_id": first["id"]}
    status, second = socket.turn(again)
    assert status == 200
    assert second["response"]["usage"]["input_tokens"] > first["usage"]["total_tokens"]
    with Socket(simulator_url, "any-key") as other:
        status, refused = other.turn(again)
        assert (status, refused["error"]["code"]) == (400, "previous_response_not_found")


def test_lanes_run_side_by_side_and_say_whose_events_are(socket: Socket) -> None:
    socket.create(model="sim/slow-50", input="x", stream_id="slow")
    socket.create(model="sim/echo", input="x", stream_id="fast")
    assert socket.events("fast")[-1]["type"] == "response.completed"
    assert socket.events("slow")[-1]["type"] == "response.completed"


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"model": "sim/error-429", "input": "x"}, 429), ({"input": "x"}, 400),
     ({"model": "sim/echo", "input": "x", "background": True}, 400)],
)  # fmt: skip
def test_an_error_has_a_status_and_the_connection_goes_on(socket: Socket, fields: dict[str, Any], status: int) -> None:
    assert socket.turn(fields)[0] == status
    assert socket.turn({"model": "sim/echo", "input": "x"})[0] == 200


def test_a_steered_turn_ends_and_its_successor_follows(socket: Socket) -> None:
    socket.create(model="sim/slow-30+tokens-40", input="x")
    previous = socket.receive()["response"]["id"]
    socket.send({"type": "response.steer", "previous_response_id": previous, "input": "Shorter."})
    steered = socket.events()
    assert "response.steer.accepted" in kinds(steered)
    last = steered[-1]["response"]
    assert (last["id"], last["incomplete_details"]) == (previous, {"reason": "steered"})
    follows = socket.events()[-1]["response"]
    assert follows["status"] == "completed"
    assert follows["usage"]["input_tokens"] > last["usage"]["input_tokens"]


@pytest.mark.parametrize(("text", "code"), [("x", "response_not_active"), (7, "invalid_input")])
def test_steering_of_what_does_not_run_fails(socket: Socket, text: Any, code: str) -> None:
    socket.send({"type": "response.steer", "previous_response_id": "resp_none", "input": text})
    assert socket.receive()["error"]["code"] == code


def test_a_connection_that_is_cut_is_closed_in_the_turn(socket: Socket) -> None:
    socket.create(model="sim/cut-3", input="x")
    assert socket.receive()["type"] == "response.created"
    assert socket.closed()[0] == 1011


@pytest.mark.parametrize(("post_only", "key", "status"), [(True, "any-key", 404), (False, None, 401)])
def test_an_upgrade_is_refused(post_only: bool, key: str | None, status: int) -> None:
    with running(build_simulator(post_only=post_only)) as url, pytest.raises(InvalidStatus) as refused:
        Socket(url, key)
    assert refused.value.response.status_code == status
