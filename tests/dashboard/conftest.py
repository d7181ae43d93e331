"""A gateway that a module's tests share, and clients that are signed in to its dashboard."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import RunningGateway, running_gateway
from tests.support.servers import Server, valkey_server


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory: Path = tmp_path_factory.mktemp("gateway")
    nobody = {"webhook": "http://127.0.0.1:1/", "form": "slack", "teams": ["none"]}
    with running_gateway(
        store.url, upstream, directory, admin={"sign_in_attempts": 1000}, recipients={"nobody": nobody}
    ) as running:
        yield running
