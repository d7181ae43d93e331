"""One real Valkey and one simulator for all of these tests; each has a gateway of its own, whose counts are at 0."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import RunningGateway, running_gateway, simulator
from tests.support.servers import Server, valkey_server

Start = Callable[..., AbstractContextManager[RunningGateway]]


@pytest.fixture(scope="session")
def store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="session")
def upstream() -> Iterator[str]:
    with simulator() as url:
        yield url


@pytest.fixture
def start(store: Server, upstream: str, tmp_path: Path) -> Start:
    """Starts a gateway; sections of the settings as keywords."""

    def start(**sections: Any) -> AbstractContextManager[RunningGateway]:
        return running_gateway(store.url, upstream, tmp_path, **sections)

    return start


@pytest.fixture
def gateway(start: Start) -> Iterator[RunningGateway]:
    with start() as running:
        yield running
