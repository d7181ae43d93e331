"""Turns of WebSocket mode: the events of the stream that POST gives, one turn a lane, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import NewKey, RunningGateway, StartGateway, running_gateway
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.sent import Sent
from tests.support.servers import Server
from tests.support.specification import validate_message
from tests.support.websocket_client import Socket
from tests.websocket.answers import MODEL, answer
from tests.websocket.conftest import Log

ECHO = {"model": "sim/echo", "input": "Say hello."}
SLOW = {"model": "sim/slow-100", "input": "Slowly."}
NEVER = {"model": "sim/stall-5", "input": "Never ends."}


@pytest.fixture(scope="module")
def listing(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway that does not route every model."""
    routes = [{"model": "sim/*", "upstreams": ["simulator"]}]
    with running_gateway(store.url, upstream, tmp_path_factory.mktemp("listing"), routes=routes) as running:
        yield running


def test_the_events_are_those_of_the_stream_byte_for_byte(
    provider: PostOnlyProvider, store: Any, start: StartGateway
) -> None:
    with start(upstream={"base_url": provider.url}) as gateway, gateway.http(gateway.new_key()) as http:
        one = answer("The same.", "resp_same")
        provider.next(one)
        streamed = http.post("/v1/responses", json={"model": MODEL, "input": "x", "stream": True}).text
        data = [line.removeprefix("data: ") for line in streamed.split("\n") if line.startswith("data: {")]
        assert len(data) > 4
        provider.next(one)
        with Socket(gateway.url, gateway.new_key().text) as socket:
            socket.create(model=MODEL, input="x")
            assert [socket.connection.recv(timeout=20) for _ in data] == data


def test_every_event_fits_the_specification_and_each_turn_counts_from_0(gateway: RunningGateway, key: NewKey) -> None:
    with Socket(gateway.url, key.text) as socket:
        for _ in range(2):
            socket.create(**ECHO)
            events = socket.events()
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
            for event in events:
                validate_message(event)


def test_what_http_alone_means_is_dropped_and_a_background_is_refused(
    provider: PostOnlyProvider, keeping: RunningGateway, kept_key: NewKey
) -> None:
    with Socket(keeping.url, kept_key.text) as socket:
        calls = len(provider.received)
        provider.next(answer("x", "resp_dropped"))
        dropped = {"stream": False, "stream_options": {"include_obfuscation": False}, "background": False}
        assert socket.turn({"model": MODEL, "input": "x", **dropped, "client_metadata": {"k": "v"}})[0] == 200
        received = provider.received[calls]
        assert (received["stream"], received["client_metadata"]) == (True, {"k": "v"})
        assert not {"type", "stream_options", "background", "stream_id", "generate"} & received.keys()
        status, refused = socket.turn({"model": MODEL, "input": "x", "background": True})
        assert (status, refused["error"]["param"]) == (400, "background")
        status, refused = socket.turn({"model": MODEL, "input": "x", "generate": "false"})
        assert (status, refused["error"]["param"]) == (400, "generate")
        assert len(provider.received) == calls + 1


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ("no JSON", 400, "invalid_json"),
        ("[]", 400, "invalid_json"),
        ("{}", 400, "missing_field"),
        ({"type": "response.create", "input": "x"}, 400, "missing_field"),
        ({"type": "response.create", "model": "sim/echo", "input": 7}, 400, "invalid_field"),
        ({"type": "response.create", "model": "unlisted", "input": "x"}, 404, "model_not_found"),
        ({"type": "response.create", "stream_id": "a b", **ECHO}, 400, "invalid_stream_id"),
        ({"type": "response.create", "stream_id": 7, **ECHO}, 400, "invalid_stream_id"),
        ({"type": "response.create", "previous_response_id": "resp_no", **ECHO}, 400, "previous_response_not_found"),
        ({"type": "response.create", "model": "sim/error-429", "input": "x"}, 429, "simulated_error"),
        ({"type": "response.create", "model": "sim/error-event", "input": "x"}, 500, "server_error"),
        ({"type": "response.create", "model": "sim/cut-5", "input": "x"}, 502, "upstream_invalid_response"),
    ],
)
def test_an_error_has_a_status_and_the_socket_goes_on(
    listing: RunningGateway, sent: Any, status: int, code: str
) -> None:
    with Socket(listing.url, listing.new_key().text) as socket:
        socket.send(sent)
        event = socket.receive()
        while event["type"] != "error":
            event = socket.receive()
        validate_message(event)
        assert (event["status"], event["error"]["code"]) == (status, code)
        socket.create(**ECHO, stream_id="next")
        assert socket.events("next")[-1]["type"] == "response.completed"


