"""Steering over a socket to the upstream: the successor is a turn of its own, or nothing is charged."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.gateway import NewKey, RunningGateway, StartGateway
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import Socket
from tests.support.websocket_provider import Turn, WebSocketProvider
from tests.websocket.conftest import Log
from tests.websocket.upstreams.conftest import COST_NANO_USD, MODEL, booked, spent


class Steerable:
    """A provider whose turn runs until it is steered, and then does what the test says."""

    def __init__(
        self, provider: WebSocketProvider, *kinds: str, follows: bool = True, steered_turn_ends: bool = True
    ) -> None:
        self.running: list[Turn] = []
        self.go_on = threading.Event()
        self.kinds, self.follows, self.ends = kinds, follows, steered_turn_ends
        provider.answers, provider.steered = self.begin, self.steer

    def begin(self, turn: Turn) -> None:
        self.running.append(turn)
        turn.begin()

    def steer(self, steer: Turn) -> None:
        turn = self.running[-1]
        for kind in self.kinds:
            told = {"id": "steer_1", "previous_response_id": steer.fields["previous_response_id"]}
            failed = {"error": {"code": "invalid_input", "message": "No."}} if kind == "failed" else {}
            turn.send({"type": f"response.steer.{kind}", "sequence_number": 0, "steer": told, **failed})
        if not self.ends:
            return
        details = {"reason": "steered"} if self.follows else None
        status = "incomplete" if self.follows else "completed"
        turn.finish("so far", status=status, incomplete_details=details)
        if self.follows:
            turn.begin(f"{turn.id}_b")
            assert self.go_on.wait(10)
            turn.finish("steered", f"{turn.id}_b")


def steer(socket: Socket, previous: str, text: Any = "Shorter.", **fields: Any) -> None:
    socket.send({"type": "response.steer", "previous_response_id": previous, "input": text, **fields})


def begun(socket: Socket, **fields: Any) -> str:
    socket.create(model=MODEL, input="Tell me.", **fields)
    return str(socket.receive()["response"]["id"])


def test_a_steered_turn_is_followed_by_one_with_its_own_hold_settlement_and_log_line(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider, lines: Log
) -> None:
    steered = Steerable(provider, "accepted")
    with Socket(over.url, over_key.text) as socket:
        previous = begun(socket, stream_id="lane")
        steer(socket, previous, stream_id="lane")
        seen = [socket.receive() for _ in range(5)]
        assert [event["type"] for event in seen] == [
            "response.steer.accepted",
            "response.output_text.delta",
            "response.output_item.done",
            "response.incomplete",
            "response.created",
        ]
        wait_until_sync(lambda: len(lines.of(over_key)) == 1, what="the steered turn is settled")
        assert booked(over, over_key)[0] == COST_NANO_USD
        assert booked(over, over_key)[1] > 0
        steered.go_on.set()
        last = socket.events("lane")[-1]
        assert (last["type"], last["response"]["id"]) == ("response.completed", f"{previous}_b")
    assert provider.steers[0].fields == {
        "type": "response.steer", "previous_response_id": previous, "input": "Shorter.", "stream_id": "lane",
    }  # fmt: skip
    assert len({line["request_id"] for line in lines.wait(over_key, 2)}) == 2
    wait_until_sync(lambda: spent(over, over_key) == (2 * COST_NANO_USD, 0), what="both turns are settled")
    assert len(provider.turns) == 1


def test_a_successor_is_continued_with_the_whole_past(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    steered = Steerable(provider, "accepted")
    steered.go_on.set()
    with Socket(over.url, over_key.text) as socket:
        previous = begun(socket, store=False)
        steer(socket, previous)
        assert socket.events()[-1]["type"] == "response.incomplete"
        assert socket.events()[-1]["type"] == "response.completed"
        provider.turns[0].drop()
        wait_until_sync(lambda: provider.open == 0, what="the socket is gone")
        provider.answers = lambda turn: turn.say("hello")
        again = {"model": MODEL, "input": "More.", "store": False, "previous_response_id": f"{previous}_b"}
        assert socket.turn(again)[0] == 200
    said = [item["content"][0]["text"] for item in provider.turns[1].fields["input"]]
    assert said == ["Tell me.", "so far", "Shorter.", "steered", "More."]


def test_steering_that_the_team_cannot_pay_is_refused_and_not_sent(
    over: RunningGateway, provider: WebSocketProvider, lines: Log
) -> None:
    key = over.new_key(credits_usd="0.05")  # one hold is 0.041 USD
    Steerable(provider, "accepted")
    with Socket(over.url, key.text) as socket:
        previous = begun(socket)
        steer(socket, previous)
        refused = socket.receive()
        assert (refused["type"], refused["error"]["code"]) == ("response.steer.failed", "insufficient_quota")
        assert refused["steer"]["input"] == "Shorter."
        assert not provider.steers
        provider.turns[0].finish("done")
        assert socket.events()[-1]["type"] == "response.completed"
    assert len(lines.wait(key, 2)) == 2
    wait_until_sync(lambda: spent(over, key) == (COST_NANO_USD, 0), what="one turn is settled")


@pytest.mark.parametrize("kinds", [("failed",), ("accepted", "pending")])
def test_steering_without_a_successor_costs_nothing(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider, kinds: tuple[str, ...]
) -> None:
    Steerable(provider, *kinds, follows=False)
    with Socket(over.url, over_key.text) as socket:
        previous = begun(socket)
        steer(socket, previous)
        told = [socket.receive()["type"] for _ in kinds]
        assert told == [f"response.steer.{kind}" for kind in kinds]
        assert socket.events()[-1]["type"] == "response.completed"
        wait_until_sync(lambda: spent(over, over_key) == (COST_NANO_USD, 0), what="the successor's hold is void")
        provider.answers = lambda turn: turn.say("hello")
        assert socket.turn({"model": MODEL, "input": "x"})[0] == 200


@pytest.mark.parametrize(
    ("previous", "text", "code"),
    [
        ("resp_other", "Shorter.", "response_not_found"),
        (None, [], "invalid_input"),
        (None, {"text": "Shorter."}, "invalid_input"),
    ],
)
def test_steering_that_makes_no_sense_is_refused_here(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider, previous: str | None, text: Any, code: str
) -> None:
    Steerable(provider)
    with Socket(over.url, over_key.text) as socket:
        running = begun(socket)
        steer(socket, previous or running, text)
        assert socket.receive()["error"]["code"] == code
    assert not provider.steers


def test_steering_of_what_has_ended_is_refused_here(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    Steerable(provider, "accepted", steered_turn_ends=False)
    with Socket(over.url, over_key.text) as socket:
        previous = begun(socket)
        steer(socket, previous)
        assert socket.receive()["type"] == "response.steer.accepted"
    assert len(provider.steers) == 1
    wait_until_sync(lambda: spent(over, over_key)[1] == 0, what="nothing is held")
    provider.answers = lambda turn: turn.say("hello")
    with Socket(over.url, over_key.text) as socket:
        ended = socket.turn({"model": MODEL, "input": "x"})[1]["response"]["id"]
        steer(socket, ended)
        assert socket.receive()["error"]["code"] == "response_not_active"


def test_a_connection_that_dies_before_the_successor_holds_nothing(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    Steerable(provider, steered_turn_ends=False)
    with Socket(over.url, over_key.text) as socket:
        previous = begun(socket)
        steer(socket, previous)
        wait_until_sync(lambda: bool(provider.steers), what="the steering has come")
        provider.turns[0].drop()
        kinds: set[str] = set()
        while not {"response.failed", "response.steer.failed"} <= kinds:
            kinds.add(socket.receive()["type"])
    wait_until_sync(lambda: spent(over, over_key)[1] == 0, what="nothing is held")


def test_the_hold_of_a_successor_covers_what_the_steered_turn_may_still_say(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    Steerable(provider, "accepted", steered_turn_ends=False)
    bound = 20_000
    with Socket(over.url, over_key.text) as socket:
        previous = begun(socket, max_output_tokens=bound)
        wait_until_sync(lambda: booked(over, over_key)[1] > 0, what="the turn is admitted")
        one_turn = booked(over, over_key)[1]
        steer(socket, previous)
        assert socket.receive()["type"] == "response.steer.accepted"
        assert booked(over, over_key)[1] >= 2 * one_turn + bound * 1000  # as input, at 1 USD per million
    wait_until_sync(lambda: spent(over, over_key)[1] == 0, what="nothing is held")


class ManySteerings:
    """A provider whose turn runs until a test ends it; each steering is accepted under an id of its own."""

    def __init__(self, provider: WebSocketProvider) -> None:
        self.provider = provider
        self.count = 0
        provider.answers, provider.steered = Turn.begin, self.accept

    @property
    def turn(self) -> Turn:
        return self.provider.turns[0]

    def tell(self, kind: str, number: int, **fields: Any) -> None:
        steer = {"id": f"steer_{number}", "previous_response_id": self.turn.id}
        self.turn.send({"type": f"response.steer.{kind}", "sequence_number": 0, "steer": steer, **fields})

    def accept(self, _: Turn) -> None:
        self.count += 1
        self.tell("accepted", self.count)


def test_several_steerings_of_a_response_are_followed_by_one_turn(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider, lines: Log
) -> None:
    many = ManySteerings(provider)
    with Socket(over.url, over_key.text) as socket:
        previous = begun(socket, store=False)
        held: list[int] = []
        for text in ("Shorter.", "In French.", "And rhyme."):
            steer(socket, previous, text)
            assert socket.receive()["type"] == "response.steer.accepted"
            lines.wait(over_key, len(held))  # the one before is replaced
            held.append(booked(over, over_key)[1])
        assert held == sorted(held)
        assert held[2] - held[0] < held[0] // 100, "the holds of those before are given back"
        assert [turn.fields["input"] for turn in provider.steers] == ["Shorter.", "In French.", "And rhyme."]
        many.turn.finish("so far", status="incomplete", incomplete_details={"reason": "steered"})
        many.turn.begin(f"{previous}_b")
        many.turn.finish("all three", f"{previous}_b")
        assert socket.events()[-1]["type"] == "response.incomplete"
        assert socket.events()[-1]["response"]["id"] == f"{previous}_b"
        wait_until_sync(lambda: spent(over, over_key) == (2 * COST_NANO_USD, 0), what="both turns are settled")
        provider.turns[0].drop()
        wait_until_sync(lambda: provider.open == 0, what="the socket is gone")
        provider.answers = lambda turn: turn.say("hello")
        again = {"model": MODEL, "input": "More.", "store": False, "previous_response_id": f"{previous}_b"}
        assert socket.turn(again)[0] == 200
    said = [item["content"][0]["text"] for item in provider.turns[1].fields["input"]]
    assert said == ["Tell me.", "so far", "Shorter.", "In French.", "And rhyme.", "all three", "More."]


@pytest.mark.parametrize("before_the_next", [False, True])
def test_a_steering_that_fails_among_others_changes_nothing_for_them(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider, before_the_next: bool
) -> None:
    many = ManySteerings(provider)
    failure = {"code": "invalid_input", "message": "No."}

    def accept(turn: Turn) -> None:
        if before_the_next and many.count == 1:
            many.tell("failed", 1, error=failure)
        many.accept(turn)

    provider.steered = accept
    with Socket(over.url, over_key.text) as socket:
        previous = begun(socket, store=False)
        for text in ("Shorter.", "In French."):
            steer(socket, previous, text)
        told = [socket.receive()["type"] for _ in range(2)]
        if not before_the_next:
            many.tell("failed", 1, error=failure)
        told.append(socket.receive()["type"])
        assert sorted(told) == [*["response.steer.accepted"] * 2, "response.steer.failed"]
        many.turn.finish("so far")
        many.turn.begin(f"{previous}_b")
        many.turn.finish("one of two", f"{previous}_b")
        assert socket.events()[-1]["response"]["id"] == previous
        assert socket.events()[-1]["response"]["id"] == f"{previous}_b"
        many.turn.drop()
        wait_until_sync(lambda: provider.open == 0, what="the socket is gone")
        provider.answers = lambda turn: turn.say("hello")
        again = {"model": MODEL, "input": "More.", "store": False, "previous_response_id": f"{previous}_b"}
        assert socket.turn(again)[0] == 200
    said = [item["content"][0]["text"] for item in provider.turns[1].fields["input"]]
    assert said == ["Tell me.", "so far", "In French.", "one of two", "More."]
    wait_until_sync(lambda: spent(over, over_key) == (3 * COST_NANO_USD, 0), what="all is settled")


@pytest.mark.parametrize("stored", [False, True])
def test_what_waits_for_tool_results_is_held_for_by_the_turn_that_brings_them(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider, stored: bool
) -> None:
    many = ManySteerings(provider)
    long = "Shorter. " * 10_000
    with Socket(over.url, over_key.text) as socket:
        previous = begun(socket, store=stored)
        for text in (long, "In French."):
            steer(socket, previous, text)
            assert socket.receive()["type"] == "response.steer.accepted"
        many.turn.finish("so far")
        assert socket.events()[-1]["type"] == "response.completed"
        for number in (1, 2):
            many.tell("pending", number, required_input=[], reason="waiting_for_required_input")
            assert socket.receive()["type"] == "response.steer.pending"
        wait_until_sync(lambda: spent(over, over_key) == (COST_NANO_USD, 0), what="no successor is held for")
        released = threading.Event()

        def answers(turn: Turn) -> None:
            assert released.wait(10)
            turn.say("hello")

        provider.answers = answers
        turn = {"model": MODEL, "input": "The result.", "previous_response_id": previous, "store": stored}
        socket.create(**turn)
        provider.wait_for_turns(2)
        assert booked(over, over_key)[1] > len(long) * 1000, "its bytes, at 1 USD per million tokens"
        released.set()
        assert socket.events()[-1]["type"] == "response.completed"
    sent = provider.turns[1].fields
    assert (sent["previous_response_id"], sent["input"]) == (previous, "The result."), "the provider has the rest"


def test_steering_that_waits_is_bounded(start: StartGateway, provider: WebSocketProvider) -> None:
    many = ManySteerings(provider)
    with start(websocket={"max_queued": 2}) as gateway, Socket(gateway.url, gateway.new_key().text) as socket:
        previous = begun(socket)
        for _ in range(2):
            steer(socket, previous)
            assert socket.receive()["type"] == "response.steer.accepted"
        steer(socket, previous)
        assert socket.receive()["error"]["code"] == "too_many_pending_steers"
        many.turn.finish("so far")
    assert len(provider.steers) == 2
