"""Large messages of an upstream's socket are read in a thread, in their order, and to their end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from gateway.concurrency.off_loop import LONG_BYTES, OffLoop
from gateway.protocol.sse_framing import fields as event_fields
from gateway.types import Body
from gateway.upstream import websocket_reader
from gateway.upstream.transport import TransportConfig
from gateway.upstream.websocket import UpstreamSocket
from gateway.upstream.websocket_messages import UpstreamMessage, read_message
from gateway.upstream.websocket_upgrade import with_upgrade
from tests.support.gateway import NewKey, RunningGateway
from tests.support.waiting import wait_until
from tests.support.websocket_client import Socket
from tests.support.websocket_provider import Turn, WebSocketProvider
from tests.websocket.upstreams.conftest import COST_NANO_USD, MODEL, spent

TEXT = "naïve 日本語 😀 " * 100_000
PADDING = "x" * (2 * LONG_BYTES)


def text_of(event: dict[str, Any]) -> str:
    return str(event["response"]["output"][0]["content"][0]["text"])


def test_a_large_message_is_read_by_a_thread_and_what_follows_it_waits(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: set[tuple[bool, str]] = set()

    def watched(data: Body) -> UpstreamMessage | None:
        readers.add((len(data) > LONG_BYTES, threading.current_thread().name.partition("_")[0]))
        return read_message(data)

    monkeypatch.setattr(websocket_reader, "read_message", watched)
    provider.answers = lambda turn: turn.say(TEXT)
    with Socket(over.url, over_key.text, max_size=None) as client:
        for lane in (None, "a"):
            client.create(model=MODEL, input="x", **({} if lane is None else {"stream_id": lane}))
            events = client.events(lane)
            assert [event["sequence_number"] for event in events] == [0, 1, 2, 3]
            assert text_of(events[-1]) == TEXT
    assert {name for is_large, name in readers if is_large} == {"off-loop"}
    assert "off-loop" not in {name for is_large, name in readers if not is_large}


class Pool:
    """The owner of a socket. It counts those that are lost."""

    def __init__(self) -> None:
        self.lost = 0

    def socket_lost(self, socket: UpstreamSocket) -> None:
        self.lost += 1


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[tuple[UpstreamSocket, Pool, socket.socket]]:
    """A socket to an upstream, its owner, and the upstream's end."""
    near, far = socket.socketpair()
    pool, off_loop, server = Pool(), OffLoop(1), ServerProtocol()
    upstream = UpstreamSocket(pool, TransportConfig("http://upstream"), 1_000_000, "key", off_loop)
    far.setblocking(False)
    with far:
        await asyncio.get_running_loop().create_connection(lambda: upstream, sock=near)
        handshake = asyncio.create_task(upstream.handshake(partial(with_upgrade, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")))
        server.receive_data(await asyncio.get_running_loop().sock_recv(far, 4096))
        (request,) = server.events_received()
        assert isinstance(request, Request)
        server.send_response(server.accept(request))
        far.send(b"".join(server.data_to_send()))
        await handshake
        try:
            yield upstream, pool, far
        finally:
            upstream.abort()
            off_loop.close()


LAST = json.dumps({"type": "response.completed", "response": {"id": "resp_1"}, "padding": PADDING[: LONG_BYTES + 1]})
LAST_FRAME = Frame(Opcode.TEXT, LAST.encode()).serialize(mask=False)


@pytest.mark.parametrize("end", ["close frame", "lost"])
async def test_a_turn_whose_last_message_is_being_read_does_not_die_with_its_socket(end: str) -> None:
    async with opened() as (upstream, pool, far):
        turn = upstream.begin("", b"{}")
        if end == "close frame":  # in one read with the message
            far.send(LAST_FRAME + Frame(Opcode.CLOSE, Close(1000, "").serialize()).serialize(mask=False))
        else:
            upstream.data_received(LAST_FRAME)
            upstream.connection_lost(None)
        await wait_until(lambda: bool(pool.lost), what="the socket has ended")
        assert (turn.answer.fault, turn.answer.ended, pool.lost) == (None, True, 1)
        assert json.loads(event_fields(turn.answer.read_nowait())[1]) == json.loads(LAST)


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_large_message_counts_although_its_socket_ends_right_behind_it(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider, how: str
) -> None:
    def answers(turn: Turn) -> None:
        turn.say(TEXT)
        turn.connection.close() if how == "close" else turn.drop()

    provider.answers = answers
    with Socket(over.url, over_key.text, max_size=None) as client:
        status, last = client.turn({"model": MODEL, "input": "x"})
        assert (status, text_of(last)) == (200, TEXT)
    assert spent(over, over_key) == (COST_NANO_USD, 0)


def test_a_large_refused_steering_is_framed_by_a_thread_and_the_next_one_waits(
    over: RunningGateway, over_key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    serialize, large_writes = Frame.serialize, set()

    def watched(frame: Frame, **options: Any) -> bytes:
        if not options["mask"] and len(frame.data) > LONG_BYTES:  # those of the gateway
            large_writes.add(threading.current_thread().name.partition("_")[0])
        return serialize(frame, **options)

    monkeypatch.setattr(Frame, "serialize", watched)
    with Socket(over.url, over_key.text, max_size=None) as client:
        for text in (TEXT, "short"):
            client.send({"type": "response.steer", "previous_response_id": "resp_of_nobody", "input": text})
        answers = [client.receive(), client.receive()]
    assert [answer["type"] for answer in answers] == ["response.steer.failed"] * 2
    assert [answer["steer"]["input"] for answer in answers] == [TEXT, "short"]
    assert large_writes == {"off-loop"}


KINDS = st.sampled_from(["response.created", "response.completed", "response.steer.failed", "error", "made.up"])
LANES = st.none() | st.text(max_size=3)
OTHERS = st.sampled_from([{}, {"response": {"id": "resp_1"}}, {"steer": {"id": "steer_1"}}, {"response": [1, {}]}])
ERRORS = st.sampled_from([{}, {"code": "c", "message": "m"}, {"error": {"code": "d"}, "status": 429}])


@given(KINDS, LANES, OTHERS, ERRORS, st.randoms(use_true_random=False), st.sampled_from(["", "\n", "\r\n", "\r"]))
def test_a_message_means_the_same_however_long_it_is(
    kind: str, lane: str | None, other: dict[str, Any], error: dict[str, Any], order: Any, line_end: str
) -> None:
    members = list({"type": kind, **other, **error, **({} if lane is None else {"stream_id": lane})}.items())
    order.shuffle(members)
    small = json.dumps(dict(members)).replace(", ", f",{line_end}").encode()
    large = json.dumps(dict([*members, ("padding", PADDING)])).replace(", ", f",{line_end}").encode()
    short, long = read_message(small), read_message(bytearray(large))
    assert short is not None
    assert long is not None
    assert (long.head, long.identifier, long.refusal) == (short.head, short.identifier, short.refusal)
    for message, text in ((short, small), (long, large)):
        name, data = event_fields(message.event)
        assert (name, json.loads(data)) == (kind, json.loads(text))


def test_what_is_no_message_is_none_however_long_it_is() -> None:
    for text in (b"[]", b"{", b'{"stream_id":"a"}', b'"type"', b'{"type":1}'):
        assert read_message(text) is None
        assert read_message(text + b" " * (2 * LONG_BYTES)) is None