def test_messages_of_unknown_types_are_ignored_in_silence(gateway: RunningGateway, key: NewKey) -> None:
    with Socket(gateway.url, key.text) as socket:
        for _ in range(50):
            socket.send({"type": "response.processed", "response_id": "resp_x"})
        socket.send({"type": "session.update", "stream_id": "not / a lane"})
        socket.create(**ECHO)
        assert socket.events()[0]["type"] == "response.created"


def test_steering_is_refused_with_its_input(gateway: RunningGateway, key: NewKey) -> None:
    steer = {"input": [{"role": "user", "content": "Stop."}], "previous_response_id": "resp_running"}
    with Socket(gateway.url, key.text) as socket:
        socket.send({"type": "response.steer", **steer})
        event = socket.receive()
        assert (event["type"], event["steer"]) == ("response.steer.failed", steer)
        assert (event["error"]["code"], event["error"]["type"]) == ("steering_not_supported", "invalid_request_error")
        assert event["sequence_number"] == 0


def test_a_lane_runs_one_turn_at_a_time_in_the_order_of_its_messages(
    provider: PostOnlyProvider, keeping: RunningGateway, kept_key: NewKey
) -> None:
    for number in range(4):
        provider.next(answer(str(number), f"resp_order_{number}", delay_s=0.05))
    with Socket(keeping.url, kept_key.text) as socket:
        for number in range(4):
            socket.create(model=MODEL, input=str(number))
        ids = [{event["response"]["id"] for event in socket.events() if "response" in event} for _ in range(4)]
        assert ids == [{f"resp_order_{number}"} for number in range(4)]


def test_large_messages_keep_their_place_among_small_ones(
    provider: PostOnlyProvider, keeping: RunningGateway, kept_key: NewKey
) -> None:
    sizes = [1, 300_000, 2, 2_000_000, 3]
    calls = len(provider.received)
    for number, _ in enumerate(sizes):
        provider.next(answer(str(number), f"resp_large_{number}"))
    with Socket(keeping.url, kept_key.text, compression=None) as socket:
        for size in sizes:
            socket.create(model=MODEL, input="x" * size, store=False)
        ids = [{event["response"]["id"] for event in socket.events() if "response" in event} for _ in sizes]
        assert ids == [{f"resp_large_{number}"} for number, _ in enumerate(sizes)]
        assert [len(received["input"]) for received in provider.received[calls:]] == sizes
        provider.next(answer("on", "resp_large_on"))
        last = {"previous_response_id": "resp_large_4", "store": False}
        assert socket.turn({"model": MODEL, "input": "y" * 200_000, **last})[0] == 200
        assert [len(item["content"][0]["text"]) for item in provider.received[-1]["input"]] == [3, 1, 200_000]


def test_lanes_run_side_by_side_and_each_event_names_its_lane(gateway: RunningGateway, key: NewKey) -> None:
    with Socket(gateway.url, key.text) as socket:
        socket.create(**NEVER, stream_id="slow")
        assert socket.receive()["stream_id"] == "slow"
        socket.create(**ECHO, stream_id="quick")
        quick = socket.events("quick")
        assert quick[-1]["type"] == "response.completed"
        for event in quick:
            validate_message(event)
        socket.create(**ECHO)
        assert socket.events(None)[-1]["type"] == "response.completed"


def test_turns_beyond_the_bounds_are_refused_and_the_others_go_on(start: StartGateway) -> None:
    with (
        start(websocket={"max_lanes": 2, "max_queued": 1}) as gateway,
        Socket(gateway.url, gateway.new_key().text) as socket,
    ):
        for lane in ("a", "b"):
            socket.create(**SLOW, stream_id=lane)
        for lane in ("c", "a", "b"):  # a lane too many; one that waits; one too many that waits
            socket.create(**ECHO, stream_id=lane)
        ended: list[dict[str, Any]] = []
        while len(ended) < 5:
            event = socket.receive()
            ended += [event] if event["type"] in ("response.completed", "error") else []
        refused = [event for event in ended if event["type"] == "error"]
        assert [(event["stream_id"], event["status"]) for event in refused] == [("c", 429), ("b", 429)]
        assert {event["error"]["code"] for event in refused} == {"too_many_turns"}
        assert refused[0]["error"]["retry_after"] == 1
        assert sorted(event["stream_id"] for event in ended if event["type"] != "error") == ["a", "a", "b"]


