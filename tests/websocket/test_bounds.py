"""What one socket may take: sizes, times, numbers, and what becomes of a client that does not read."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import zlib
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from gateway.websocket.session import MAX_INVALID_MESSAGES
from tests.support.gateway import NewKey, RunningGateway, StartGateway
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import RawWebSocket, Socket
from tests.websocket.conftest import Log
from tests.websocket.test_turns import ECHO, NEVER

LARGEST = 4096


def create(size: int) -> str:
    """A `response.create` of this many bytes."""
    empty = json.dumps({"type": "response.create", "model": "sim/echo", "input": ""})
    return empty[:-2] + "x" * (size - len(empty)) + empty[-2:]


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("over", [0, 1, 2, 3])
def test_a_message_over_the_bound_ends_the_socket_with_1009(
    start: StartGateway, compression: str | None, over: int
) -> None:
    """To the byte, also where a message is compressed: an inflated one a byte over was once cut instead."""
    with (
        start(websocket={"max_message_bytes": LARGEST}) as gateway,
        Socket(gateway.url, gateway.new_key().text, compression=compression) as sock,
    ):
        sock.send(create(LARGEST + over))
        if over:
            assert sock.closed()[0] == 1009
        else:
            assert sock.events()[-1]["type"] == "response.completed"


def test_fragments_count_together(start: StartGateway) -> None:
    with start(websocket={"max_message_bytes": LARGEST}) as gateway:
        whole = create(LARGEST)
        with Socket(gateway.url, gateway.new_key().text, compression=None) as sock:
            sock.connection.send([whole[:1000], whole[1000:3000], whole[3000:]])
            assert sock.events()[-1]["type"] == "response.completed"
            with contextlib.suppress(ConnectionClosed):  # it may come before all is sent
                sock.connection.send([whole[:1000], whole[1000:3000], whole[3000:] + "x"])
            assert sock.closed()[0] == 1009


@pytest.mark.parametrize("first", [1, 3000])
def test_a_small_frame_cannot_become_a_large_message(start: StartGateway, first: int) -> None:
    with (
        start(websocket={"max_message_bytes": LARGEST}) as gateway,
        RawWebSocket(gateway.url, gateway.new_key().text, compression=True) as wire,
    ):
        assert "permessage-deflate" in wire.response.headers["sec-websocket-extensions"]
        packer = zlib.compressobj(wbits=-15)
        data = (packer.compress(b" " * 10_000_000) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
        wire.socket.sendall(
            masked(Opcode.TEXT, data[:first], rsv1=True) + masked(Opcode.CONT, data[first : first + 4000])
        )
        assert wire.close_code() == 1009


def masked(opcode: Opcode, data: bytes, *, fin: bool = False, rsv1: bool = False) -> bytes:
    """A frame as a client sends it, with a mask of zeros."""
    first = (0x80 if fin else 0) | (0x40 if rsv1 and opcode is not Opcode.CONT else 0) | opcode
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([first]) + length + b"\0\0\0\0" + data


def test_compression_can_be_switched_off(start: StartGateway) -> None:
    with (
        start(websocket={"compression": False}) as gateway,
        Socket(gateway.url, gateway.new_key().text, compression="deflate") as sock,
    ):
        assert "sec-websocket-extensions" not in sock.connection.response.headers
        assert sock.turn(ECHO)[0] == 200


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_large_events_arrive_whole(gateway: RunningGateway, key: NewKey, compression: str | None) -> None:
    with Socket(gateway.url, key.text, compression=compression, max_size=None) as sock:
        status, last = sock.turn({"model": "sim/big-2048", "input": "x"})
        assert (status, last["type"]) == (200, "response.completed")


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (masked(Opcode.BINARY, b"{}", fin=True), 1003),
        (masked(Opcode.TEXT, b'{"type": "\xff"}', fin=True), 1007),
        (masked(Opcode.CONT, b"x", fin=True), 1002),
        (b"\xc1\x80\0\0\0\0", 1002),  # a reserved bit
        (b"\x81\x02{}", 1002),  # without a mask
        (masked(Opcode.PING, b"x" * 126, fin=True), 1002),
        (b"\x83\x80\0\0\0\0", 1002),  # no opcode
    ],
)
def test_what_breaks_the_protocol_ends_the_socket(
    gateway: RunningGateway, key: NewKey, frame: bytes, code: int
) -> None:
    with RawWebSocket(gateway.url, key.text) as wire:
        wire.socket.sendall(frame)
        assert wire.close_code() == code


def test_frames_in_any_pieces_are_one_message(gateway: RunningGateway, key: NewKey) -> None:
    with RawWebSocket(gateway.url, key.text) as wire:
        text = json.dumps({"type": "response.create", **ECHO}).encode()
        pings = masked(Opcode.PING, b"p", fin=True)
        sent = masked(Opcode.TEXT, text[:20]) + pings + masked(Opcode.CONT, text[20:], fin=True)
        for byte in sent:
            wire.socket.sendall(bytes([byte]))
        assert bytes(wire.next(Frame, Opcode.PONG).data) == b"p"
        assert json.loads(bytes(wire.next(Frame, Opcode.TEXT).data))["type"] == "response.created"


def test_a_frame_that_comes_with_the_upgrade_is_read(gateway: RunningGateway, key: NewKey) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    head = [
        "GET /v1/responses HTTP/1.1", f"host: {host}:{port}", "connection: keep-alive, Upgrade", "upgrade: WebSocket",
        "sec-websocket-version: 13", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==", f"authorization: Bearer {key.text}",
        "", "",
    ]  # fmt: skip
    text = json.dumps({"type": "response.create", **ECHO}).encode()
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall("\r\n".join(head).encode() + masked(Opcode.TEXT, text, fin=True))
        received = b""
        while b"response.completed" not in received:
            piece = client.recv(65_536)
            assert piece
            received += piece
        assert received.startswith(b"HTTP/1.1 101 ")


def test_a_flood_of_frames_keeps_nobody_waiting_and_fills_no_memory(gateway: RunningGateway, key: NewKey) -> None:
    """A client that pings without end and reads nothing gets no pongs while it reads nothing."""
    with RawWebSocket(gateway.url, key.text, receive_bytes=4096) as wire, gateway.http() as http:
        wire.socket.settimeout(0.2)
        flood = masked(Opcode.PING, b"x" * 100, fin=True) * 2000
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 20_000_000:
                sent += wire.socket.send(flood)
        assert http.get("/healthz").status_code == 200
        assert all(
            session.connection.transport.get_write_buffer_size() < 1_000_000
            for session in gateway.services.sockets.sessions()
        )


def test_messages_that_are_none_end_the_socket_after_some(gateway: RunningGateway, key: NewKey) -> None:
    with Socket(gateway.url, key.text) as sock:
        for _ in range(MAX_INVALID_MESSAGES - 1):
            sock.send("none")
        assert sock.turn({**ECHO, "stream_id": "a"})[0] == 200
        for _ in range(MAX_INVALID_MESSAGES):
            sock.send("none")
        assert sock.closed()[0] == 1008


@pytest.mark.parametrize("reads", [False, True], ids=["nothing", "a byte at a time"])
def test_a_client_that_does_not_read_is_ended_and_small_reads_win_no_time(
    start: StartGateway, log: Log, gateway: RunningGateway, reads: bool, store: Any, upstream: str
) -> None:
    with (
        start(websocket={"write_timeout_s": 1}) as slow,
        RawWebSocket(slow.url, slow.new_key().text, receive_bytes=4096) as wire,
    ):
        wire.create(model="sim/big-8192", input="x")
        sockets = slow.services.sockets
        deadline_s = time.monotonic() + 20
        while sockets.count and time.monotonic() < deadline_s:
            if reads:
                wire.socket.recv(1)
            time.sleep(0.05)  # the pace at which this client reads
        assert sockets.count == 0
        assert dict(sockets.closed) == {1006: 1}


def is_ended(gateway: RunningGateway, key: str) -> bool:
    """Whether a client that reads nothing is disconnected while its lanes have much to send, long before a timeout."""
    sockets = gateway.services.sockets
    with RawWebSocket(gateway.url, key, receive_bytes=4096) as wire:
        for lane in "abcd":
            wire.create(model="sim/big-8192", input="x", stream_id=lane)
        with contextlib.suppress(AssertionError):
            wait_until_sync(lambda: sockets.count == 0, timeout_s=10)
            return True
    wait_until_sync(lambda: sockets.count == 0, what="the client has left")
    return False


def test_more_than_may_wait_for_a_client_ends_it(start: StartGateway) -> None:
    with start(websocket={"max_unsent_bytes": 65_536, "max_lanes": 4}) as gateway:
        key = gateway.new_key().text
        # One message may wait whatever its size. Now and then all lanes have seen that before they sent a second one.
        assert any(is_ended(gateway, key) for _ in range(10))
        assert set(gateway.services.sockets.closed) == {1006}


def test_pings_come_while_nothing_happens_and_during_a_turn(start: StartGateway) -> None:
    with start(websocket={"ping_s": 1}) as gateway, RawWebSocket(gateway.url, gateway.new_key().text) as wire:
        wire.next(Frame, Opcode.PING)
        wire.create(**NEVER)
        wire.next(Frame, Opcode.TEXT)
        wire.next(Frame, Opcode.PING)
        wire.next(Frame, Opcode.PING)


def test_an_idle_socket_is_closed_and_one_with_a_turn_is_not(start: StartGateway) -> None:
    with start(websocket={"idle_s": 1.5}) as gateway, Socket(gateway.url, gateway.new_key().text) as sock:
        began_s = time.monotonic()
        assert sock.turn({"model": "sim/tokens-25+slow-100", "input": "x"})[0] == 200
        assert time.monotonic() - began_s > 1.5
        assert sock.closed()[0] == 1001


def test_an_old_socket_is_told_so_and_closed_when_no_turn_runs(start: StartGateway) -> None:
    with (
        start(websocket={"max_age_s": 1}) as gateway,
        Socket(gateway.url, gateway.new_key().text) as idle,
        Socket(gateway.url, gateway.new_key().text) as busy,
    ):
        busy.create(model="sim/tokens-25+slow-100", input="x")
        told = idle.receive()
        assert (told["type"], told["status"]) == ("error", 400)
        assert told["error"]["code"] == "websocket_connection_limit_reached"
        assert idle.closed()[0] == 1001
        assert busy.events()[-1]["type"] == "response.completed"
        assert busy.receive()["error"]["code"] == "websocket_connection_limit_reached"
        assert busy.closed()[0] == 1001


def test_a_key_has_a_bounded_number_of_sockets(start: StartGateway) -> None:
    with start(websocket={"max_per_key": 2}) as gateway:
        key, other = gateway.new_key().text, gateway.new_key().text
        with Socket(gateway.url, key) as one, Socket(gateway.url, key):
            with pytest.raises(InvalidStatus) as refused:
                Socket(gateway.url, key)
            answer = refused.value.response
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert json.loads(answer.body or b"")["error"]["code"] == "too_many_sockets"
            with Socket(gateway.url, other) as third:
                assert third.turn(ECHO)[0] == 200
            one.close()
            wait_until_sync(lambda: gateway.services.sockets.count == 1, what="the socket is gone")
            with Socket(gateway.url, key) as again:
                assert again.turn(ECHO)[0] == 200
