"""`context_management` of a response in the background: its summary is made when it runs, and is paid by itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from gateway.ledger.verification import verify
from tests.state.answers import COST_NANO_USD, MODEL, answer
from tests.support.gateway import NewKey, RunningGateway
from tests.support.post_only_provider import Answer, PostOnlyProvider
from tests.support.specification import validate_event
from tests.support.waiting import wait_until_sync

LONG = "A long story. " * 50


class Team:
    """A team with a concurrency of one, and its clients of both gateways."""

    def __init__(self, provider: PostOnlyProvider, gateways: tuple[RunningGateway, RunningGateway]) -> None:
        self.provider = provider
        self.gateway = gateways[0]
        self.key: NewKey = self.gateway.new_key(limits={"concurrency": 1})
        self.one, self.two = (gateway.http(self.key) for gateway in gateways)
        self.calls = len(provider.received)

    def ask(self, given: str = LONG, threshold: int = 100, **fields: Any) -> dict[str, Any]:
        """Asks for a response in the background; the answer that it gets at once."""
        management = [{"type": "compaction", "compact_threshold": threshold}]
        body = {"model": MODEL, "input": given, "background": True, "context_management": management, **fields}
        got = self.one.post("/v1/responses", json=body)
        assert got.status_code == 200, got.text
        found: dict[str, Any] = got.json()
        assert (found["status"], found["output"]) == ("queued", [])
        return found

    def read(self, made: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.two.get(f"/v1/responses/{made['id']}").json()
        return found

    def ended(self, made: dict[str, Any], status: str = "completed") -> dict[str, Any]:
        wait_until_sync(lambda: self.read(made)["status"] == status, what=f"it is {status}")
        return self.read(made)

    def received(self) -> list[dict[str, Any]]:
        """What this team's calls sent, oldest first."""
        return self.provider.received[self.calls :]

    def settled(self) -> int:
        """What was spent, once nothing is held."""
        wait_until_sync(lambda: not self.gateway.balance(self.key).held, what="nothing is held")
        assert self.gateway.run(verify(self.gateway.services.store, self.key.team.id)).differences == ()
        return self.gateway.balance(self.key).spent


@pytest.fixture
def team(provider: PostOnlyProvider, gateways: tuple[RunningGateway, RunningGateway]) -> Iterator[Team]:
    team = Team(provider, gateways)
    with team.one, team.two:
        yield team


def test_it_is_answered_at_once_and_goes_on_from_its_summary(team: Team) -> None:
    released = threading.Event()
    team.provider.next(replace(answer("In short.", "gen"), released=released))
    team.provider.next(answer("At last.", "gen"))
    made = team.ask()
    team.provider.wait_for_calls(team.calls + 1)
    assert team.read(made)["status"] == "in_progress"
    released.set()
    assert [item["type"] for item in team.ended(made)["output"]] == ["compaction", "message"]
    summary, turn = team.received()
    assert ("A long story." in json.dumps(summary["input"]), summary.get("stream")) == (True, None)
    assert "In short." in json.dumps(turn["input"])
    assert "context_management" not in {**summary, **turn}
    assert team.settled() == 2 * COST_NANO_USD
    team.provider.next(answer("more", "gen"))
    team.ended(team.ask("Go on.", threshold=100_000, previous_response_id=made["id"]))
    sent = json.dumps(team.received()[-1]["input"])
    assert ("In short." in sent, "A long story." in sent, "At last." in sent) == (True, False, True)


def test_its_events_have_the_summarys_item_first(team: Team) -> None:
    for text in ("In short.", "At last."):
        team.provider.next(answer(text, "gen"))
    made = team.ended(team.ask())
    text = team.two.get(f"/v1/responses/{made['id']}?stream=true").text
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events[:2]:
        validate_event(event)
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [(event["output_index"], event["item"]["type"]) for event in done] == [(0, "compaction"), (1, "message")]


def test_below_its_threshold_it_is_left_alone(team: Team) -> None:
    team.provider.next(answer("fine", "gen"))
    assert [item["type"] for item in team.ended(team.ask("Short.", 1000))["output"]] == ["message"]
    assert len(team.received()) == 1
    assert team.settled() == COST_NANO_USD


def test_without_a_summary_it_goes_on_with_its_whole_context(team: Team) -> None:
    team.provider.next(Answer({"error": {"message": "too long"}}, 400))
    team.provider.next(answer("fine", "gen"))
    assert [item["type"] for item in team.ended(team.ask())["output"]] == ["message"]
    assert "A long story." in json.dumps(team.received()[-1]["input"])
    assert team.settled() == COST_NANO_USD


def test_a_team_that_cannot_pay_for_the_summary_queues_nothing(team: Team) -> None:
    poor = team.gateway.new_key(credits_usd="0.000001")
    management = [{"type": "compaction", "compact_threshold": 10}]
    body = {"model": MODEL, "input": LONG, "background": True, "context_management": management}
    with team.gateway.http(poor) as client:
        assert client.post("/v1/responses", json=body).status_code == 402
    assert team.received() == []
    assert team.gateway.balance(poor).held == 0


def test_one_that_cannot_be_paid_behind_its_summary_fails_and_says_so(team: Team) -> None:
    released = threading.Event()
    team.provider.next(replace(answer("In short.", "gen"), released=released))
    made = team.ask()
    team.provider.wait_for_calls(team.calls + 1)
    accounts, balance = team.gateway.services.accounts, team.gateway.balance(team.key)
    team.gateway.run(accounts.move_credits(team.key.team, "adjust", -balance.available - balance.held))
    released.set()
    assert team.ended(made, "failed")["error"]["code"] == "insufficient_quota"
    assert len(team.received()) == 1
    assert team.settled() == COST_NANO_USD


def test_a_cancellation_ends_the_summary_too(team: Team) -> None:
    released = threading.Event()
    team.provider.next(replace(answer("In short.", "gen"), released=released))
    made = team.ask()
    team.provider.wait_for_calls(team.calls + 1)
    got: httpx.Response = team.two.post(f"/v1/responses/{made['id']}/cancel")
    assert got.json()["status"] == "cancelled"
    wait_until_sync(lambda: team.received()[0] in team.provider.left, what="the provider's work is cancelled")
    team.settled()
    assert team.read(made)["status"] == "cancelled"
    assert len(team.received()) == 1
    released.set()


def test_one_that_waits_is_cancelled_and_gives_the_summarys_hold_back(team: Team) -> None:
    released = threading.Event()
    team.provider.next(replace(answer("first", "gen"), released=released))
    key = team.gateway.new_key()
    with team.gateway.http(key) as client:
        body = {"model": MODEL, "input": LONG, "background": True}
        first = client.post("/v1/responses", json=body).json()
        team.provider.wait_for_calls(team.calls + 1)
        management = [{"type": "compaction", "compact_threshold": 100}]
        waits = client.post("/v1/responses", json={**body, "context_management": management}).json()
        held = team.gateway.balance(key).held
        client.post(f"/v1/responses/{waits['id']}/cancel")
        wait_until_sync(lambda: 0 < team.gateway.balance(key).held < held, what="its hold is given back")
        released.set()
        wait_until_sync(
            lambda: client.get(f"/v1/responses/{first['id']}").json()["status"] == "completed", what="the first ends"
        )
    assert len(team.received()) == 1
    assert team.gateway.run(verify(team.gateway.services.store, key.team.id)).differences == ()
