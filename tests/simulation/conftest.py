"""What all schedules of a test process share: a server, and a directory for spools."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.nodes import Wire
from tests.simulation.schedules import working_directory
from tests.support.servers import valkey_server


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with valkey_server() as server, contextlib.closing(Wire(server.socket_path)) as wire:
        yield wire


@pytest.fixture
def directory() -> Iterator[Path]:
    with working_directory() as directory:
        yield directory
