"""The scenarios of tests/data/state, each as JSON and as a stream, on two gateway processes that share a store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.state.scenario import Scenario
from tests.support.ledgers import new_secret
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.processes import gateway_process
from tests.support.servers import Server

pytestmark = pytest.mark.timeout(150)  # processes start slowly where tests share a machine
DATA = Path(__file__).parents[1] / "data" / "state"
SCENARIOS: dict[str, Any] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in DATA.glob("*.json") if path.stem != "index"
}


@pytest.fixture(scope="module")
def urls(
    shared_store: Server, post_only: PostOnlyProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    new, route = tmp_path_factory.mktemp, 'state = "gateway"'
    with (
        gateway_process(shared_store.url, post_only.url, new("one"), route=route) as one,
        gateway_process(shared_store.url, post_only.url, new("two"), route=route) as two,
    ):
        yield one.url, two.url


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_scenario(
    name: str, stream: bool, urls: tuple[str, str], provider: PostOnlyProvider, shared_store: Server, tmp_path: Path
) -> None:
    keys = {team: new_secret(shared_store.url, tmp_path / team) for team in ("team-a", "team-b")}
    with httpx.Client(base_url=urls[0]) as one, httpx.Client(base_url=urls[1]) as two:
        Scenario(provider, [one, two], keys).run(SCENARIOS[name]["steps"], stream=stream)
