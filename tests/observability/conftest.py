"""A gateway of its own for each test: its counts are at 0."""

from collections.abc import Iterator

import pytest

from tests.support.gateway import RunningGateway, StartGateway


@pytest.fixture
def gateway(start: StartGateway) -> Iterator[RunningGateway]:
    with start() as running:
        yield running
