"""What a socket remembers of responses that nobody stores, and what becomes of it."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.websocket.memory import LaneMemory, Remembered
from tests.support.gateway import NewKey, RunningGateway, StartGateway, running_gateway
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.specification import validate_message
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import Socket
from tests.websocket.answers import MODEL, answer, call, failure
from tests.websocket.conftest import Log

UNSTORED = {"model": MODEL, "store": False}
NOT_FOUND = (400, "previous_response_not_found", "previous_response_id")


def refused(got: tuple[int, dict[str, Any]]) -> tuple[int, str, str]:
    status, event = got
    assert event["type"] == "error"
    return status, event["error"]["code"], event["error"]["param"]


def texts(received: dict[str, Any]) -> list[str]:
    """The texts and the outputs of a request's input, in their order."""
    found = []
    for item in received["input"]:
        content = item.get("content") or item.get("output") or item.get("call_id") or ""
        found.append(content if isinstance(content, str) else content[0]["text"])
    return found


class Talk:
    """Turns over one socket, and what the provider received of each."""

    def __init__(self, socket: Socket, provider: PostOnlyProvider, **fields: Any) -> None:
        self.socket, self.provider, self.fields = socket, provider, {**UNSTORED, **fields}

    def turn(self, text: Any, identifier: str, previous: str | None = None, **fields: Any) -> dict[str, Any]:
        """Says it, and is answered by this response. Returns what the provider was sent."""
        calls = len(self.provider.received)
        self.provider.next(answer(f"To {str(text)[:20]}", identifier))
        said = {**self.fields, "input": text, **fields}
        status, event = self.socket.turn(said | ({"previous_response_id": previous} if previous else {}))
        assert (status, event["response"]["id"]) == (200, identifier)
        return self.provider.received[calls]


