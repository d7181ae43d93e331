"""WebSocket mode by the official SDK: `client.responses.connect()`, sync and async, its lanes, and its reconnects."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from openai.lib.responses_websocket import (
    AsyncResponsesWebSocketSession,
    ResponsesWebSocketError,
    ResponsesWebSocketLimits,
    ResponsesWebSocketSession,
)

from tests.support.gateway import NewKey, RunningGateway, StartGateway
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.waiting import wait_until_sync
from tests.websocket.answers import MODEL, answer

pytestmark = pytest.mark.filterwarnings(
    "ignore:connect.. must be used as a context manager:DeprecationWarning"  # the SDK does not use it as one
)
LIMITS = ResponsesWebSocketLimits(
    max_lanes=4, max_events_per_lane=1000, max_events=4000, max_bytes_per_lane=2**22, max_bytes=2**24
)
OPTIONS: Any = {"max_size": None}


def test_turns_of_the_synchronous_client(provider: PostOnlyProvider, keeping: RunningGateway, kept_key: NewKey) -> None:
    with keeping.sdk(kept_key) as client, client.responses.connect() as connection:
        previous = None
        for number in range(3):
            provider.next(answer(f"answer {number}", f"resp_sync_{number}"))
            chain: Any = {} if previous is None else {"previous_response_id": previous}
            connection.response.create(model=MODEL, input=f"question {number}", store=False, **chain)
            for event in connection:
                if event.type == "response.completed":
                    assert event.response.output_text == f"answer {number}"
                    previous = event.response.id
                    break
        assert len(provider.received[-1]["input"]) == 5


async def test_turns_of_the_asynchronous_client(
    provider: PostOnlyProvider, keeping: RunningGateway, kept_key: NewKey
) -> None:
    async with keeping.async_sdk(kept_key) as client, client.responses.connect() as connection:
        provider.next(answer("one", "resp_async_1"))
        await connection.response.create(model=MODEL, input="x")
        types = [(await connection.recv()).type for _ in range(6)]
        assert (types[0], types[-1]) == ("response.created", "response.completed")
        await connection.response.steer(input="Stop.", previous_response_id="resp_async_1")
        refused: Any = await connection.recv()
        assert (refused.type, refused.error.code) == ("response.steer.failed", "steering_not_supported")


async def test_lanes_of_the_asynchronous_client(gateway: RunningGateway, key: NewKey) -> None:
    async with (
        gateway.async_sdk(key) as client,
        client.responses.connect(websocket_connection_options=OPTIONS) as connection,
        AsyncResponsesWebSocketSession(connection, limits=LIMITS) as session,
    ):
        lanes = [session.lane(f"lane-{number}") for number in range(3)]
        for number, lane in enumerate(lanes):
            await lane.send({"type": "response.create", "model": f"sim/tokens-{number + 5}", "input": "x"})
        responses = await asyncio.gather(*(lane.get_final_response() for lane in lanes))
        assert [response.usage.output_tokens for response in responses if response.usage] == [5, 6, 7]


def test_an_error_is_the_sdks_and_the_lane_goes_on(gateway: RunningGateway, key: NewKey) -> None:
    with (
        gateway.sdk(key) as client,
        client.responses.connect() as connection,
        ResponsesWebSocketSession(connection, limits=LIMITS) as session,
    ):
        lane = session.lane("lane")
        lane.send({"type": "response.create", "model": "sim/echo", "input": "x", "previous_response_id": "resp_no"})
        with pytest.raises(ResponsesWebSocketError) as refused:
            lane.get_final_response()
        event: Any = refused.value.event
        assert event.error.code == "previous_response_not_found"
        lane.send({"type": "response.create", "model": "sim/echo", "input": "x"})
        assert lane.get_final_response().status == "completed"


def test_the_sdk_connects_again_after_a_restart(start: StartGateway) -> None:
    """1012 is one of the codes after which it does, where its program allows it."""
    asked: list[int] = []

    def again(event: Any) -> None:
        asked.append(event.close_code)

    with (
        start() as gateway,
        gateway.sdk(gateway.new_key()) as client,
        client.responses.connect(on_reconnecting=again, initial_delay=0.05) as connection,
    ):
        sockets = gateway.services.sockets

        def restart() -> None:
            sockets.drain()
            sockets.stopping = False

        def ask_again() -> None:
            wait_until_sync(lambda: bool(asked) and sockets.count == 1, what="it is connected again")
            connection.response.create(model="sim/echo", input="x")

        gateway.loop.call_soon_threadsafe(restart)
        asking = threading.Thread(target=ask_again)
        asking.start()
        for event in connection:
            if event.type == "response.completed":
                break
        asking.join()
        assert asked == [1012]
