"""Large messages and events pass whole, in their order, and keep no other lane and no other client waiting."""

from __future__ import annotations

import json
import secrets
import threading
from typing import Any

import pytest
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from gateway.concurrency.off_loop import LONG_BYTES
from tests.support.gateway import NewKey, RunningGateway
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.websocket_client import RawWebSocket, Socket
from tests.websocket.answers import MODEL, answer, message

TEXT = "naïve 日本語 😀 " * 100_000
COMPRESSION = pytest.mark.parametrize("compression", [None, "deflate"])


def say(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "response.create", "model": MODEL, "input": text, "store": False, **fields}


@COMPRESSION
def test_a_large_message_reaches_the_provider_and_its_large_answer_the_client(
    keeping: RunningGateway, kept_key: NewKey, provider: PostOnlyProvider, compression: str | None
) -> None:
    with Socket(keeping.url, kept_key.text, compression=compression, max_size=None) as socket:
        calls = len(provider.received)
        provider.next(answer(TEXT[::-1], f"resp_large_{compression}"))
        status, last = socket.turn({key: value for key, value in say(TEXT).items() if key != "type"})
        assert (status, last["response"]["output"]) == (200, [message(TEXT[::-1])])
        assert provider.received[calls]["input"] == TEXT


def test_a_large_answer_is_remembered_and_continued(
    keeping: RunningGateway, kept_key: NewKey, provider: PostOnlyProvider
) -> None:
    with Socket(keeping.url, kept_key.text, max_size=None) as socket:
        calls = len(provider.received)
        for number, text in enumerate((TEXT, "and then?", "and then?")):
            provider.next(answer(TEXT, f"resp_memory_{number}"))
            fields = {} if not number else {"previous_response_id": f"resp_memory_{number - 1}"}
            assert socket.turn({"model": MODEL, "input": text, "store": False, **fields})[0] == 200
        said = [item["content"] for item in provider.received[calls + 2]["input"]]
        texts = [content if isinstance(content, str) else content[0]["text"] for content in said]
        assert texts == [TEXT, TEXT, "and then?", TEXT, "and then?"]


@COMPRESSION
def test_a_lane_gets_its_events_while_a_large_message_of_another_is_read(
    gateway: RunningGateway, key: NewKey, compression: str | None
) -> None:
    with Socket(gateway.url, key.text, compression=compression, max_size=None) as socket:
        for number in range(4):
            socket.send(say("x", model="sim/big-256", stream_id=f"small-{number}"))
            socket.send(say(TEXT, model="sim/echo", stream_id=f"large-{number}"))
        events: dict[str, list[dict[str, Any]]] = {}
        while sum(lane[-1]["type"] == "response.completed" for lane in events.values()) < 8:
            event = socket.receive()
            events.setdefault(event["stream_id"], []).append(event)
        for lane in events.values():
            assert [event["sequence_number"] for event in lane] == list(range(len(lane)))


def test_a_large_message_in_parts_is_answered_like_one_that_came_at_once(gateway: RunningGateway, key: NewKey) -> None:
    frame = Frame(Opcode.TEXT, json.dumps(say(TEXT, model="sim/echo")).encode()).serialize(mask=True)
    next_frame = Frame(Opcode.TEXT, b'{"type":"response.create","model":"m","input":[').serialize(mask=True)
    with RawWebSocket(gateway.url, key.text) as wire:
        for at in range(0, len(frame), 99_991):
            wire.socket.sendall(frame[at : at + 99_991])
        wire.socket.sendall(next_frame)  # which is refused behind the answer, or before it
        kinds: list[str] = []
        while not {"response.completed", "error"} <= set(kinds):
            kinds.append(json.loads(bytes(wire.next(Frame, Opcode.TEXT).data))["type"])
        assert kinds.count("response.completed") == kinds.count("error") == 1


@COMPRESSION
def test_a_large_frame_is_parsed_by_a_thread(
    gateway: RunningGateway, key: NewKey, compression: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive, large_reads = ServerProtocol.receive_data, set()

    def watched(protocol: ServerProtocol, data: bytes) -> None:
        if len(protocol.reader.buffer) > 2 * LONG_BYTES:
            large_reads.add(threading.current_thread().name.partition("_")[0])
        receive(protocol, data)

    monkeypatch.setattr(ServerProtocol, "receive_data", watched)
    noise = secrets.token_hex(1_000_000)  # which compression only halves
    with Socket(gateway.url, key.text, compression=compression, max_size=None) as socket:
        assert socket.turn({"model": "sim/echo", "input": noise})[0] == 200
    assert large_reads == {"off-loop"}


@COMPRESSION
def test_a_large_event_becomes_a_message_in_a_thread(
    gateway: RunningGateway, key: NewKey, compression: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    serialize, large_writes = Frame.serialize, set()

    def watched(frame: Frame, **options: Any) -> bytes:
        if not options["mask"] and len(frame.data) > 2 * LONG_BYTES:  # those of the gateway
            large_writes.add(threading.current_thread().name.partition("_")[0])
        return serialize(frame, **options)

    monkeypatch.setattr(Frame, "serialize", watched)
    with Socket(gateway.url, key.text, compression=compression, max_size=None) as socket:
        assert socket.turn({"model": "sim/big-2048", "input": "x"})[0] == 200
    assert large_writes == {"off-loop"}


@pytest.mark.parametrize("size", [10, 100_000, 1_000_000])
def test_a_large_message_that_is_not_utf8_ends_the_socket(gateway: RunningGateway, key: NewKey, size: int) -> None:
    text = b'{"type":"response.create","model":"m","input":"%b\xff"}' % (b"x" * size)
    with RawWebSocket(gateway.url, key.text) as wire:
        wire.socket.sendall(Frame(Opcode.TEXT, text).serialize(mask=True))
        assert wire.close_code() == 1007
