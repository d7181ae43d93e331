"""A key that these tests share, and clients that have it."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.gateway import NewKey, RunningGateway
from tests.support.sent import Sent


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
