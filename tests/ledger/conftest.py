"""Stores that a module's tests share; each test makes teams of its own."""

from collections.abc import Iterator

import pytest

from tests.support.servers import Server, valkey_server


@pytest.fixture(scope="module")
def shared_store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server
