"""A store that a module's tests share, an upstream, and a gateway in front of it. Each test creates its own teams."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.admins import admin_client
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.servers import Server, valkey_server
from tests.support.shell import Shell


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory: Path = tmp_path_factory.mktemp("gateway")
    with running_gateway(store.url, upstream, directory) as running:
        yield running


@pytest.fixture(scope="module")
def root(gateway: RunningGateway) -> Iterator[httpx.Client]:
    """The root admin's client of the admin API."""
    with admin_client(gateway) as client:
        yield client


@pytest.fixture
def shell(gateway: RunningGateway, capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command line, with the root admin's key."""
    return Shell(gateway, capsys)
