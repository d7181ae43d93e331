"""What a turn may continue, what that costs, and what is sent of it, over two gateways."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.state.answers import MODEL, answer, message
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import Socket

Json = dict[str, Any]
ASKED: Json = {"model": MODEL, "input": "x"}
THOUGHT: Json = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "sealed", "status": None}


class Team:
    """One team: each of its calls goes to the other gateway than the one before."""

    def __init__(self, provider: PostOnlyProvider, gateways: tuple[RunningGateway, RunningGateway]) -> None:
        self.provider = provider
        self.gateway = gateways[0]
        self.key = gateways[0].new_key()
        self.clients = [gateway.http(self.key) for gateway in gateways]

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        self.clients.reverse()
        return self.clients[0].request(method, f"/v1/{path}", **options)

    def ask(self, given: Any, previous: str | None = None, **fields: Any) -> httpx.Response:
        body = {"model": MODEL, "input": given, "previous_response_id": previous, **fields}
        got = self.call("POST", "responses", json=body)
        self.provider.forget()
        return got

    def made(self, given: Any, previous: str | None = None, *, stream: bool = False, **response: Any) -> Json:
        """A turn to which the provider has this answer."""
        self.provider.next(answer("Said.", f"gen_{len(self.provider.received)}", **response))
        return shown(self.ask(given, previous, stream=stream))


def shown(got: httpx.Response) -> Json:
    assert got.status_code == 200, got.text
    if not got.headers["content-type"].startswith("text/event-stream"):
        found: Json = got.json()
        return found
    events = [json.loads(line[6:]) for line in got.text.split("\n") if line.startswith("data: {")]
    last: Json = events[-1]["response"]
    return last


@pytest.fixture
def team(gateways: tuple[RunningGateway, RunningGateway], provider: PostOnlyProvider) -> Iterator[Team]:
    team = Team(provider, gateways)
    yield team
    for client in team.clients:
        client.close()


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_one_that_is_complete_or_was_cut_short_is_continued(team: Team, status: str, stream: bool) -> None:
    first = team.made("Begin.", status=status, stream=stream)
    assert (first["status"], team.made("Go on.", first["id"])["previous_response_id"]) == (status, first["id"])
    assert len(team.provider.received[-1]["input"]) == 3


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_one_that_ended_otherwise_is_not(team: Team, status: str, stream: bool) -> None:
    first = team.made("Begin.", status=status, stream=stream)
    calls = len(team.provider.received)
    got = team.ask("Go on.", first["id"])
    assert (got.status_code, got.json()["error"]["param"]) == (400, "previous_response_id")
    assert status in got.json()["error"]["message"]
    with Socket(team.gateway.url, team.key.text) as socket:
        refused = socket.turn({"model": MODEL, "input": "x", "previous_response_id": first["id"]})
        assert (refused[0], refused[1]["error"]["param"]) == (400, "previous_response_id")
    assert len(team.provider.received) == calls


def test_what_is_refused_holds_and_costs_nothing(team: Team) -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "t", "arguments": "{}"}
    first = team.made("Go.", output=[call])
    before = team.gateway.settled_balance(team.key)
    calls = len(team.provider.received)
    for given in ("No output.", [{"type": "function_call_output", "call_id": "call_2", "output": "x"}]):
        assert team.ask(given, first["id"]).status_code == 400
    assert team.ask([{"type": "item_reference", "id": "msg_never"}], first["id"]).status_code == 404
    assert (team.gateway.settled_balance(team.key), len(team.provider.received)) == (before, calls)


def test_a_chain_is_kept_as_links_that_are_no_longer_for_being_late(team: Team) -> None:
    """Each turn adds as many bytes as the first ones did: its past is not kept with it once more."""
    previous, kept_bytes = None, []
    for number in range(31):
        previous = team.made(f"{number:02} {'a word ' * 40}", previous)["id"]
        usage = team.gateway.run(kept_bytes_of(team))
        kept_bytes.append(usage)
    early, late = kept_bytes[10] - kept_bytes[0], kept_bytes[30] - kept_bytes[20]
    assert late < 1.5 * early


async def kept_bytes_of(team: Team) -> int:
    turns = team.gateway.services.handler.turns
    assert turns is not None
    return (await turns.housekeeping.usage(team.key.team.id)).response_bytes


@pytest.mark.parametrize("query", ["include=reasoning.encrypted_content", "include[]=a&include[]=b", "include%5B%5D=a"])
@pytest.mark.parametrize("path", ["", "/input_items"])
def test_lists_in_a_query_are_taken_in_each_form(team: Team, query: str, path: str) -> None:
    first = team.made("Begin.")
    for shape in (query, f"stream=false&{query}"):
        got = team.call("GET", f"responses/{first['id']}{path}?{shape}")
        assert got.status_code == 200
        assert path or got.json() == first


@pytest.mark.parametrize("after", [-1, 0, 40])
def test_a_response_that_runs_in_front_of_its_client_is_followed_elsewhere_to_its_end(team: Team, after: int) -> None:
    released = threading.Event()
    identifier = f"resp_runs_{after + 1}"
    team.provider.next(replace(answer("In the end.", identifier), released=released, shown=3))
    path = f"/v1/responses/{identifier}"
    with ThreadPoolExecutor(2) as workers:
        try:
            asked = workers.submit(team.clients[0].post, "/v1/responses", json={**ASKED, "stream": True})
            wait_until_sync(lambda: team.clients[1].get(path).status_code == 200, what="it is known")
            query = f"?stream=true&starting_after={after}"
            followed = workers.submit(team.clients[1].get, path + query, timeout=60)
            assert team.clients[1].get(path).json()["status"] == "in_progress"
        finally:
            released.set()
        seen = [line for line in followed.result().text.split("\n") if line.startswith("data: ")]
    assert seen[-1] == "data: [DONE]"
    events = [json.loads(line[6:]) for line in seen[:-1]]
    first = after + 1
    assert [event["sequence_number"] for event in events] == list(range(first, first + len(events)))
    assert (events[-1]["type"], events[-1]["response"]) == ("response.completed", shown(asked.result()))


@pytest.fixture
def small(
    shared_store: Server, provider: PostOnlyProvider, tmp_path: Path
) -> Iterator[tuple[RunningGateway, httpx.Client]]:
    bounds, route = {"max_resolved_bytes": 4096}, {"state": "gateway", "replay_ids": "reasoning"}
    with running_gateway(shared_store.url, provider.url, tmp_path, state=bounds, route=route) as gateway:
        key: NewKey = gateway.new_key()
        with gateway.http(key) as client:
            yield gateway, client


def test_a_request_is_bounded_with_all_that_it_continues(
    small: tuple[RunningGateway, httpx.Client], provider: PostOnlyProvider
) -> None:
    _, client = small
    provider.next(answer("Said.", "gen_small"))
    first = client.post("/v1/responses", json={"model": MODEL, "input": "a" * 2500}).json()
    calls = len(provider.received)
    for body in ({"input": "b" * 2500, "previous_response_id": first["id"]}, {"input": "c" * 5000}):
        got = client.post("/v1/responses", json={"model": MODEL, **body})
        assert (got.status_code, got.json()["error"]["param"]) == (400, "input")
    assert len(provider.received) == calls


def test_encrypted_reasoning_keeps_its_id_where_the_route_says_so(
    small: tuple[RunningGateway, httpx.Client], team: Team, provider: PostOnlyProvider
) -> None:
    bare = {name: value for name, value in THOUGHT.items() if name not in ("id", "status")}
    provider.next(answer("", "gen_thought", output=[THOUGHT, message("So.")]))
    first = small[1].post("/v1/responses", json={"model": MODEL, "input": "Think."}).json()
    provider.next(answer("More.", "gen_more"))
    small[1].post("/v1/responses", json={"model": MODEL, "input": "x", "previous_response_id": first["id"]})
    assert provider.received[-1]["input"][1] == {**bare, "id": "rs_1"}
    elsewhere = team.made("Think.", output=[THOUGHT, message("So.")])
    team.made("x", elsewhere["id"])
    assert provider.received[-1]["input"][1] == bare
