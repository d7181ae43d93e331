"""One store for this folder's tests; each test makes teams of its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.ledgers import LedgerParts, open_ledger
from tests.support.servers import Server, valkey_server


@pytest.fixture(scope="module")
def shared_store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture
async def ledgers(shared_store: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(shared_store.url, tmp_path) as opened:
        yield opened
