"""The scenarios of tests/data/state, each as JSON and as a stream, on two gateways that share a store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.state.scenario import Scenario
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.servers import Server

DATA = Path(__file__).parents[1] / "data" / "state"
SCENARIOS = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in DATA.glob("*.json") if path.stem != "index"
}


@pytest.fixture(scope="module")
def gateways(
    shared_store: Server, post_only: PostOnlyProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[RunningGateway]]:
    route: dict[str, Any] = {"state": "gateway"}
    data = tmp_path_factory.mktemp
    with (
        running_gateway(shared_store.url, post_only.url, data("one"), route=route) as one,
        running_gateway(shared_store.url, post_only.url, data("two"), route=route) as two,
    ):
        yield [one, two]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_scenario(name: str, stream: bool, gateways: list[RunningGateway], provider: PostOnlyProvider) -> None:
    keys = {team: gateways[0].new_key().text for team in ("team-a", "team-b")}
    with httpx.Client(base_url=gateways[0].url) as one, httpx.Client(base_url=gateways[1].url) as two:
        Scenario(provider, [one, two], keys).run(SCENARIOS[name]["steps"], stream=stream)