def test_bytes_that_wait_are_bounded(start: StartGateway) -> None:
    with (
        start(websocket={"max_queued_bytes": 4096}) as gateway,
        Socket(gateway.url, gateway.new_key().text) as socket,
    ):
        socket.create(**SLOW)
        socket.create(model="sim/echo", input="x" * 5000)
        event = socket.receive()
        while event["type"] != "error":
            event = socket.receive()
        assert event["error"]["code"] == "too_many_turns"


def test_each_turn_is_a_request_of_its_own(gateway: RunningGateway, key: NewKey, log: Log) -> None:
    """Its own id, log line, hold and charge; an idempotency key of the upgrade would make the second a repetition."""
    before = gateway.balance(key).available
    with Socket(gateway.url, key.text, headers={"idempotency-key": "once"}) as socket:
        for _ in range(3):
            assert socket.turn(ECHO)[0] == 200
    lines = log.wait(key, 3)
    assert len({line["request_id"] for line in lines}) == 3
    assert {(line["method"], line["outcome"], line["settled_by"]) for line in lines} == {("WS", "completed", "usage")}
    balance = gateway.balance(key)
    spent = sum(round(float(line["cost_usd"]) * 10**9) for line in lines)
    assert (before - balance.available, balance.held) == (spent, 0)
    assert spent > 0


def test_limits_hold_for_each_turn(gateway: RunningGateway) -> None:
    key = gateway.new_key(limits={"rpm": 2})
    with Socket(gateway.url, key.text) as socket:
        assert [socket.turn(ECHO)[0] for _ in range(3)] == [200, 200, 429]
        socket.create(**ECHO)
        refused = socket.receive()
        assert (refused["error"]["limit"], refused["error"]["scope"]) == ("rpm", "team")
        assert int(refused["headers"]["retry-after"]) >= 1


def test_an_answer_that_is_no_stream_becomes_one(
    provider: PostOnlyProvider, keeping: RunningGateway, kept_key: NewKey
) -> None:
    provider.next(answer("whole", "resp_whole", streams=False))
    with Socket(keeping.url, kept_key.text) as socket:
        socket.create(model=MODEL, input="x")
        events = socket.events()
        assert [event["type"] for event in events][:2] == ["response.created", "response.in_progress"]
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "whole"


def test_a_client_that_closes_ends_its_turns(gateway: RunningGateway, key: NewKey, log: Log) -> None:
    with Socket(gateway.url, key.text) as socket:
        for lane in ("a", "b"):
            socket.create(**NEVER, stream_id=lane)
        while {socket.receive()["stream_id"] for _ in range(3)} != {"b"}:
            pass
    assert {line["outcome"] for line in log.wait(key, 2)} == {"client_left"}
    assert gateway.balance(key).held == 0


@pytest.mark.parametrize("browser", [False, True], ids=["a header", "a subprotocol"])
def test_headers_of_the_upgrade_reach_the_provider_and_its_key_does_not(
    gateway: RunningGateway, key: NewKey, log: Log, upstream: str, browser: bool
) -> None:
    sent = {"session-id": "s-1", "x-codex-turn-state": "t", "originator": "codex_cli_rs", "cookie": "c=1"}
    named: Any = ["realtime", f"openai-insecure-api-key.{key.text}"] if browser else ["realtime"]
    with Socket(gateway.url, None if browser else key.text, headers=sent, subprotocols=named) as socket:
        assert socket.turn(ECHO)[0] == 200
    seen = Sent(upstream).of(log.wait(key, 1)[0]["request_id"])
    headers = {name.lower(): value for name, value in seen.headers.items()}
    assert {name: headers.get(name) for name in sent} == {**sent, "cookie": None}
    assert key.text not in repr(seen)
    assert not [name for name in headers if name.startswith("sec-websocket")]
