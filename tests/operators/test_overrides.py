"""Limits that hold for a while: set, shown and ended by API, command line and dashboard, and who may change them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.api.admin.override_models import MAX_OVERRIDES
from tests.support.admins import admin_client, code_of, done, new_admin, new_team
from tests.support.dashboard_client import signed_in
from tests.support.gateway import RunningGateway
from tests.support.servers import Server
from tests.support.shell import Shell
from tests.support.two_models import two_models
from tests.support.waiting import wait_until_sync

UNTIL = "2099-12-24T00:00:00.000Z"


@pytest.fixture(scope="module")
def running(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory: Path = tmp_path_factory.mktemp("overrides")
    with two_models(store, upstream, directory) as running:
        yield running


@pytest.fixture(scope="module")
def root(running: RunningGateway) -> Iterator[httpx.Client]:
    with admin_client(running) as client:
        yield client


@pytest.fixture
def shell(running: RunningGateway, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(running, capsys)


def test_the_command_line_sets_shows_and_ends_limits_for_a_while(
    running: RunningGateway, root: httpx.Client, shell: Shell
) -> None:
    team = new_team(root, limits={"rpm": 60, "budget_usd_day": "5"})
    given = ("rpm=600", "budget_usd_day=none", "rpm@fast=3")
    assert shell("limits", "set", team["id"], *given, "--until", "2099-12-24").code == 0
    out = shell("limits", "show", team["id"]).out
    rows = {line.split()[0]: line.split() for line in out.splitlines()[1:]}
    assert rows["rpm"][1:] == ["600", "600", "-", UNTIL, "60"]
    assert rows["budget_usd_day"][1:] == ["none", "-", "-", UNTIL, "5"]
    assert rows["rpm@b/one"][1:] == ["3", "3", "-", UNTIL, "none"]
    assert f"rpm 600 until {UNTIL}" in shell("teams", "list").out
    assert "600" in shell("teams", "show", team["id"]).out
    key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k", "limits": {"tpm": 100}}))
    assert f"tpm 5 until {UNTIL}" in shell("keys", "limits", key["id"], "tpm=5", "--until", "2099-12-24").out
    with running.http(key["key"]) as client:
        own = client.get("/v1/key").json()
        assert own["limits"]["tpm"]["override"] == {"until": UNTIL, "otherwise": 100}
        assert own["team"]["limits"]["budget_usd_day"] == {
            "limit_usd": None,
            "remaining_usd": None,
            "resets_at": None,
            "override": {"until": UNTIL, "otherwise": "5"},
        }
    assert "set for a while" in shell("limits", "restore", team["id"], "concurrency").err
    assert shell("limits", "restore", team["id"], "rpm").code == 0
    assert "override" not in shell.json("teams", "show", team["id"])["limits"]["rpm"]
    assert shell("limits", "restore", team["id"]).code == 0
    shown = shell.json("teams", "show", team["id"])["limits"]
    assert {name: one.get("limit_usd", one.get("limit")) for name, one in shown.items()} == {
        "rpm": 60,
        "budget_usd_day": "5",
    }
    assert "UNTIL" not in shell("limits", "show", team["id"]).out
    assert "tpm 100" in shell("keys", "restore-limits", key["id"]).out
    (entry, *_) = done(root.get("/audit", params={"team": team["id"]}))["data"]
    assert entry["before"]["limits"]["tpm"]["limit"] == 5


def test_the_dashboard_sets_shows_and_ends_limits_for_a_while(running: RunningGateway, root: httpx.Client) -> None:
    team = new_team(root, limits={"rpm": 60})
    path = f"/teams/{team['id']}"
    key = done(root.post(f"{path}/keys", json={"name": "k", "limits": {"concurrency": 7}}))
    with signed_in(running) as dashboard:
        until = {"until": "2099-12-24T00:00"}
        sent = dashboard.send(f"{path}/overrides", **until, overrides="rpm=600\nbudget_usd_day=$5\n")
        assert sent.status_code == 303, sent.text
        page = dashboard.get(path).text
        assert "2099-12-24 00:00:00</time> UTC, then 60" in page
        assert "then no limit" in page
        assert 'name="limits.rpm" value="60"' in page, "the form of the limits has what holds again"
        assert "none → 5 until 2099-12-24 00:00:00" in page, "the change is in the last changes"
        assert dashboard.send(f"{path}/limits", **{"limits.rpm": "70"}).status_code == 303
        shown = done(root.get(path))["limits"]["rpm"]
        assert (shown["limit"], shown["override"]["otherwise"]) == (600, 70)
        refused = dashboard.send(f"{path}/overrides", until="2020-01-01T00:00", overrides="rpm=5")
        assert refused.status_code == 400
        assert "has passed" in refused.text
        assert "rpm=5</textarea>" in refused.text
        assert dashboard.send(f"{path}/overrides", end="rpm").status_code == 303
        assert done(root.get(path))["limits"]["rpm"]["limit"] == 70
        sent = dashboard.send(f"{path}/keys/{key['id']}/overrides", **until, overrides="concurrency=none")
        assert sent.status_code == 303, sent.text
        page = dashboard.get(path).text
        assert "no limit" in page
        assert "UTC, then 7" in page
        assert "End it now: concurrent requests" in page


@pytest.mark.parametrize(
    ("overrides", "param", "why"),
    [
        ({"rpm": {"limit": 5, "until": "2020-01-01"}}, "overrides.rpm.until", "has passed"),
        ({"rpm": {"limit": 5}}, "overrides.rpm.until", "missing"),
        ({"rpm": {"until": UNTIL}}, "overrides.rpm.limit", "missing"),
        ({"rpm": {"limit": "5", "until": UNTIL}}, "overrides.rpm", "whole number"),
        ({"rpm": {"limit": True, "until": UNTIL}}, "overrides.rpm", "whole number"),
        ({"budget_usd_day": {"limit": 5, "until": UNTIL}}, "overrides.budget_usd_day", "decimal string"),
        ({"budget_usd_day": {"limit": "0.2", "until": UNTIL}}, "overrides.budget_usd_day@", "smallest"),
        ({"speed": {"limit": 5, "until": UNTIL}}, "overrides.speed", "no such setting"),
        ({"rpm@c/*": {"limit": 5, "until": UNTIL}}, "overrides.rpm@c/*", "no route fits"),
        ({"rpm": {"limit": 5, "until": UNTIL, "from": UNTIL}}, "overrides.rpm.from", "no such setting"),
        (dict.fromkeys([f"budget_usd_{n}h" for n in range(1, MAX_OVERRIDES + 2)]), "overrides", "at most"),
        ({f"budget_usd_{n}h": {"limit": "9", "until": UNTIL} for n in range(1, 34)}, "limits", "at most 32"),
    ],
    ids=str,
)
def test_what_can_never_work_is_refused_with_the_reason(
    root: httpx.Client, overrides: dict[str, Any], param: str, why: str
) -> None:
    team = new_team(root, models=["a/*"])
    error = root.patch(f"/teams/{team['id']}", json={"overrides": overrides}).json()["error"]
    assert error["param"] == param.rstrip("@")
    assert why in error["message"]
    stop = {"rpm": {"limit": 0, "until": "tomorrow"}, "budget_usd_day": {"limit": "0", "until": "tomorrow"}}
    assert root.patch(f"/teams/{team['id']}", json={"overrides": stop}).status_code == 200, "to stop for a while works"


def test_a_lead_changes_no_override_of_an_operator_and_sets_none_above_what_is_held(
    running: RunningGateway, root: httpx.Client
) -> None:
    team = new_team(root, limits={"concurrency": 9})
    path = f"/teams/{team['id']}/keys"
    key = done(root.post(path, json={"name": "k", "limits": {"rpm": 50}}))
    by_operator = {"tpm": {"limit": 500, "until": UNTIL}}
    shown = done(root.patch(f"{path}/{key['id']}", json={"overrides": by_operator}))
    assert shown["set_by_operator"] == ["limits.rpm", "overrides.tpm"]
    with admin_client(running, new_admin(root, "team", team["id"])) as lead:
        for overrides, status in (
            ({"tpm": None}, 403),
            ({"tpm": {"limit": 5, "until": UNTIL}}, 403),
            ({"rpm": {"limit": 51, "until": UNTIL}}, 403),
            ({"rpm": {"limit": None, "until": UNTIL}}, 403),
            ({"concurrency": {"limit": 10, "until": UNTIL}}, 403),
            ({"rpm": {"limit": 49, "until": UNTIL}, "concurrency": {"limit": 9, "until": UNTIL}}, 200),
            ({"rpm": {"limit": 50, "until": UNTIL}, **by_operator}, 200),
            ({"rpm": None}, 200),
        ):
            answer = lead.patch(f"{path}/{key['id']}", json={"overrides": overrides})
            assert answer.status_code == status, (overrides, answer.text)
        assert code_of(lead.patch(f"/teams/{team['id']}", json={"overrides": {}})) == "not_allowed"
    done(root.patch(f"{path}/{key['id']}", json={"overrides": {"concurrency": None}}))


def test_a_refusal_says_until_when_and_the_limits_of_before_hold_again_by_themselves(
    running: RunningGateway, root: httpx.Client
) -> None:
    team = new_team(root, limits={"rpm": 1000})
    key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
    until = datetime.now(UTC) + timedelta(seconds=1.5)
    stop = {"rpm": {"limit": 0, "until": until.isoformat()}}
    done(root.patch(f"/teams/{team['id']}", json={"overrides": stop}))
    body = {"model": "b/one", "input": "x", "max_output_tokens": 1}
    with running.http(key) as client:
        refused = client.post("/v1/responses", json=body)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after-ms"]) <= 1500
        resets_at = datetime.fromisoformat(refused.json()["error"]["resets_at"])
        assert abs(resets_at - until) < timedelta(milliseconds=5)
        wait_until_sync(lambda: client.post("/v1/responses", json=body).status_code == 200)
        assert datetime.now(UTC) >= until - timedelta(milliseconds=5)
