"""A store whose clock stands where a test sets it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.servers import Server, valkey_server
from tests.support.shifted_clock import Clock, clock_of
from tests.support.stopped_clock import START_MS, Bench, Place


@pytest.fixture(scope="module")
def stopped_clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clock]:
    with clock_of(tmp_path_factory.mktemp("clock")) as clock:
        yield clock


@pytest.fixture(scope="module")
def stopped(stopped_clock: Clock) -> Iterator[Server]:
    stopped_clock.stopped_ms = START_MS
    with valkey_server(binary=stopped_clock.program) as server:
        yield server


@pytest.fixture
def place(stopped: Server, stopped_clock: Clock, tmp_path: Path) -> Place:
    return Place(stopped.url, stopped_clock, tmp_path)


@pytest.fixture
async def bench(place: Place) -> AsyncIterator[Bench]:
    async with place.bench() as bench:
        yield bench
