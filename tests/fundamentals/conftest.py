"""A key that these tests share, and clients that have it."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.fundamentals.raw import RawProvider
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.sent import Sent
from tests.support.servers import Server


@pytest.fixture(scope="session")
def key(gateway: RunningGateway) -> NewKey:
    """A key with credits and without limits, for tests that concern neither."""
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


@pytest.fixture(scope="module")
def provider() -> Iterator[RawProvider]:
    with RawProvider.serving() as raw:
        yield raw


@pytest.fixture(scope="module")
def raw_gateway(
    provider: RawProvider, store: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    with running_gateway(
        store.url, provider.url, tmp_path_factory.mktemp("raw"), upstream={"breaker_failures": 1_000_000}
    ) as running:
        yield running


@pytest.fixture(scope="module")
def raw_key(raw_gateway: RunningGateway) -> NewKey:
    return raw_gateway.new_key()
