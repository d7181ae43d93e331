"""A store of its own for each test: what waits to be sent is one list for the whole store."""

from collections.abc import Iterator

import pytest

from tests.support.servers import Server, valkey_server


@pytest.fixture
def store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server
