"""Limits of some models alone: set and shown by API, command line and dashboard, and what a client reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.admins import admin_client, done, new_admin, new_team
from tests.support.dashboard_client import signed_in
from tests.support.gateway import RunningGateway
from tests.support.servers import Server
from tests.support.shell import Shell
from tests.support.two_models import two_models
from tests.support.waiting import wait_until_sync


@pytest.fixture(scope="module")
def models(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory: Path = tmp_path_factory.mktemp("models")
    with two_models(store, upstream, directory) as running:
        yield running


@pytest.fixture(scope="module")
def root(models: RunningGateway) -> Iterator[httpx.Client]:
    with admin_client(models) as client:
        yield client


@pytest.fixture
def shell(models: RunningGateway, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(models, capsys)


LIMITS = {"rpm@a/*": 5, "concurrency@b/one": 2, "budget_usd_week@a/x": "9.5"}


def test_limits_of_models_are_set_shown_and_removed(models: RunningGateway, root: httpx.Client, shell: Shell) -> None:
    words = [f"{name}={value}" for name, value in LIMITS.items()]
    team = new_team(root)
    assert shell("limits", "set", team["id"], "rpm@a/*=5", "concurrency@fast=2", words[2]).code == 0
    key = shell.json("keys", "create", team["id"], "--name", "k", "--limit", "tpm@a/*=100000")
    shown = done(root.get(f"/teams/{team['id']}"))["limits"]
    assert {name: one.get("limit_usd", one.get("limit")) for name, one in shown.items()} == LIMITS
    assert "rpm@a/* 5" in shell("teams", "list").out
    assert "tpm@a/*" in shell("keys", "show", key["id"]).out
    with models.http(key["key"]) as client:
        own = client.get("/v1/key").json()
        dry = client.post(
            "/v1/responses",
            json={"model": "a/x", "input": "x", "max_output_tokens": 1},
            headers={"x-gateway-dry-run": "true"},
        )
        assert own["team"]["limits"].keys() == shown.keys() == dry.json()["team"]["limits"].keys()
        assert list(own["limits"]) == ["tpm@a/*"]
        answer = client.post("/v1/responses", json={"model": "fast", "input": "x"})
        assert "x-ratelimit-limit-requests" not in answer.headers
        answer = client.post("/v1/responses", json={"model": "a/x", "input": "x", "max_output_tokens": 1})
        assert answer.headers["x-ratelimit-limit-requests"] == "5"
    with signed_in(models) as dashboard:
        page = dashboard.get(f"/teams/{team['id']}").text
        assert "requests per minute for a/*" in page
        assert "rpm@a/*=5\nbudget_usd_week@a/x=9.5\nconcurrency@b/one=2</textarea>" in page
        had = {"limits.had": " ".join(LIMITS)}
        assert dashboard.send(f"/teams/{team['id']}/limits", limits="rpm@a/*=6", **had).status_code == 303
    assert set(done(root.get(f"/teams/{team['id']}"))["limits"]) == {"rpm@a/*"}
    assert shell("limits", "set", team["id"], "rpm@a/*=none").code == 0
    assert done(root.get(f"/teams/{team['id']}"))["limits"] == {}


@pytest.mark.parametrize(
    ("limits", "param", "why"),
    [
        ({"rpm@c/*": 1}, "limits.rpm@c/*", "no route fits"),
        ({"rpm@c": 1}, "limits.rpm@c", "no route, and no alias"),
        ({"rpm@": 1}, "limits.rpm@", "no such setting"),
        ({"rpm@a/*/b": 1}, "limits.rpm@a/*/b", "no such setting"),
        ({"rpm@a,b": 1}, "limits.rpm@a,b", "no such setting"),
        ({"queue_s@a/*": 1}, "limits.queue_s@a/*", "no such setting"),
        ({"max_output_tokens@a/*": 1}, "limits.max_output_tokens@a/*", "no such setting"),
        ({"rpm@a/*": "1"}, "limits.rpm@a/*", "whole number"),
        ({"budget_usd_day@a/*": "0.25"}, "limits.budget_usd_day@a/*", "the smallest one holds"),
        ({"budget_tokens_day@a/*": 1}, "limits.budget_tokens_day@a/*", "the smallest one holds"),
    ],
    ids=str,
)
def test_what_can_never_work_is_refused(root: httpx.Client, limits: dict[str, Any], param: str, why: str) -> None:
    team = new_team(root)
    error = root.patch(f"/teams/{team['id']}", json={"limits": limits}).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_field", param)
    assert why in error["message"]
    possible = {"budget_usd_day@fast": "0.25", "rpm@a/x": 0}
    assert root.patch(f"/teams/{team['id']}", json={"limits": possible}).status_code == 200


def test_a_lead_tightens_what_an_operator_set_for_models_and_lifts_nothing(
    models: RunningGateway, root: httpx.Client
) -> None:
    team = new_team(root)
    path = f"/teams/{team['id']}/keys"
    key = done(root.post(path, json={"name": "k", "limits": {"rpm@a/*": 5}}))
    assert key["set_by_operator"] == ["limits.rpm@a/*"]
    with admin_client(models, new_admin(root, "team", team["id"])) as lead:
        for value, status in ((4, 200), (6, 403), (None, 403)):
            assert lead.patch(f"{path}/{key['id']}", json={"limits": {"rpm@a/*": value}}).status_code == status
        assert lead.patch(f"{path}/{key['id']}", json={"limits": {"rpm@b/one": 1}}).status_code == 200
    done(root.patch(f"{path}/{key['id']}", json={"release": ["limits.rpm@a/*"]}))


def test_a_refusal_says_for_which_models_and_is_reported_so(
    models: RunningGateway, root: httpx.Client, shell: Shell
) -> None:
    team = new_team(root, limits={"rpm@a/*": 1})
    key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
    body = {"model": "A/x", "input": "x", "max_output_tokens": 1}
    with models.http(key) as client:
        assert client.post("/v1/responses", json=body).status_code == 200
        refused = client.post("/v1/responses", json=body)
        assert client.post("/v1/responses", json={**body, "model": "b/one"}).status_code == 200
    error = refused.json()["error"]
    assert (refused.status_code, error["limit"], error["scope"], error["model_pattern"]) == (429, "rpm", "team", "a/*")
    assert "1 request per minute for a/*" in error["message"]
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(refused.headers["retry-after"]) <= 60

    def reported() -> bool:
        return bool(done(root.get("/usage", params={"team": team["id"]}))["total"]["refused"])

    wait_until_sync(reported, what="the refusal is in the reports")
    (reason,) = done(root.get("/usage", params={"team": team["id"], "by": "model"}))["total"]["refusals"]
    assert (reason["limit"], reason["scope"]) == ("rpm@a/*", "team")
    row = done(root.get(f"/requests/{refused.headers['x-request-id']}"))
    assert (row["limit"], row["scope"]) == ("rpm@a/*", "team")
    with signed_in(models) as dashboard:
        assert "requests per minute for a/*" in dashboard.get(f"/teams/{team['id']}").text
        assert "requests per minute for a/*, of the team" in dashboard.get(f"?days=1&team={team['id']}").text


def test_models_that_may_answer_instead_count_at_their_own_limits(models: RunningGateway, root: httpx.Client) -> None:
    team = new_team(root, limits={"rpm@b/one": 1})
    key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
    body = {"model": "a/x", "models": ["fast"], "input": "x", "max_output_tokens": 1}
    with models.http(key) as client:
        first = client.post("/v1/responses", json=body)
        assert first.status_code == 200, first.text
        refused = client.post("/v1/responses", json=body)
        assert (refused.status_code, refused.json()["error"]["model_pattern"]) == (429, "b/one")
        assert (
            client.post("/v1/responses", json={"model": "a/x", "input": "x", "max_output_tokens": 1}).status_code == 200
        )
