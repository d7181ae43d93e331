"""Gateways with WebSocket mode, what they log, and keys.

| fixture   | gives                                                                                     |
|-----------|-------------------------------------------------------------------------------------------|
| gateway   | one on the simulator, whose state is the provider's                                        |
| log       | what that one logs                                                                        |
| keeping   | one that keeps the state itself, over `provider`, which only answers POST                 |
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync


@dataclass
class Log:
    """What a gateway has logged."""

    stream: io.StringIO = field(default_factory=io.StringIO)

    def of(self, key: NewKey, event: str = "request") -> list[dict[str, Any]]:
        """The lines about this key."""
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event and line.get("key_id") == key.id]

    def wait(self, key: NewKey, count: int, event: str = "request") -> list[dict[str, Any]]:
        """The same, once there are so many."""
        wait_until_sync(lambda: len(self.of(key, event)) >= count, what=f"{count} lines of {event}")
        return self.of(key, event)


@pytest.fixture(scope="module")
def log() -> Log:
    return Log()


@pytest.fixture(scope="module")
def gateway(
    store: Server, upstream: str, log: Log, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    directory = tmp_path_factory.mktemp("gateway")
    leaves = {"on_client_leave": "abort"}
    with running_gateway(store.url, upstream, directory, log_to=log.stream, upstream=leaves) as running:
        yield running


@pytest.fixture(scope="module")
def keeping(
    store: Server, post_only: PostOnlyProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    directory = tmp_path_factory.mktemp("keeping")
    with running_gateway(store.url, post_only.url, directory, route={"state": "gateway"}) as running:
        yield running


@pytest.fixture
def key(gateway: RunningGateway) -> NewKey:
    """A key of `gateway`."""
    return gateway.new_key()


@pytest.fixture
def kept_key(keeping: RunningGateway) -> NewKey:
    """A key of `keeping`."""
    return keeping.new_key()
