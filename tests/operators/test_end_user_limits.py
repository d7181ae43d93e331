"""Limits of each end user: set and shown by API, command line and dashboard, and what a client reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.support.admins import admin_client, done, new_admin, new_team
from tests.support.dashboard_client import signed_in
from tests.support.gateway import RunningGateway, StartGateway
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import Socket

BODY = {"model": "a/model", "input": "x"}


@pytest.fixture
def root(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with admin_client(gateway) as client:
        yield client


@pytest.fixture
def shell(gateway: RunningGateway, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(gateway, capsys)


def status(gateway: RunningGateway, key: str, path: str = "responses", **fields: Any) -> int:
    with gateway.http(key) as client:
        return client.post(
            f"/v1/{path}", json={**(BODY if path == "responses" else {"model": "a/m"}), **fields}
        ).status_code


LIMITS = {"rpm": 600, "end_user.rpm": 5, "end_user.budget_usd_week": "9.5", "end_user.concurrency@a/*": 2}


def test_limits_of_each_end_user_are_set_shown_and_removed(
    gateway: RunningGateway, root: httpx.Client, shell: Shell
) -> None:
    team = new_team(root)
    words = [f"{name}={value}" for name, value in LIMITS.items()]
    words[1] = "end-user.rpm=5"
    assert shell("limits", "set", team["id"], *words).code == 0
    shown = done(root.get(f"/teams/{team['id']}"))["limits"]
    assert shown["end_user.rpm"] == {"limit": 5}
    assert shown["end_user.budget_usd_week"] == {"limit_usd": "9.5"}
    assert {name: one.get("limit_usd", one.get("limit")) for name, one in shown.items()} == LIMITS
    assert list(shown) == list(LIMITS), "those of each end user stand behind the others"
    key = shell.json("keys", "create", team["id"], "--name", "k", "--limit", "end_user.tpm=100000")
    assert "end_user.tpm 100000" in shell("keys", "list", team["id"]).out
    table = shell("limits", "show", team["id"]).out
    assert "end_user.budget_usd_week" in table
    with gateway.http(key["key"]) as client:
        own = client.get("/v1/key").json()
        assert own["team"]["limits"].keys() == LIMITS.keys()
        assert own["limits"] == {"end_user.tpm": {"limit": 100_000}}
    with signed_in(gateway) as dashboard:
        page = dashboard.get(f"/teams/{team['id']}").text
        assert "requests per minute, each end user" in page
        assert "concurrent requests for a/*, each end user" in page
        assert "end_user.rpm=5\nend_user.budget_usd_week=9.5\nend_user.concurrency@a/*=2</textarea>" in page
        assert "end_user.rpm: none → 5" in page
        assert "waiting: none" not in page, "what changes by itself is no admin's change"
        had = {"limits.had": " ".join(name for name in LIMITS if name != "rpm")}
        sent = dashboard.send(f"/teams/{team['id']}/limits", **{"limits.rpm": "600"}, limits="end_user.rpm=6", **had)
        assert sent.status_code == 303
    assert done(root.get(f"/teams/{team['id']}"))["limits"].keys() == {"rpm", "end_user.rpm"}
    assert shell("limits", "set", team["id"], "end_user.rpm=none", "rpm=none").code == 0
    assert done(root.get(f"/teams/{team['id']}"))["limits"] == {}
    mistaken = shell("limits", "set", team["id"], "end_user.rmp=1")
    assert (mistaken.code, "is it end_user.rpm?" in mistaken.err) == (2, True)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"end_user.rpm": 0}, "0 refuses every request"),
        ({"end_user.rpm": "1"}, "whole number"),
        ({"end_user.budget_usd_total": "1"}, "no such setting"),
        ({"end_user.queue_s": 1}, "no such setting"),
        ({"end_user.end_user.rpm": 1}, "no such setting"),
        ({"end_user.budget_tokens_day": 1}, "the smallest one holds"),
        ({"end_user.budget_usd_day": "0.000000001"}, "the smallest one holds"),
        ({f"end_user.rpm@m/{number}": 1 for number in range(33)}, "at most 32 limits"),
    ],
    ids=str,
)
def test_what_can_never_work_is_refused(root: httpx.Client, limits: dict[str, Any], why: str) -> None:
    error = root.patch(f"/teams/{new_team(root)['id']}", json={"limits": limits}).json()["error"]
    assert error["code"] == "invalid_field"
    assert why in error["message"]


def test_a_lead_tightens_what_an_operator_set_and_lifts_nothing(gateway: RunningGateway, root: httpx.Client) -> None:
    team = new_team(root, limits={"end_user.tpm": 100})
    path = f"/teams/{team['id']}/keys"
    key = done(root.post(path, json={"name": "k", "limits": {"end_user.rpm": 5}}))
    with admin_client(gateway, new_admin(root, "team", team["id"])) as lead:
        for limits, code in (
            ({"end_user.rpm": 4}, 200),
            ({"end_user.rpm": 6}, 403),
            ({"end_user.rpm": None}, 403),
            ({"end_user.tpm": 101}, 403),
        ):
            assert lead.patch(f"{path}/{key['id']}", json={"limits": limits}).status_code == code


def test_a_refusal_names_the_end_user_s_limit_and_is_reported_so(
    gateway: RunningGateway, root: httpx.Client, shell: Shell
) -> None:
    team = new_team(root, limits={"rpm": 100, "end_user.rpm": 1})
    key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
    with gateway.http(key) as client:
        first = client.post("/v1/responses", json={**BODY, "user": "bob"})
        assert first.headers["x-ratelimit-limit-requests"] == "1"
        refused = client.post("/v1/responses", json={**BODY, "user": "bob"})
    assert status(gateway, key, user="eve") == 200
    assert status(gateway, key, safety_identifier="eve") == 429, "two fields, one end user"
    error = refused.json()["error"]
    assert (refused.status_code, error["limit"], error["scope"]) == (429, "rpm", "end_user")
    assert error["message"] == "This end user is at its limit of 1 requests per minute."
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(refused.headers["retry-after"]) <= 60

    def reported() -> bool:
        return bool(done(root.get("/usage", params={"team": team["id"]}))["total"]["refused"] == 2)

    wait_until_sync(reported, what="the refusals are in the reports")
    (reason,) = done(root.get("/usage", params={"team": team["id"], "by": "model"}))["total"]["refusals"]
    assert (reason["limit"], reason["scope"], reason["requests"]) == ("rpm", "end_user", 2)
    assert "end_user" in shell("requests", "show", refused.headers["x-request-id"]).out
    with signed_in(gateway) as dashboard:
        assert "of the end user" in dashboard.get(f"/requests/{refused.headers['x-request-id']}").text
        assert "requests per minute, of the end user" in dashboard.get(f"?days=1&team={team['id']}").text


def test_each_dialect_s_clients_read_the_refusal_in_their_own_form(gateway: RunningGateway, root: httpx.Client) -> None:
    team = new_team(root, limits={"end_user.rpm": 1})
    key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
    messages: list[Any] = [{"role": "user", "content": "x"}]
    with anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0) as claude:
        ask: dict[str, Any] = {"model": "a/m", "max_tokens": 9, "messages": messages, "metadata": {"user_id": "bob"}}
        claude.messages.create(**ask)
        with pytest.raises(anthropic.RateLimitError, match="This end user"):
            claude.messages.create(**ask)
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as sdk:
        with pytest.raises(openai.RateLimitError, match="This end user"):
            sdk.chat.completions.create(model="a/m", messages=messages, user="bob")
        sdk.embeddings.create(model="a/m", input="x", user="eve")
        with pytest.raises(openai.RateLimitError):
            sdk.responses.create(model="a/m", input="x", user="eve")
    with Socket(gateway.url, key) as socket:
        for user, kind in (("ana", "response.completed"), ("ana", "error"), ("zoe", "response.completed")):
            socket.create(model="a/m", input="x", user=user)
            assert socket.events()[-1]["type"] == kind


def test_requests_that_name_no_end_user_are_one_together(gateway: RunningGateway, root: httpx.Client) -> None:
    team = new_team(root, limits={"end_user.rpm": 2})
    key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
    assert [status(gateway, key) for _ in range(3)] == [200, 200, 429]
    assert status(gateway, key, user="bob") == 200


def test_requests_that_name_no_end_user_can_be_refused(start: StartGateway) -> None:
    with start(limits={"unnamed_end_users": "refused"}) as gateway, admin_client(gateway) as root:
        team = new_team(root, limits={"end_user.rpm": 5})
        key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
        with gateway.http(key) as client:
            refused = client.post("/v1/responses", json=BODY)
            made = client.post("/v1/responses", json={**BODY, "user": "bob"})
            assert made.status_code == 200
            read = client.get(f"/v1/responses/{made.json()['id']}")
            assert read.status_code == 200, "it has no body that could say"
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (400, "missing_field", "safety_identifier")
        other = gateway.new_key()
        assert status(gateway, other.text) == 200, "a team without such limits need not say"


def test_what_corrects_an_estimate_corrects_the_end_user_s_budget(gateway: RunningGateway, root: httpx.Client) -> None:
    """A response in the background is charged its most, until its usage is seen."""
    team = new_team(root, limits={"end_user.budget_tokens_day": 900})
    key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as sdk:
        made = sdk.responses.create(model="sim/slow-20", input="x", background=True, max_output_tokens=500, user="bob")

        def asks() -> bool:
            try:
                sdk.responses.create(model="sim/echo", input="x", max_output_tokens=500, user="bob")
            except openai.APIStatusError as refused:
                assert refused.body["scope"] == "end_user"  # type: ignore[index]  # noqa: PT017 - the other way is a pass
                return False
            return True

        assert not asks()
        wait_until_sync(lambda: sdk.responses.retrieve(made.id).usage is not None, what="its usage is seen")
        wait_until_sync(asks, what="the correction is posted")
