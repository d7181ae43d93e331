"""Responses in the background, on two gateways that share a store: queued, followed from either, ended once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.accounts.accounts import Balance
from gateway.store.keyspace import TeamKeys
from tests.state.answers import COST_NANO_USD, MODEL, answer, response
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.post_only_provider import Answer, PostOnlyProvider
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

ASKED = {"model": MODEL, "input": "x", "background": True}
STATE = {"background_concurrency": 2, "background_queue": 1}


@pytest.fixture(scope="module")
def gateways(
    shared_store: Server, post_only: PostOnlyProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningGateway, RunningGateway]]:
    route, data = {"state": "gateway"}, tmp_path_factory.mktemp
    with (
        running_gateway(shared_store.url, post_only.url, data("one"), route=route, state=STATE) as one,
        running_gateway(shared_store.url, post_only.url, data("two"), route=route, state=STATE) as two,
    ):
        yield one, two


class Team:
    """A team's clients of both gateways, and answers that wait until they are released."""

    def __init__(self, provider: PostOnlyProvider, gateways: tuple[RunningGateway, RunningGateway]) -> None:
        self.provider = provider
        self.gateways = gateways
        self.key: NewKey = gateways[0].new_key(limits={"rpm": 30})
        self.one, self.two = (gateway.http(self.key) for gateway in gateways)
        self.held: list[threading.Event] = []

    def hold(self, text: str = "done", identifier: str = "resp_upstream", **fields: Any) -> threading.Event:
        self.held.append(threading.Event())
        self.provider.next(replace(answer(text, identifier), released=self.held[-1], **fields))
        return self.held[-1]

    def ask(self, **fields: Any) -> str:
        got = self.one.post("/v1/responses", json={**ASKED, **fields})
        assert got.status_code == 200, got.text
        assert got.json()["status"] == "queued"
        identifier: str = got.json()["id"]
        return identifier

    def state(self, identifier: str) -> dict[str, Any]:
        got: dict[str, Any] = self.two.get(f"/v1/responses/{identifier}").json()
        return got

    def ended(self, identifier: str, status: str = "completed") -> dict[str, Any]:
        wait_until_sync(lambda: self.state(identifier).get("status") == status, what=f"the response is {status}")
        return self.state(identifier)

    def balance(self) -> Balance:
        return self.gateways[0].balance(self.key)

    def nothing_held(self) -> Balance:
        wait_until_sync(lambda: not self.balance().held, what="nothing is held")
        return self.balance()


@pytest.fixture
def team(provider: PostOnlyProvider, gateways: tuple[RunningGateway, RunningGateway]) -> Iterator[Team]:
    team = Team(provider, gateways)
    yield team
    for event in team.held:
        event.set()
    for client in (team.one, team.two):
        client.close()