@pytest.fixture(scope="module", params=["gateway", "upstream", "none"])
def by_state(
    request: pytest.FixtureRequest, store: Any, post_only: PostOnlyProvider, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    directory = tmp_path_factory.mktemp(request.param)
    with running_gateway(store.url, post_only.url, directory, route={"state": request.param}) as running:
        yield running


def test_a_chain_of_unstored_responses_goes_on_whoever_keeps_the_state(
    by_state: RunningGateway, provider: PostOnlyProvider
) -> None:
    with Socket(by_state.url, by_state.new_key().text) as socket:
        talk = Talk(socket, provider)
        talk.turn("one", "resp_c1")
        talk.turn("two", "resp_c2", "resp_c1")
        received = talk.turn("three", "resp_c3", "resp_c2")
        assert texts(received) == ["one", "To one", "two", "To two", "three"]
        assert "previous_response_id" not in received
        assert all("id" not in item and "status" not in item for item in received["input"])


def test_the_last_response_of_a_lane_alone_is_remembered(by_state: RunningGateway, provider: PostOnlyProvider) -> None:
    with Socket(by_state.url, by_state.new_key().text) as socket:
        talk = Talk(socket, provider)
        talk.turn("one", "resp_l1")
        talk.turn("two", "resp_l2")
        got = socket.turn({**UNSTORED, "input": "x", "previous_response_id": "resp_l1"})
        assert refused(got) == NOT_FOUND


def test_another_connection_knows_nothing_of_it(by_state: RunningGateway, provider: PostOnlyProvider) -> None:
    key = by_state.new_key().text
    with Socket(by_state.url, key) as one, Socket(by_state.url, key) as other:
        Talk(one, provider).turn("one", "resp_o1")
        got = other.turn({**UNSTORED, "input": "x", "previous_response_id": "resp_o1"})
        assert refused(got) == NOT_FOUND


@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_continuation_that_fails_evicts_what_it_names(
    by_state: RunningGateway, provider: PostOnlyProvider, status: int
) -> None:
    with Socket(by_state.url, by_state.new_key().text) as socket:
        identifier = f"resp_e{status}"
        Talk(socket, provider).turn("one", identifier)
        again = {**UNSTORED, "input": "two", "previous_response_id": identifier}
        provider.next(failure(status, "failing"))
        assert socket.turn(again)[1]["type"] == "error"
        calls = len(provider.received)
        assert refused(socket.turn(again)) == NOT_FOUND
        assert len(provider.received) == calls


def test_an_output_without_its_call_fails_and_evicts(
    keeping: RunningGateway, kept_key: NewKey, provider: PostOnlyProvider
) -> None:
    with Socket(keeping.url, kept_key.text) as socket:
        Talk(socket, provider).turn("one", "resp_orphan")
        orphan = [{"type": "function_call_output", "call_id": "call_none", "output": "x"}]
        again = {**UNSTORED, "input": orphan, "previous_response_id": "resp_orphan"}
        assert socket.turn(again)[0] == 400
        assert refused(socket.turn({**again, "input": "two"})) == NOT_FOUND


def test_a_turn_that_names_nothing_evicts_nothing_when_it_fails(
    by_state: RunningGateway, provider: PostOnlyProvider
) -> None:
    with Socket(by_state.url, by_state.new_key().text) as socket:
        talk = Talk(socket, provider)
        talk.turn("one", "resp_n1")
        provider.next(failure(400, "failing"))
        assert socket.turn({**UNSTORED, "input": "bad"})[0] == 400
        assert texts(talk.turn("two", "resp_n2", "resp_n1")) == ["one", "To one", "two"]


def test_a_lane_continues_what_another_made_and_its_failure_takes_nothing_away(
    by_state: RunningGateway, provider: PostOnlyProvider
) -> None:
    with Socket(by_state.url, by_state.new_key().text) as socket:
        talk, lane = Talk(socket, provider), {"stream_id": "fork"}
        talk.turn("one", "resp_f1")
        provider.next(failure(500, "failing"))
        fork = {**UNSTORED, **lane, "input": "fork", "previous_response_id": "resp_f1"}
        assert socket.turn(fork)[1]["type"] == "error"
        assert refused(socket.turn(fork)) == NOT_FOUND
        assert texts(talk.turn("two", "resp_f2", "resp_f1")) == ["one", "To one", "two"]
        assert texts(talk.turn("fork again", "resp_f3", "resp_f2", **lane))[-2:] == ["To two", "fork again"]
        assert texts(talk.turn("three", "resp_f4", "resp_f2"))[-2:] == ["To two", "three"]


def test_a_stored_child_of_an_unstored_parent_keeps_the_whole_window(
    keeping: RunningGateway, kept_key: NewKey, provider: PostOnlyProvider
) -> None:
    with Socket(keeping.url, kept_key.text) as socket:
        talk = Talk(socket, provider)
        talk.turn("one", "resp_s1")
        talk.turn("two", "resp_s2", "resp_s1", store=True)
    with keeping.http(kept_key) as http:
        assert http.get("/v1/responses/resp_s1").status_code == 404
        assert http.get("/v1/responses/resp_s2").json()["previous_response_id"] == "resp_s1"
        listed = http.get("/v1/responses/resp_s2/input_items?order=asc").json()["data"]
        assert [item["content"][0]["text"] for item in listed] == ["one", "To one", "two"]
        calls = len(provider.received)
        provider.next(answer("To three", "resp_s3"))
        http.post("/v1/responses", json={"model": MODEL, "input": "three", "previous_response_id": "resp_s2"})
        assert texts(provider.received[calls]) == ["one", "To one", "two", "To two", "three"]


def test_an_unstored_child_of_a_stored_parent_holds_its_chain(
    keeping: RunningGateway, kept_key: NewKey, provider: PostOnlyProvider
) -> None:
    with Socket(keeping.url, kept_key.text) as first:
        Talk(first, provider, store=True).turn("one", "resp_u1")
    with Socket(keeping.url, kept_key.text) as socket:
        talk = Talk(socket, provider)
        talk.turn("two", "resp_u2", "resp_u1")
        assert texts(talk.turn("three", "resp_u3", "resp_u2")) == ["one", "To one", "two", "To two", "three"]


def test_on_a_route_of_its_provider_a_stored_parent_is_named_before_what_is_remembered(
    start: StartGateway, provider: PostOnlyProvider
) -> None:
    with (
        start(upstream={"base_url": provider.url}) as gateway,
        Socket(gateway.url, gateway.new_key().text) as socket,
    ):
        talk = Talk(socket, provider)
        calls = len(provider.received)
        provider.next(answer("To one", "resp_p1", store=True))
        socket.turn({"model": MODEL, "input": "one"})
        assert "previous_response_id" not in provider.received[calls]
        received = talk.turn("two", "resp_p2", "resp_p1")
        assert (received["input"], received["previous_response_id"]) == ("two", "resp_p1")
        received = talk.turn("three", "resp_p3", "resp_p2")
        assert received["previous_response_id"] == "resp_p1"
        assert texts(received) == ["two", "To two", "three"]


def test_calls_and_their_outputs_go_on_over_the_socket(by_state: RunningGateway, provider: PostOnlyProvider) -> None:
    with Socket(by_state.url, by_state.new_key().text) as socket:
        provider.next(answer("", "resp_t1", output=[call("look", "call_1")]))
        socket.turn({**UNSTORED, "input": "Look."})
        calls = len(provider.received)
        provider.next(answer("Seen.", "resp_t2"))
        output = [{"type": "function_call_output", "call_id": "call_1", "output": "a.txt"}]
        assert socket.turn({**UNSTORED, "input": output, "previous_response_id": "resp_t1"})[0] == 200
        assert [item["type"] for item in provider.received[calls]["input"]] == [
            "message",
            "function_call",
            "function_call_output",
        ]


def test_a_failed_response_leaves_its_parent_and_cannot_be_continued(
    by_state: RunningGateway, provider: PostOnlyProvider
) -> None:
    with Socket(by_state.url, by_state.new_key().text) as socket:
        talk = Talk(socket, provider)
        talk.turn("one", "resp_x1")
        provider.next(answer("", "resp_x2", status="failed", error={"code": "server_error", "message": "No."}))
        socket.create(**UNSTORED, input="two", previous_response_id="resp_x1")
        assert socket.events()[-1]["type"] == "response.failed"
        got = socket.turn({**UNSTORED, "input": "x", "previous_response_id": "resp_x2"})
        assert refused(got) == NOT_FOUND
        assert texts(talk.turn("three", "resp_x3", "resp_x1")) == ["one", "To one", "three"]


def test_a_warm_up_costs_nothing_reaches_nobody_and_is_continued_with_an_empty_input(
    by_state: RunningGateway, provider: PostOnlyProvider
) -> None:
    key = by_state.new_key(limits={"rpm": 1})
    before, calls = by_state.balance(key), len(provider.received)
    with Socket(by_state.url, key.text) as socket:
        warm = {**UNSTORED, "generate": False, "input": "Later.", "instructions": "Be brief.", "tools": []}
        assert socket.turn(warm)[0] == 200
        socket.create(**warm)
        events = socket.events()
        for event in events:
            validate_message(event)
        response = events[-1]["response"]
        assert (response["output"], response["instructions"], response["store"]) == ([], "Be brief.", False)
        assert (response["usage"]["input_tokens"], response["usage"]["output_tokens"]) == (0, 0)
        assert (by_state.balance(key), len(provider.received)) == (before, calls)
        received = Talk(socket, provider).turn([], f"resp_w{by_state.url[-4:]}", response["id"])
        assert texts(received) == ["Later."]
        assert not {"generate", "previous_response_id", "type"} & received.keys()
    with Socket(by_state.url, key.text) as other:
        assert refused(other.turn({**UNSTORED, "input": [], "previous_response_id": response["id"]})) == NOT_FOUND


def test_the_flag_of_a_message_makes_a_warm_up_and_not_its_place(
    by_state: RunningGateway, provider: PostOnlyProvider
) -> None:
    with Socket(by_state.url, by_state.new_key().text) as socket:
        identifier = f"resp_v{by_state.url[-4:]}"
        Talk(socket, provider).turn("first", identifier, generate=True)
        warm = socket.turn({**UNSTORED, "generate": False, "input": "more", "previous_response_id": identifier})[1]
        assert warm["response"]["previous_response_id"] == identifier
        received = Talk(socket, provider).turn("now", f"{identifier}b", warm["response"]["id"])
        assert texts(received) == ["first", "To first", "more", "now"]


def test_a_warm_up_of_instructions_alone_needs_no_input(by_state: RunningGateway, provider: PostOnlyProvider) -> None:
    with Socket(by_state.url, by_state.new_key().text) as socket:
        status, warm = socket.turn({**UNSTORED, "generate": False, "instructions": "Be brief."})
        assert (status, warm["response"]["output"]) == (200, [])
        received = Talk(socket, provider).turn("now", f"resp_i{by_state.url[-4:]}", warm["response"]["id"])
        assert texts(received) == ["now"]


def test_a_warm_up_with_a_dead_key_or_of_nothing_is_refused(keeping: RunningGateway) -> None:
    key = keeping.new_key()
    with Socket(keeping.url, key.text) as socket:
        gone = {**UNSTORED, "generate": False, "input": "x", "previous_response_id": "resp_never"}
        assert refused(socket.turn(gone)) == NOT_FOUND
        keeping.revoke(key)
        assert socket.turn({**UNSTORED, "generate": False, "input": "x"})[0] == 401
        assert socket.closed()[0] == 1008


def test_a_socket_that_remembers_too_much_is_closed_between_two_turns(
    start: StartGateway, provider: PostOnlyProvider
) -> None:
    with start(upstream={"base_url": provider.url}, websocket={"max_memory_bytes": 20_000}) as gateway:
        with Socket(gateway.url, gateway.new_key().text) as socket:
            talk = Talk(socket, provider)
            talk.turn("x" * 10_000, "resp_b1")
            talk.turn("more", "resp_b2", "resp_b1")
            talk.turn("y" * 10_000, "resp_b3", "resp_b2")
            assert socket.closed()[0] == 1012
        assert gateway.services.sockets.memory_bytes == 0


@pytest.mark.parametrize("size", [10, 200_000], ids=["short", "long"])
def test_a_response_that_ends_after_its_client_has_left_is_not_remembered(
    start: StartGateway, provider: PostOnlyProvider, size: int
) -> None:
    with start(upstream={"base_url": provider.url}) as gateway:
        key, released = gateway.new_key(), threading.Event()
        slow = answer("x" * size, "resp_left")
        provider.next(replace(slow, released=released, shown=1))
        with Socket(gateway.url, key.text, max_size=None) as socket:
            socket.create(**UNSTORED, input="x")
            socket.receive()
        sockets = gateway.services.sockets
        wait_until_sync(lambda: not sockets.count, what="the gateway has noticed that the client left")
        released.set()
        wait_until_sync(lambda: gateway.balance(key).spent > 0, what="it is settled")
        wait_until_sync(lambda: sockets.turns.total() == 1, what="the turn has ended")
        assert sockets.memory_bytes == 0


def test_what_a_worker_remembers_is_bounded_and_the_socket_that_was_used_least_lately_goes(
    start: StartGateway, provider: PostOnlyProvider
) -> None:
    with start(upstream={"base_url": provider.url}, websocket={"max_worker_memory_bytes": 40_000}) as gateway:
        key = gateway.new_key().text
        with Socket(gateway.url, key) as old, Socket(gateway.url, key) as new, Socket(gateway.url, key) as empty:
            Talk(old, provider).turn("x" * 15_000, "resp_m1")
            Talk(new, provider).turn("y" * 15_000, "resp_m2")
            talk = Talk(new, provider)
            talk.turn("z" * 10_000, "resp_m3", "resp_m2")
            assert old.closed()[0] == 1012
            assert texts(talk.turn("on", "resp_m4", "resp_m3"))[-1] == "on"
            Talk(empty, provider).turn("still here", "resp_m5")


def test_a_closed_socket_is_one_line_in_the_log(gateway: RunningGateway, key: NewKey, log: Log) -> None:
    with Socket(gateway.url, key.text) as socket:
        socket.turn({"model": "sim/echo", "input": "x"})
    line = log.wait(key, 1, "websocket_closed")[0]
    assert (line["code"], line["turns"], line["too_slow"]) == (1000, 1, False)


class TestLaneMemory:
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["remember", "forget", "evict", "clear"]), st.sampled_from("abc"), st.integers(0, 2)
            )
        )
    )
    def test_a_lane_recalls_what_any_lane_has_and_it_has_not_lost(self, steps: list[tuple[str, str, int]]) -> None:
        told: list[int] = []
        memory = LaneMemory(told.append)
        held: dict[str, str] = {}
        lost: set[tuple[str, str]] = set()
        for name, lane, number in steps:
            identifier = f"resp_{number}"
            if name == "remember":
                memory.remember(lane, Remembered.of(identifier, [{"type": "message", "content": "x" * number}]))
                before = held.pop(lane, None)
                lost = {one for one in lost if one[1] != before or before in held.values()} - {(lane, identifier)}
                held[lane] = identifier
            elif name == "forget":
                memory.forget(lane)
                held.pop(lane, None)
            elif name == "evict":
                memory.evict(lane, identifier)
                held = {one: has for one, has in held.items() if (one, has) != (lane, identifier)}
                lost.add((lane, identifier))
            else:
                memory.clear()
                held.clear()
            lost = {one for one in lost if one[1] in held.values()}
            assert memory.size == sum(told) >= 0
            for one in "abc":
                for response_id in ("resp_0", "resp_1", "resp_2"):
                    known = response_id in held.values() and (one, response_id) not in lost
                    assert (memory.recall(one, response_id) is not None) is known
        for lane in "abc":
            memory.forget(lane)
        assert memory.size == 0
