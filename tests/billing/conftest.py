"""Gateways with a test's own price rows, in front of providers that answer as the test demands."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.support.answering_provider import Answer, AnsweringProvider, Request
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.servers import Server, valkey_server

Serving = Callable[..., AbstractContextManager[tuple[RunningGateway, AnsweringProvider]]]


@pytest.fixture(scope="session")
def store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture
def serving(store: Server, tmp_path_factory: pytest.TempPathFactory) -> Serving:
    """serving(respond, prices={...}, route={...}) -> a gateway, and its provider."""

    @contextlib.contextmanager
    def serve(
        respond: Callable[[Request], Answer], **sections: Any
    ) -> Iterator[tuple[RunningGateway, AnsweringProvider]]:
        with (
            AnsweringProvider.serving(respond) as provider,
            running_gateway(store.url, provider.url, tmp_path_factory.mktemp("billing"), **sections) as gateway,
        ):
            yield gateway, provider

    return serve
