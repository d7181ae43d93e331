"""A gateway whose upstream has WebSocket mode: what the tests of sockets to upstreams share.

| fixture  | gives                                                                    |
|----------|--------------------------------------------------------------------------|
| provider | the provider, as it was at first                                         |
| over     | a gateway over it; `lines`: what that one logs; `over_key`: a key of it  |
| start    | others, by sections of the settings                                      |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import NewKey, RunningGateway, StartGateway, running_gateway
from tests.support.servers import Server
from tests.support.websocket_client import Socket
from tests.support.websocket_provider import WebSocketProvider
from tests.websocket.conftest import Log

MODEL = "openai/gpt-5.2"
UPGRADES = {"websocket": True, "first_byte_timeout_s": 5, "chunk_timeout_s": 5, "on_client_leave": "abort"}
COST_NANO_USD = 7 * 1000 + 3 * 10_000
"""Of the provider's usage, at the prices of the tests."""


@pytest.fixture(scope="module")
def serving() -> Iterator[WebSocketProvider]:
    with WebSocketProvider.serving() as serving:
        yield serving


@pytest.fixture
def provider(serving: WebSocketProvider) -> Iterator[WebSocketProvider]:
    serving.reset()
    yield serving
    serving.reset()


@pytest.fixture(scope="module")
def lines() -> Log:
    return Log()


@pytest.fixture(scope="module")
def over(
    store: Server, serving: WebSocketProvider, lines: Log, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    directory = tmp_path_factory.mktemp("over")
    with running_gateway(store.url, serving.url, directory, log_to=lines.stream, upstream=UPGRADES) as running:
        yield running


@pytest.fixture
def over_key(over: RunningGateway) -> NewKey:
    return over.new_key()


def spent(gateway: RunningGateway, key: NewKey) -> tuple[int, int]:
    """What a team has spent and what is held, in nano-USD, once its requests are settled."""
    balance = gateway.settled_balance(key)
    return balance.spent, balance.held


def booked(gateway: RunningGateway, key: NewKey) -> tuple[int, int]:
    """The same at this moment, while turns run that hold something."""
    balance = gateway.balance(key)
    return balance.spent, balance.held


def ended(socket: Socket) -> str:
    """Reads a turn that broke to its end: an error, and the response's last event."""
    while (kind := socket.events()[-1]["type"]) == "error":
        continue
    return str(kind)


@pytest.fixture
def start(store: Server, serving: WebSocketProvider, tmp_path: Path) -> StartGateway:
    """A gateway over the provider; sections of the settings as keywords."""

    def start(**sections: Any) -> AbstractContextManager[RunningGateway]:
        return running_gateway(store.url, serving.url, tmp_path, **{"upstream": UPGRADES, **sections})

    return start
