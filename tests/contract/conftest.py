"""Each contract test runs directly and through a forward proxy, in CI on both event loops; each leaves nothing open."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import pytest
import uvloop

from gateway.upstream.factory import build_transport
from gateway.upstream.transport import Transport, TransportConfig
from tests.support.effort import IN_CI
from tests.support.forward_proxies import forward_proxy
from tests.support.waiting import wait_until


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}  # what serves
    return loops | {"asyncio": asyncio.new_event_loop} if IN_CI else loops


class Connect(Protocol):
    def __call__(self, url: str, **settings: Any) -> Transport: ...


@pytest.fixture(params=["direct", "proxied"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def connect(kind: Any, request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Build transports with short timeouts; whatever the test did, closing them leaves no connection.

    Only what a busy machine may see late, a replay, has a long bound.
    """
    if kind == "proxied" and request.node.get_closest_marker("direct"):
        pytest.skip("what is told of dialling: a proxy dials itself")
    built: list[Transport] = []
    tasks = asyncio.all_tasks()
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(forward_proxy()) if kind == "proxied" else None

        def build(url: str, **settings: Any) -> Transport:
            config = {
                "connect_timeout_s": 2.0,
                "first_byte_timeout_s": 5.0,
                "chunk_timeout_s": 5.0,
                "replay_within_s": 5.0,
            } | settings
            config |= {} if proxy is None else {"proxy": proxy.url}
            built.append(build_transport(TransportConfig(base_url=url, **config), "auto"))
            return built[-1]

        yield build
        for transport in built:
            await transport.close()
    await wait_until(lambda: all(transport.open_connections == 0 for transport in built))
    await wait_until(lambda: all(task.done() for task in asyncio.all_tasks() - tasks - {asyncio.current_task()}))
