"""One real Valkey, one simulator and one gateway for all of these tests; each test has its own team, or shares one."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.gateway import NewKey, RunningGateway, running_gateway, simulator
from tests.support.sent import Sent
from tests.support.servers import Server, valkey_server


@pytest.fixture(scope="session")
def store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="session")
def upstream() -> Iterator[str]:
    with simulator() as url:
        yield url


@pytest.fixture(scope="session")
def gateway(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(store.url, upstream, tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture(scope="session")
def key(gateway: RunningGateway) -> NewKey:
    """A key with credits and without limits, for whatever is not about either."""
    return gateway.new_key()


@pytest.fixture
def client(gateway: RunningGateway, key: NewKey) -> Iterator[OpenAI]:
    with gateway.sdk(key) as sdk:
        yield sdk


@pytest.fixture
async def async_client(gateway: RunningGateway, key: NewKey) -> AsyncIterator[AsyncOpenAI]:
    async with gateway.async_sdk(key) as sdk:
        yield sdk


@pytest.fixture
def http(gateway: RunningGateway, key: NewKey) -> Iterator[httpx.Client]:
    with gateway.http(key) as session:
        yield session


@pytest.fixture(scope="session")
def sent(upstream: str) -> Sent:
    """What the provider received, by the gateway's request id."""
    return Sent(upstream)
