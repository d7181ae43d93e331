"""A gateway that routes the models a/* and b/one, for tests of limits that count some models only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.gateway import RunningGateway, running_gateway
from tests.support.servers import Server

ROUTES: Final = [{"model": "a/*", "upstreams": ["simulator"]}, {"model": "b/one", "upstreams": ["simulator"]}]
PRICES: Final = {
    "a/*": {"input": "1", "output": "500000", "max_output_tokens": 100},
    "b/one": {"input": "1", "output": "10", "max_output_tokens": 100},
}


@contextmanager
def two_models(store: Server, upstream: str, directory: Path) -> Iterator[RunningGateway]:
    """Runs the gateway. The alias `fast` stands for b/one."""
    with running_gateway(
        store.url, upstream, directory, routes=ROUTES, prices=PRICES, aliases={"fast": "b/one"}
    ) as running:
        yield running
