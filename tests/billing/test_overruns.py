"""A cost above its hold: charged whole, and what becomes of the team (`on_overrun`)."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.billing.conftest import Serving
from tests.billing.test_bills import ask, spent
from tests.support.admins import admin_client, done
from tests.support.answering_provider import Answer, response
from tests.support.dashboard_client import signed_in
from tests.support.gateway import NewKey, RunningGateway
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync

WITHIN = {"input_tokens": 5, "output_tokens": 5, "total_tokens": 10}
OVER = {"input_tokens": 10, "output_tokens": 100_000, "total_tokens": 100_010}
COST = 1_000_010_000
FREE = {"prices": {"*": {"input": "1", "output": "10"}, "free/*": {"input": "0", "output": "0"}}}


@pytest.fixture(name="paused")
def _paused(serving: Serving) -> Iterator[tuple[RunningGateway, NewKey, str]]:
    """A gateway, a key of a team that it has paused, and the id of the request that did it."""
    usages = [OVER]
    with serving(
        lambda _: Answer(response(usages.pop() if usages else WITHIN)), limits={"on_overrun": "pause"}, **FREE
    ) as (gateway, _):
        key = gateway.new_key()
        over = ask(gateway, key, max_output_tokens=50)
        assert over.status_code == 200
        assert spent(gateway, key) == COST
        yield gateway, key, over.headers["x-request-id"]


def team_of(gateway: RunningGateway, key: NewKey) -> dict[str, Any]:
    with admin_client(gateway) as root:
        return done(root.get(f"/teams/{key.team.id}"))


def goes_on(gateway: RunningGateway, key: NewKey) -> bool:
    answer = ask(gateway, key, max_output_tokens=50)
    return answer.status_code == 200 and team_of(gateway, key)["paused"] is None


@pytest.mark.parametrize(
    ("limits", "route", "refused"),
    [
        ({}, {}, False),
        ({"on_overrun": "pause"}, {}, True),
        ({}, {"on_overrun": "pause"}, True),
        ({"on_overrun": "pause"}, {"on_overrun": "allow"}, False),
    ],
)
def test_the_route_decides_before_the_default(
    serving: Serving, limits: dict[str, Any], route: dict[str, Any], refused: bool
) -> None:
    with serving(lambda _: Answer(response(OVER)), limits=limits, route=route) as (gateway, _):
        key = gateway.new_key()
        assert ask(gateway, key, max_output_tokens=50).status_code == 200
        assert spent(gateway, key) == COST
        assert ask(gateway, key, max_output_tokens=50).status_code == (402 if refused else 200)


def test_the_refusal_says_why_since_when_and_who_can_help(paused: tuple[RunningGateway, NewKey, str]) -> None:
    gateway, key, request_id = paused
    answer = ask(gateway, key, max_output_tokens=50)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (402, "team_paused", "insufficient_credits")
    assert (error["limit"], error["scope"], error["request_id"]) == ("on_overrun", "team", request_id)
    assert error["paused_at"].startswith("20")
    assert "grant" in error["message"]
    assert "retry-after" not in answer.headers
    assert answer.headers["x-should-retry"] == "false"
    assert spent(gateway, key) == COST


def test_what_costs_nothing_passes(paused: tuple[RunningGateway, NewKey, str]) -> None:
    gateway, key, _ = paused
    assert ask(gateway, key, model="free/model").status_code == 200
    with gateway.http(key) as http:
        assert http.get("/v1/responses/resp_1").status_code == 200
        shown = http.get("/v1/key").json()
    assert shown["team"]["paused"] == team_of(gateway, key)["paused"]


def test_a_cost_within_its_hold_pauses_nobody(serving: Serving) -> None:
    with serving(lambda _: Answer(response(WITHIN)), limits={"on_overrun": "pause"}) as (gateway, _):
        key = gateway.new_key()
        for _ in range(2):
            assert ask(gateway, key, max_output_tokens=50).status_code == 200


def test_a_grant_lets_the_team_go_on_and_an_adjustment_does_not(paused: tuple[RunningGateway, NewKey, str]) -> None:
    gateway, key, _ = paused
    with admin_client(gateway) as root:
        done(root.post(f"/teams/{key.team.id}/credits", json={"kind": "adjust", "amount_usd": "5"}))
        assert ask(gateway, key, max_output_tokens=50).json()["error"]["code"] == "team_paused"
        done(root.post(f"/teams/{key.team.id}/credits", json={"kind": "grant", "amount_usd": "5"}))
    assert goes_on(gateway, key)


def test_an_operator_lets_it_go_on_by_the_api(paused: tuple[RunningGateway, NewKey, str]) -> None:
    gateway, key, request_id = paused
    with admin_client(gateway) as root:
        team = team_of(gateway, key)
        assert team["paused"]["request_id"] == request_id
        assert root.patch(f"/teams/{key.team.id}", json={"paused": True}).status_code == 400
        done(root.patch(f"/teams/{key.team.id}", json={"name": team["name"]}))
        assert not goes_on(gateway, key), "another change lifts no pause"
        done(root.patch(f"/teams/{key.team.id}", json={"paused": False}))
        change = done(root.get("/audit", params={"team": key.team.id}))["data"][0]
    assert (change["before"]["paused"], change["after"]["paused"]) == (team["paused"], None)
    assert goes_on(gateway, key)


def test_an_operator_lets_it_go_on_by_the_command_line(
    paused: tuple[RunningGateway, NewKey, str], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway, key, request_id = paused
    shell = Shell(gateway, capsys)
    shown = shell("teams", "show", key.team.name).out
    assert "paused" in shown
    assert request_id in shown
    assert "paused" in shell("teams", "list").out
    assert shell("teams", "resume", key.team.name).code == 0
    assert goes_on(gateway, key)


def test_an_operator_lets_it_go_on_in_the_dashboard(paused: tuple[RunningGateway, NewKey, str]) -> None:
    gateway, key, request_id = paused
    with signed_in(gateway) as dashboard:
        path = f"/teams/{key.team.id}"
        page = dashboard.get(path).text
        assert request_id in page
        assert "Paused since" in page
        dashboard.send(f"{path}/resume", version=str(team_of(gateway, key)["version"]))
        assert "Paused since" not in dashboard.get(path).text
    assert goes_on(gateway, key)


def test_metrics_audit_and_journal_name_it(paused: tuple[RunningGateway, NewKey, str]) -> None:
    gateway, key, request_id = paused
    assert 'gateway_pauses_total{model="a/b"} 1.0' in httpx.get(f"{gateway.url}/metrics").text
    with admin_client(gateway) as root:

        def entries() -> list[dict[str, Any]]:
            found = done(root.get("/audit", params={"team": key.team.id}))["data"]
            return [entry for entry in found if entry["action"] == "pause the team"]

        wait_until_sync(lambda: bool(entries()), what="the audit log has the pause")
        (entry,) = entries()
        assert (entry["actor"], entry["request_id"]) == ("gateway", request_id)
        assert entry["after"]["cost_usd"] == "1.00001"
        (settled,) = done(root.get(f"/teams/{key.team.id}/journal", params={"type": "settle"}))["data"]
        assert settled["over_usd"] == entry["after"]["over_usd"] != "0"


def test_the_log_says_it(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    with (
        path.open("w") as file,
        serving(lambda _: Answer(response(OVER)), limits={"on_overrun": "pause"}, log_to=file) as (gateway, _),
    ):
        request_id = ask(gateway, gateway.new_key(), max_output_tokens=50).headers["x-request-id"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (line,) = [line for line in lines if line["event"] == "team_paused"]
    assert (line["request_id"], line["level"]) == (request_id, "warning")
