"""One store for all of these tests. Each has its own gateway, upstream and team."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.support.scenario import Scenario, open_scenario
from tests.support.servers import Server, valkey_server

Stages = Callable[..., AbstractAsyncContextManager[Scenario]]


@pytest.fixture(scope="session")
def store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture
def stages(store: Server, tmp_path: Path) -> Stages:
    """`async with stages(script, ..., upstream={...}, route={...}) as scenario`."""
    return partial(open_scenario, store, tmp_path)
