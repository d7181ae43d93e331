"""The official SDK, through the gateway, to the simulator over a socket: chains, lanes, steering, and the books."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import Socket
from tests.websocket.upstreams.conftest import UPGRADES, spent

pytestmark = pytest.mark.filterwarnings(
    "ignore:connect.. must be used as a context manager:DeprecationWarning"  # the SDK does not use it as one
)
IN_NANO_USD, OUT_NANO_USD = 1000, 10_000


@pytest.fixture(scope="module")
def simulated(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory = tmp_path_factory.mktemp("simulated")
    with running_gateway(store.url, upstream, directory, upstream=UPGRADES) as running:
        yield running


@pytest.fixture
def simulated_key(simulated: RunningGateway) -> NewKey:
    return simulated.new_key()


def cost(*usages: Any) -> int:
    return sum(one.input_tokens * IN_NANO_USD + one.output_tokens * OUT_NANO_USD for one in usages)


def test_a_chain_that_nobody_stores(simulated: RunningGateway, simulated_key: NewKey) -> None:
    usages: list[Any] = []
    with simulated.sdk(simulated_key) as client, client.responses.connect() as connection:
        previous: Any = {}
        for number in range(3):
            connection.response.create(model="sim/echo", input=f"question {number}", store=False, **previous)
            for event in connection:
                if event.type == "response.completed":
                    usages.append(event.response.usage)
                    previous = {"previous_response_id": event.response.id}
                    break
        assert list(next(iter(simulated.services.sockets.sessions())).upstreams)
    assert usages[2].input_tokens > usages[1].input_tokens > usages[0].input_tokens
    wait_until_sync(lambda: spent(simulated, simulated_key) == (cost(*usages), 0), what="the books are exact")


def test_a_steered_response_and_its_successor_are_settled_by_their_own_usage(
    simulated: RunningGateway, simulated_key: NewKey
) -> None:
    ended: list[Any] = []
    with simulated.sdk(simulated_key) as client, client.responses.connect() as connection:
        connection.response.create(model="sim/slow-30+tokens-40", input="x")
        for event in connection:
            if event.type == "response.created" and not ended:
                connection.response.steer(input="Shorter.", previous_response_id=event.response.id)
            elif event.type in ("response.incomplete", "response.completed"):
                ended.append(event.response)
                if event.type == "response.completed":
                    break
    assert [one.status for one in ended] == ["incomplete", "completed"]
    usages = [one.usage for one in ended]
    wait_until_sync(lambda: spent(simulated, simulated_key) == (cost(*usages), 0), what="the books are exact")


@pytest.mark.parametrize(
    "model", ["sim/cut-4", "sim/end-4", "sim/error-503", "sim/failed", "sim/incomplete", "sim/big-64"]
)
def test_turns_that_end_otherwise_leave_nothing_held(
    simulated: RunningGateway, simulated_key: NewKey, model: str
) -> None:
    with Socket(simulated.url, simulated_key.text, max_size=None) as socket:
        socket.create(model=model, input="x")
        socket.events()
        wait_until_sync(lambda: spent(simulated, simulated_key)[1] == 0, what="nothing is held")
