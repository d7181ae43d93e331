"""One gateway for all tests of the admin API: each makes teams of its own."""

import itertools
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.support.gateway import ADMIN_KEY, RunningGateway, running_gateway, simulator
from tests.support.servers import valkey_server


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        valkey_server() as store,
        simulator() as upstream,
        running_gateway(store.url, upstream, tmp_path_factory.mktemp("data")) as running,
    ):
        yield running


@pytest.fixture
def admin(gateway: RunningGateway) -> Iterator[httpx.Client]:
    """A client with the admin key, at /admin/v1."""
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    with httpx.Client(base_url=f"{gateway.url}/admin/v1", headers=headers, timeout=20) as client:
        yield client


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def new_name(numbers: Iterator[int]) -> Callable[[], str]:
    """Names that no other team has."""
    return lambda: f"team {next(numbers)}"