def events_of(text: str) -> list[dict[str, Any]]:
    assert text.endswith("data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]


def test_it_is_answered_at_once_and_runs_though_its_client_has_left(team: Team) -> None:
    calls, released = len(team.provider.received), team.hold()
    with httpx.Client(base_url=team.gateways[0].url, headers={"authorization": f"Bearer {team.key.text}"}) as client:
        got = client.post("/v1/responses", json={**ASKED, "metadata": {"a": "b"}})
    queued = got.json()
    assert (queued["status"], queued["background"], queued["output"], queued["usage"]) == ("queued", True, [], None)
    assert (queued["metadata"], queued["store"]) == ({"a": "b"}, True)
    assert int(got.headers["openai-poll-after-ms"]) > 0
    team.provider.wait_for_calls(calls + 1)
    polled = team.two.get(f"/v1/responses/{queued['id']}")
    assert polled.json()["status"] == "in_progress"
    assert "openai-poll-after-ms" in polled.headers
    released.set()
    done = team.ended(queued["id"])
    assert (done["output"][0]["content"][0]["text"], done["background"]) == ("done", True)
    assert "openai-poll-after-ms" not in team.two.get(f"/v1/responses/{queued['id']}").headers
    assert team.nothing_held().spent == COST_NANO_USD
    assert "background" not in team.provider.received[calls]


def test_a_stream_is_resumed_behind_any_event_from_either_gateway(team: Team) -> None:
    released = team.hold("hello", shown=4)
    with team.one.stream("POST", "/v1/responses", json={**ASKED, "stream": True}) as got:
        lines = (json.loads(line[6:]) for line in got.iter_lines() if line.startswith("data: {"))
        begun = [next(lines) for _ in range(4)]  # then its client leaves
    identifier = begun[0]["response"]["id"]
    assert [event["type"] for event in begun][:3] == ["response.created", "response.queued", "response.in_progress"]
    assert team.state(identifier)["status"] == "in_progress"
    followed: dict[int, list[dict[str, Any]]] = {}

    def follow(number: int) -> None:
        client = team.gateways[number % 2].http(team.key)
        with client:
            query = f"stream=true&starting_after={number}"
            followed[number] = events_of(client.get(f"/v1/responses/{identifier}?{query}").text)

    followers = [threading.Thread(target=follow, args=(number,)) for number in range(-1, 4)]
    for follower in followers:
        follower.start()
    released.set()
    for follower in followers:
        follower.join(20)
    whole = followed[-1]
    assert whole[:4] == begun
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert {event["response"]["id"] for event in whole if "response" in event} == {identifier}
    assert [event["type"] for event in whole].count("response.created") == 1
    assert whole[-1]["type"] == "response.completed"
    for number, seen in followed.items():
        assert seen == whole[number + 1 :]
    for number in range(-1, len(whole)):  # and after its end
        client = (team.one, team.two)[number % 2]
        again = client.get(f"/v1/responses/{identifier}?stream=true&starting_after={number}")
        assert events_of(again.text) == whole[number + 1 :]
    assert team.nothing_held().spent == COST_NANO_USD


def test_a_response_made_without_a_stream_is_followed_too(team: Team) -> None:
    released = team.hold("hello")
    identifier = team.ask()
    seen: list[dict[str, Any]] = []
    follower = threading.Thread(
        target=lambda: seen.extend(events_of(team.two.get(f"/v1/responses/{identifier}?stream=true").text))
    )
    follower.start()
    released.set()
    follower.join(20)
    assert [event["type"] for event in seen][:3] == ["response.created", "response.queued", "response.in_progress"]
    assert "".join(event["delta"] for event in seen if event["type"] == "response.output_text.delta") == "hello"
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    assert seen[-1]["response"]["status"] == "completed"


def test_the_sdk_polls_streams_and_cancels(team: Team) -> None:
    released = team.hold("hello")
    with team.gateways[0].sdk(team.key) as first, team.gateways[1].sdk(team.key) as second:
        made = first.responses.create(model=MODEL, input="x", background=True)
        assert made.status == "queued"
        released.set()
        team.ended(made.id)
        assert second.responses.retrieve(made.id).output_text == "hello"
        assert second.responses.cancel(made.id).status == "completed"
        team.provider.next(answer("streamed", "resp_streamed_in_background"))
        with first.responses.stream(model=MODEL, input="x", background=True) as stream:
            final = stream.get_final_response()
        assert (final.output_text, final.background) == ("streamed", True)
        with second.responses.stream(response_id=final.id, starting_after=2) as resumed:
            numbers = [event.sequence_number for event in resumed]
        assert numbers[0] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancellation_anywhere_stops_the_work_and_is_final(team: Team, stream: bool) -> None:
    calls, left = len(team.provider.received), len(team.provider.left)
    released = team.hold(shown=3 if stream else 0)
    if stream:
        with team.one.stream("POST", "/v1/responses", json={**ASKED, "stream": True}) as got:
            first = next(line for line in got.iter_lines() if line.startswith("data: {"))
        identifier = json.loads(first[6:])["response"]["id"]
    else:
        identifier = team.ask()
    team.provider.wait_for_calls(calls + 1)
    cancelled = team.two.post(f"/v1/responses/{identifier}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    wait_until_sync(lambda: len(team.provider.left) == left + 1, what="the provider sees that the call was ended")
    released.set()
    assert team.one.post(f"/v1/responses/{identifier}/cancel").json() == cancelled.json()
    team.nothing_held()
    assert team.state(identifier) == cancelled.json()
    last = events_of(team.two.get(f"/v1/responses/{identifier}?stream=true").text)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "cancelled")
    again = team.one.post("/v1/responses", json={"model": MODEL, "input": "x", "previous_response_id": identifier})
    assert again.json()["error"]["param"] == "previous_response_id"


def test_no_more_run_and_wait_than_a_team_may_and_what_waits_can_be_cancelled(team: Team) -> None:
    calls = len(team.provider.received)
    held = [team.hold() for _ in range(2)]
    running = [team.ask(), team.ask()]
    team.provider.wait_for_calls(calls + 2)
    waiting = team.ask()
    before = team.balance()
    full = team.two.post("/v1/responses", json=ASKED)
    assert (full.status_code, full.json()["error"]["code"]) == (429, "background_queue_full")
    assert int(full.headers["retry-after"]) > 0
    assert (team.state(waiting)["status"], team.balance()) == ("queued", before)
    assert team.two.post(f"/v1/responses/{waiting}/cancel").json()["status"] == "cancelled"
    team.provider.next(answer("third", "resp_third"))
    third = team.ask()
    for event in held:
        event.set()
    assert team.ended(third)["output"][0]["content"][0]["text"] == "third"
    for identifier in running:
        team.ended(identifier)
    assert len(team.provider.received) == calls + 3
    assert team.nothing_held().spent == 3 * COST_NANO_USD


def test_deleting_what_runs_cancels_it(team: Team) -> None:
    calls, left = len(team.provider.received), len(team.provider.left)
    team.hold()
    identifier = team.ask()
    team.provider.wait_for_calls(calls + 1)
    deleted = team.two.delete(f"/v1/responses/{identifier}")
    assert deleted.json() == {"id": identifier, "object": "response", "deleted": True}
    wait_until_sync(lambda: len(team.provider.left) == left + 1, what="the provider sees that the call was ended")
    team.nothing_held()
    assert team.two.get(f"/v1/responses/{identifier}").status_code == 404


def test_what_is_not_stored_can_be_read_for_ten_minutes_and_not_continued(team: Team) -> None:
    released = team.hold()
    identifier = team.ask(store=False)
    assert team.state(identifier)["store"] is False
    released.set()
    assert team.ended(identifier)["store"] is False
    events = events_of(team.two.get(f"/v1/responses/{identifier}?stream=true&starting_after=1").text)
    assert (events[0]["sequence_number"], events[-1]["type"]) == (2, "response.completed")
    continued = {"model": MODEL, "input": "x", "previous_response_id": identifier}
    assert team.one.post("/v1/responses", json=continued).json()["error"]["code"] == "previous_response_not_found"
    keys = TeamKeys(team.key.team.id)
    *stored, _, kept_events, kept = keys.background_response(identifier)
    gateway = team.gateways[0]

    async def look() -> list[Any]:
        run = gateway.services.store.run
        lives = [await run("PTTL", name) for name in (kept_events, kept)]
        return [*lives, *[await run("EXISTS", name) for name in stored]]

    *lives, contents, entries, use, items = gateway.run(look())
    assert all(500_000 < life_ms <= 600_000 for life_ms in lives)
    assert (contents, entries, use, items) == (0, 0, 0, 0)
    assert team.two.delete(f"/v1/responses/{identifier}").status_code == 200
    assert team.one.get(f"/v1/responses/{identifier}").status_code == 404


def test_a_refusal_of_the_provider_is_why_it_failed_and_costs_nothing(team: Team) -> None:
    error = {"message": "The word is forbidden.", "type": "invalid_request_error", "param": "input", "code": "bad_word"}
    team.provider.next(Answer({"error": error}, 400))
    failed = team.ended(team.ask(), "failed")
    assert failed["error"] == {"code": "bad_word", "message": "The word is forbidden."}
    assert (team.nothing_held().spent, failed["output"]) == (0, [])
    last = events_of(team.two.get(f"/v1/responses/{failed['id']}?stream=true").text)[-1]
    assert last["type"] == "response.failed"


def test_a_stream_that_breaks_ends_as_failed(team: Team) -> None:
    cut = {"type": "response.output_text.delta", "delta": "hal", "output_index": 0, "item_id": "m", "content_index": 0}
    stream = {"item_events": [], "terminal": cut}
    team.provider.next(Answer(response("half", "resp_half"), stream=stream, ends=False))
    seen = events_of(team.one.post("/v1/responses", json={**ASKED, "stream": True}).text)
    assert (seen[-1]["type"], seen[-1]["response"]["status"]) == ("response.failed", "failed")
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    assert team.ended(seen[0]["response"]["id"], "failed")["error"]["code"] == "upstream_invalid_response"
    team.nothing_held()


def test_a_conversation_gets_the_turn_at_its_end_and_waits_for_it(team: Team) -> None:
    conversation = team.one.post("/v1/conversations", json={}).json()["id"]
    released = team.hold("two")
    identifier = team.ask(input="one", conversation=conversation)
    assert team.one.get(f"/v1/conversations/{conversation}/items").json()["data"] == []
    released.set()
    team.ended(identifier)
    items = team.two.get(f"/v1/conversations/{conversation}/items?order=asc").json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["one", "two"]
    team.provider.next(answer("four", "resp_four"))
    again = team.two.post("/v1/responses", json={"model": MODEL, "input": "three", "conversation": conversation})
    assert again.status_code == 200


def test_a_conversation_that_was_deleted_meanwhile_does_not_come_back(team: Team) -> None:
    conversation = team.one.post("/v1/conversations", json={}).json()["id"]
    released = team.hold("two")
    identifier = team.ask(input="one", conversation=conversation)
    team.two.delete(f"/v1/conversations/{conversation}")
    released.set()
    team.ended(identifier)
    assert team.two.get(f"/v1/conversations/{conversation}").status_code == 404


def test_polls_cost_nothing_and_count_against_no_limit(team: Team) -> None:
    key = team.gateways[0].new_key(limits={"rpm": 1})
    released = team.hold()
    with team.gateways[0].http(key) as client:
        identifier = client.post("/v1/responses", json=ASKED).json()["id"]
        assert {client.get(f"/v1/responses/{identifier}").status_code for _ in range(20)} == {200}
    released.set()
    wait_until_sync(lambda: team.gateways[0].balance(key).spent == COST_NANO_USD, what="it is settled")


def test_a_team_that_cannot_pay_queues_nothing(team: Team) -> None:
    poor = team.gateways[0].new_key(credits_usd="0.000001")
    with team.gateways[0].http(poor) as client:
        assert client.post("/v1/responses", json=ASKED).status_code == 402
    keys = TeamKeys(poor.team.id)

    async def look() -> list[Any]:
        run = team.gateways[0].services.store.run
        return [*await run("HKEYS", keys.background), *await run("HKEYS", keys.stored_responses[0])]

    assert set(team.gateways[0].run(look())) <= {b"#", b"@"}  # the last place in line, and the time


def test_another_team_neither_reads_nor_cancels_it(team: Team) -> None:
    released = team.hold()
    identifier = team.ask()
    with team.gateways[1].http(team.gateways[0].new_key()) as stranger:
        for method, path in [("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel"), ("DELETE", "")]:
            assert stranger.request(method, f"/v1/responses/{identifier}{path}").status_code == 404
    released.set()
    team.ended(identifier)


def test_a_gateway_that_stops_ends_what_runs_and_what_waits(
    shared_store: Server, provider: PostOnlyProvider, tmp_path: Path, team: Team
) -> None:
    calls = len(provider.received)
    options: dict[str, Any] = {"server": {"drain_timeout_s": 0.2}, "route": {"state": "gateway"}}
    state = {"background_concurrency": 1, "background_queue": 5}
    with running_gateway(shared_store.url, provider.url, tmp_path, **options, state=state) as stopping:
        team.hold()
        with stopping.http(team.key) as client:
            running = client.post("/v1/responses", json=ASKED).json()["id"]
            provider.wait_for_calls(calls + 1)
            waiting = client.post("/v1/responses", json=ASKED).json()["id"]
    for identifier in (running, waiting):
        assert "stop" in team.ended(identifier, "failed")["error"]["message"]
    assert len(provider.received) == calls + 1
    team.nothing_held()


def test_a_provider_that_says_it_works_on_has_failed(team: Team) -> None:
    team.provider.next(answer("x", "resp_x", status="in_progress"))
    assert team.ended(team.ask(), "failed")["error"]["code"] == "server_error"


def test_the_async_sdk_follows_too(team: Team) -> None:
    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=f"{team.gateways[1].url}/v1", api_key=team.key.text) as client:
            made = await client.responses.create(model=MODEL, input="x", background=True, stream=True)
            return "".join([event.delta async for event in made if event.type == "response.output_text.delta"])

    team.provider.next(answer("followed", "resp_followed"))
    import asyncio  # noqa: PLC0415 - the one test with a loop of its own

    assert asyncio.run(run()) == "followed"
