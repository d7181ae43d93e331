"""Long messages to an upstream: they arrive whole and in order, and the loop serves others meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from gateway.upstream.websocket_writer import SLICE_BYTES, WebSocketWriter
from tests.support.gateway import NewKey, RunningGateway
from tests.support.waiting import wait_until, wait_until_sync
from tests.support.websocket_client import Socket
from tests.support.websocket_provider import Turn, WebSocketProvider
from tests.websocket.upstreams.conftest import COST_NANO_USD, MODEL, spent

LONG = 15_000_000


class Writing(asyncio.Protocol):
    """The near end of a connection."""

    def __init__(self) -> None:
        self.protocol = ClientProtocol(parse_uri("ws://upstream/"), state=OPEN, max_size=None)
        self.writer = WebSocketWriter(self.protocol, asyncio.get_running_loop())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.writer.begin(self.transport)

    def pause_writing(self) -> None:
        self.writer.pause()

    def resume_writing(self) -> None:
        self.writer.resume()


class Reading(asyncio.Protocol):
    """The far end: the frames that have come. It reads when it is told to."""

    def __init__(self) -> None:
        self.protocol = ServerProtocol(state=OPEN, max_size=None)
        self.frames: list[tuple[Opcode, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self.protocol.receive_data(data)
        events = [event for event in self.protocol.events_received() if isinstance(event, Frame)]
        self.frames += [(event.opcode, bytes(event.data)) for event in events]


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[Writing, Reading]]:
    """Both ends of a connection."""
    loop, reading = asyncio.get_running_loop(), Reading()
    server = await loop.create_server(lambda: reading, "127.0.0.1", 0)
    _, writing = await loop.create_connection(Writing, *server.sockets[0].getsockname())
    await wait_until(lambda: hasattr(reading, "transport"))
    try:
        yield writing, reading
    finally:
        writing.transport.abort()
        reading.transport.abort()
        server.close()
        await server.wait_closed()


async def test_others_are_served_while_a_long_message_is_written() -> None:
    message = b"x" * LONG
    async with connection() as (writing, reading):
        reading.transport.resume_reading()
        writing.writer.send(message)
        turns = 0
        while writing.writer.is_writing_message:
            turns += 1
            await asyncio.sleep(0)
        assert turns >= 50
        await wait_until(lambda: bool(reading.frames))
        assert reading.frames == [(Opcode.TEXT, message)]


async def test_an_upstream_that_does_not_read_is_waited_for() -> None:
    async with connection() as (writing, reading):
        writing.writer.send(b"x" * LONG)
        await wait_until(lambda: writing.transport.get_write_buffer_size() > 0)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert writing.transport.get_write_buffer_size() <= LONG // 10
        assert not writing.writer.close(), "in the middle of a message"
        reading.transport.resume_reading()
        await wait_until(lambda: bool(reading.frames))
        assert len(reading.frames[0][1]) == LONG
        assert writing.writer.close()


SIZES = st.sampled_from([0, 1, 125, 126, 65_535, 65_536]) | st.integers(-1, 1).map(lambda by: SLICE_BYTES + by)
SIZES |= st.integers(-1, 1).map(lambda by: 3 * SLICE_BYTES + by)


@settings(max_examples=20)
@given(st.lists(SIZES | st.just("ping"), min_size=1, max_size=6))
@example([3 * SLICE_BYTES, "ping", 1, 2 * SLICE_BYTES, 0])
def test_messages_of_any_length_arrive_whole_and_in_their_order(sent: list[int | str]) -> None:
    async def run() -> None:
        async with connection() as (writing, reading):
            expected = []
            for number, what in enumerate(sent):
                if isinstance(what, str):
                    writing.protocol.send_ping(b"")
                    writing.writer.flush()
                else:
                    expected.append(bytes([97 + number]) * what)
                    writing.writer.send(expected[-1])
                await asyncio.sleep(0)
            reading.transport.resume_reading()
            await wait_until(lambda: len(reading.frames) >= len(sent))
            assert [data for opcode, data in reading.frames if opcode is Opcode.TEXT] == expected
            assert len(reading.frames) == len(sent)

    asyncio.run(run())


def test_a_long_turn_and_one_of_another_lane_share_a_socket(
    over: RunningGateway, over_key: NewKey, provider: WebSocketProvider
) -> None:
    image = "data:image/png;base64," + "iVBORw0KGgoAAAAN" * (LONG // 16)
    given_: list[object] = [{"role": "user", "content": [{"type": "input_image", "image_url": image}]}]

    def answers(turn: Turn) -> None:
        if turn.fields["input"] != "x":
            wait_until_sync(lambda: len(provider.turns) == 3, what="the other turn is there, too")
        turn.say("seen")

    provider.answers = answers
    with Socket(over.url, over_key.text, max_size=None) as socket:
        assert socket.turn({"model": MODEL, "input": "x", "stream_id": "b"})[0] == 200  # the provider knows lanes
        socket.create(model=MODEL, input=given_, stream_id="a", store=True)
        socket.create(model=MODEL, input="x", stream_id="b", store=True)
        ended: dict[str, str] = {}
        while len(ended) < 2:
            event = socket.receive()
            if event["type"] in ("response.completed", "error"):
                ended[event["stream_id"]] = event["type"]
        assert set(ended.values()) == {"response.completed"}
    assert {json.dumps(turn.fields["input"]) for turn in provider.turns[1:]} == {json.dumps(given_), '"x"'}
    assert not provider.posts
    assert len(provider.upgrades) == 1
    assert spent(over, over_key) == (3 * COST_NANO_USD, 0)
