"""Limits of each end user: set and shown by API, command line and dashboard, and what a client reads."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.support.admins import admin_client, done, new_admin, new_team
from tests.support.dashboard_client import signed_in
from tests.support.gateway import RunningGateway, StartGateway
from tests.support.sent import Sent
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import Socket

BODY = {"model": "a/model", "input": "x"}


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
    assert error["message"] == "This end user is at its limit of 1 request per minute."
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


def test_operators_see_what_remains_for_one_end_user(gateway: RunningGateway, root: httpx.Client, shell: Shell) -> None:
    tokens, name = "end_user.budget_tokens_300d", "bob smith/=\u00fc"
    team = new_team(root, limits={tokens: 9000, "end_user.budget_usd_week": "9.5", "end_user.concurrency@a/*": 3})
    path = f"/teams/{team['id']}"
    key = done(root.post(f"{path}/keys", json={"name": "k", "limits": {tokens: 5000, "rpm": 100}}))
    done(root.post(f"{path}/keys", json={"name": "other"}))

    def remaining(user: str) -> dict[str, Any]:
        return done(root.get(f"{path}/end-user-limits", params={"end_user": user}))

    for _ in range(2):
        assert status(gateway, key["key"], user=name) == 200
        gateway.wait_until_settled()
    assert status(gateway, key["key"]) == 200
    gateway.wait_until_settled()
    found = remaining(name)
    assert (found["object"], found["end_user"], found["is_counted"]) == ("end_user_limits", name, True)
    assert list(found["limits"]) == ["end_user.budget_usd_week", tokens, "end_user.concurrency@a/*"]
    week = found["limits"]["end_user.budget_usd_week"]
    assert (week["limit_usd"], week["resets_at"] is not None) == ("9.5", True)
    assert (found["running"], found["limits"]["end_user.concurrency@a/*"]["remaining"]) == (0, 3)
    used = found["limits"][tokens]["used"]
    assert 0 < used == 2 * remaining("")["limits"][tokens]["used"], "those who name nobody are one"
    (of_key,) = found["keys"]
    assert (of_key["key_id"], of_key["is_counted"], list(of_key["limits"])) == (key["id"], True, [tokens])
    assert (of_key["limits"][tokens]["used"], of_key["limits"][tokens]["limit"]) == (used, 5000)
    nobody = remaining("eve")
    assert (nobody["is_counted"], nobody["limits"][tokens]["used"]) == (False, 0)
    rows = [line.split() for line in shell("limits", "show", team["id"], "--end-user", name).out.splitlines()]
    assert ["the", "team", tokens, "9000", str(9000 - used)] in [row[:5] for row in rows]
    assert ["key", "k", tokens, "5000", str(5000 - used)] in [row[:5] for row in rows]
    assert shell.json("limits", "show", team["id"], "--end-user", "")["limits"][tokens]["used"] == used // 2
    with signed_in(gateway) as dashboard:
        page = dashboard.get(f"{path}?end_user=bob%20smith/%3D%C3%BC").text
        assert f"{used} of 9,000" in page
        assert "Of the key k" in page
        listed = dashboard.get(f"/attribution?by=user&team={team['id']}").text
        assert f"{path}?end_user=bob%20smith/%3D%C3%BC#end-user" in listed
    with admin_client(gateway, new_admin(root, "team", new_team(root)["id"])) as stranger:
        assert stranger.get(f"{path}/end-user-limits").status_code == 403


def test_a_team_without_limits_of_each_end_user_says_how_to_set_them(root: httpx.Client, shell: Shell) -> None:
    team = new_team(root, limits={"rpm": 5})
    assert done(root.get(f"/teams/{team['id']}/end-user-limits"))["limits"] == {}
    assert f"limits set {team['id']} end_user.rpm=10" in shell("limits", "show", team["id"], "--end-user", "x").out


def test_a_digest_from_a_report_names_its_end_user(start: StartGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_HASH_KEY", "k" * 32)
    with (
        start(attribution={"end_users": "hashed", "hash_key": "env:TEST_HASH_KEY"}) as gateway,
        admin_client(gateway) as root,
    ):
        tokens = "end_user.budget_tokens_300d"
        key = gateway.new_key(limits={tokens: 9000})
        assert status(gateway, key.text, user="bob") == 200
        gateway.wait_until_settled()
        (group,) = done(root.get("/usage", params={"team": key.team.id, "by": "user"}))["groups"]
        assert "bob" not in group["value"]
        for name in ("bob", group["value"]):
            found = done(root.get(f"/teams/{key.team.id}/end-user-limits", params={"end_user": name}))
            assert found["limits"][tokens]["used"] > 0


def test_a_refusal_says_for_whom_it_was(gateway: RunningGateway, root: httpx.Client, shell: Shell) -> None:
    key = gateway.new_key(limits={"end_user.rpm": 1})
    with gateway.http(key) as client:
        client.post("/v1/responses", json={**BODY, "user": "bob"})
        request_id = client.post("/v1/responses", json={**BODY, "user": "bob"}).headers["x-request-id"]
    wait_until_sync(lambda: root.get(f"/requests/{request_id}").is_success, what="it is written")
    assert done(root.get(f"/requests/{request_id}"))["end_user"] == "bob"
    assert "bob" in shell("requests", "show", request_id).out


WITHOUT_A_FIELD = {
    "moderations": {"input": "x"},
    "rerank": {"query": "x", "documents": ["y"]},
    "audio/speech": {"input": "x", "voice": "alloy"},
}


@pytest.mark.parametrize(("path", "body"), WITHOUT_A_FIELD.items(), ids=list(WITHOUT_A_FIELD))
def test_operations_without_a_field_name_the_end_user_in_the_header(
    start: StartGateway, upstream: str, path: str, body: dict[str, Any]
) -> None:
    with start(limits={"unnamed_end_users": "refused"}) as gateway, admin_client(gateway) as root:
        team = new_team(root, limits={"end_user.rpm": 1})
        key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
        call = {"model": "a/m", **body}
        with gateway.http(key) as client:
            refused = client.post(f"/v1/{path}", json=call)
            made = client.post(f"/v1/{path}", json=call, headers={"x-gateway-end-user": "bob"})
            again = client.post("/v1/responses", json={**BODY, "user": "bob"})
        assert refused.status_code == 400
        assert "x-gateway-end-user" in refused.json()["error"]["message"]
        assert made.status_code == 200
        assert again.status_code == 429, "one end user, wherever it is named"
        seen = Sent(upstream).of(made.headers["x-request-id"])
        assert "x-gateway-end-user" not in seen.headers


def test_the_header_goes_before_the_body_and_is_reported(gateway: RunningGateway, root: httpx.Client) -> None:
    key = gateway.new_key(limits={"end_user.rpm": 1})
    with gateway.http(key) as client:
        for user in ("ana", "eve"):
            headers = {"x-gateway-end-user": user}
            assert client.post("/v1/responses", json={**BODY, "user": "bob"}, headers=headers).status_code == 200
    with Socket(gateway.url, key.text, headers={"x-gateway-end-user": "zoe"}) as socket:
        socket.create(model="a/m", input="x")
        assert socket.events()[-1]["type"] == "response.completed"
    gateway.wait_until_settled()
    groups = done(root.get("/usage", params={"team": key.team.id, "by": "user"}))["groups"]
    assert {one["value"] for one in groups} == {"ana", "eve", "zoe"}


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
