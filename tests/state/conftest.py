"""What this folder's tests share: one store for a module, and a gateway that keeps the state of its POST-only provider.

Each test makes teams of its own.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.ledgers import LedgerParts, open_ledger
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.servers import Server, valkey_server


@pytest.fixture(scope="module")
def shared_store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(
    shared_store: Server, post_only: PostOnlyProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    directory = tmp_path_factory.mktemp("data")
    with running_gateway(shared_store.url, post_only.url, directory, route={"state": "gateway"}) as running:
        yield running


@pytest.fixture(scope="module")
def gateways(
    shared_store: Server, post_only: PostOnlyProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningGateway, RunningGateway]]:
    """Two gateways on one store, whose teams run one request in the background at a time."""
    sections: dict[str, Any] = {"route": {"state": "gateway"}, "state": {"background_concurrency": 1}}
    data = tmp_path_factory.mktemp
    with (
        running_gateway(shared_store.url, post_only.url, data("one"), **sections) as one,
        running_gateway(shared_store.url, post_only.url, data("two"), **sections) as two,
    ):
        yield one, two


@pytest.fixture
def key(gateway: RunningGateway) -> NewKey:
    return gateway.new_key()


@pytest.fixture
async def ledgers(shared_store: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(shared_store.url, tmp_path) as opened:
        yield opened
