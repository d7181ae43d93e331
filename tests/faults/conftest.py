"""Each of these tests has a gateway, an upstream and a team of its own, on the store that all share."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.support.scenario import Scenario, open_scenario
from tests.support.servers import Server

Stages = Callable[..., AbstractAsyncContextManager[Scenario]]


@pytest.fixture
def stages(store: Server, tmp_path: Path) -> Stages:
    """`async with stages(script, ..., upstream={...}, route={...}) as scenario`."""
    return partial(open_scenario, store, tmp_path)
