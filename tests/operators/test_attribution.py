"""Tags and end users from a request to its reports: API, command line, dashboard, CSV; and what a provider sees."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

from gateway.billing.money import format_usd
from tests.support.admins import admin_client, code_of, done, new_admin
from tests.support.dashboard_client import signed_in
from tests.support.gateway import NewKey, RunningGateway, StartGateway
from tests.support.sent import Sent
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import Socket


@pytest.fixture
def root(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with admin_client(gateway) as client:
        yield client


@pytest.fixture
def key(gateway: RunningGateway) -> NewKey:
    return gateway.new_key()


def ask(gateway: RunningGateway, key: NewKey, tags: str | None = None, path: str = "responses", **fields: Any) -> str:
    """One request; its id."""
    body = {"model": "a/model", **({"input": "x"} if path == "responses" else {}), **fields}
    with gateway.http(key) as client:
        answer = client.post(f"/v1/{path}", json=body, headers={"x-gateway-tags": tags} if tags is not None else {})
    assert answer.is_success, answer.text
    gateway.wait_until_settled()
    request_id: str = answer.headers["x-request-id"]
    return request_id


def groups(root: httpx.Client, key: NewKey, by: str) -> dict[tuple[str, str | None], int]:
    """Requests by kind and value."""
    found = done(root.get("/usage", params={"team": key.team.id, "by": by}))
    assert found["step"] == "day"
    assert sum(row["requests"] for row in found["groups"]) == found["total"]["requests"]
    return {(row["kind"], row["value"]): row["requests"] for row in found["groups"]}


def test_usage_by_tag_and_by_end_user_adds_up_to_all_of_it(
    gateway: RunningGateway, root: httpx.Client, key: NewKey, upstream: str
) -> None:
    request_id = ask(gateway, key, "project=alpha,env=prod", user="bob", metadata={"run": "7"})
    ask(gateway, key, "project=alpha", safety_identifier="sid")
    ask(
        gateway,
        key,
        "project=beta%20two",
        path="chat/completions",
        messages=[{"role": "user", "content": "x"}],
        user="bob",
    )
    ask(gateway, key)
    assert groups(root, key, "tag:project") == {("value", "alpha"): 2, ("value", "beta two"): 1, ("none", None): 1}
    assert groups(root, key, "tag:env") == {("value", "prod"): 1, ("none", None): 3}
    assert groups(root, key, "tag:run") == {("value", "7"): 1, ("none", None): 3}
    assert groups(root, key, "user") == {("value", "bob"): 2, ("value", "sid"): 1, ("none", None): 1}
    by_model = done(root.get("/usage", params={"team": key.team.id, "by": "model", "step": "day"}))
    by_tag = done(root.get("/usage", params={"team": key.team.id, "by": "tag:project"}))
    assert by_tag["total"]["cost_usd"] == by_model["total"]["cost_usd"]
    tags = done(root.get("/usage/tags", params={"team": key.team.id}))["data"]
    assert {tag["name"]: (tag["values"], tag["requests"]) for tag in tags} == {
        "project": (2, 3),
        "env": (1, 1),
        "run": (1, 1),
    }
    seen = Sent(upstream).of(request_id)
    assert "x-gateway-tags" not in seen.headers
    assert (seen.fields["user"], seen.fields["metadata"]) == ("bob", {"run": "7"})


def test_anthropic_s_clients_name_the_end_user_in_the_metadata(
    gateway: RunningGateway, root: httpx.Client, key: NewKey
) -> None:
    with anthropic.Anthropic(base_url=gateway.url, api_key=key.text, max_retries=0) as client:
        client.messages.create(
            model="a/model",
            max_tokens=10,
            messages=[{"role": "user", "content": "x"}],
            metadata={"user_id": "eve"},
            extra_headers={"x-gateway-tags": "project=alpha"},
        )
    assert groups(root, key, "user") == {("value", "eve"): 1}
    assert groups(root, key, "tag:project") == {("value", "alpha"): 1}
    assert groups(root, key, "tag:user_id") == {("none", None): 1}


def test_a_stream_and_a_websocket_s_header_count_too(gateway: RunningGateway, root: httpx.Client, key: NewKey) -> None:
    with (
        gateway.sdk(key, default_headers={"x-gateway-tags": "project=alpha"}) as client,
        client.responses.create(model="a/model", input="x", stream=True) as stream,
    ):
        list(stream)
    with Socket(gateway.url, key.text, headers={"x-gateway-tags": "project=alpha"}) as socket:
        socket.create(model="a/model", input="x")
        assert socket.events()[-1]["type"] == "response.completed"
    wait_until_sync(lambda: groups(root, key, "tag:project") == {("value", "alpha"): 2}, what="both count")


def test_a_header_that_is_wrong_is_refused_before_anything_is_held(gateway: RunningGateway, key: NewKey) -> None:
    with gateway.http(key) as client:
        answer = client.post(
            "/v1/responses", json={"model": "a/model", "input": "x"}, headers={"x-gateway-tags": "project"}
        )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-gateway-tags")
    assert gateway.balance(key).spent == 0


def test_a_request_shows_its_tags(
    gateway: RunningGateway, root: httpx.Client, key: NewKey, capsys: pytest.CaptureFixture[str]
) -> None:
    request_id = ask(gateway, key, "project=<b>,env=prod", user="bob")

    def shown() -> dict[str, Any]:
        return done(root.get(f"/requests/{request_id}"))

    wait_until_sync(lambda: shown()["tags"] is not None, what="it is written")
    assert (shown()["tags"], shown()["end_user"]) == ({"project": "<b>", "env": "prod"}, "bob")
    told = Shell(gateway, capsys)("requests", "show", request_id)
    assert "project=<b>, env=prod" in told.out
    with signed_in(gateway) as dashboard:
        page = dashboard.get(f"/requests/{request_id}").text
        assert "project=&lt;b&gt;, env=prod" in page


def test_the_command_line_has_tables_and_csv(
    gateway: RunningGateway, key: NewKey, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ask(gateway, key, "project=%3Dalpha", user="bob")
    ask(gateway, key)
    shell, team = Shell(gateway, capsys), ("--team", key.team.id)
    table = shell("usage", *team, "--by", "tag:project")
    assert table.code == 0, table
    assert "TAG:PROJECT" in table.out
    assert f"{key.team.name}/=alpha" in table.out
    assert f"{key.team.name}/(none)" in table.out
    rows = list(csv.DictReader(io.StringIO(shell("usage", *team, "--by", "tag:project", "--csv").out)))
    assert sorted((row["tag"], row["kind"], row["value"], row["requests"]) for row in rows) == [
        ("project", "none", "", "1"),
        ("project", "value", "'=alpha", "1"),
    ]
    users = list(csv.DictReader(io.StringIO(shell("usage", *team, "--by", "user", "--csv").out)))
    assert {(row["kind"], row["value"]) for row in users} == {("none", ""), ("value", "bob")}
    names = shell("usage", *team, "--by", "tags")
    assert set(names.out.split()) >= {"project", "1"}
    assert shell("usage", "--by", "nonsense").code == 2
    assert shell.json("usage", *team, "--by", "user")["groups"][0]["kind"] in ("value", "none")


def test_the_dashboard_shows_tags_and_end_users_and_a_lead_its_own(
    gateway: RunningGateway, root: httpx.Client, key: NewKey
) -> None:
    name = f"p{uuid.uuid4().hex[:8]}"
    ask(gateway, key, f"project={name}", user="<i>bob")
    other = gateway.new_key()
    ask(gateway, other, "secret-project=x")
    with signed_in(gateway, new_admin(root, "team", key.team.id)) as lead:
        users, tagged = lead.get("/attribution").text, lead.get("/attribution?by=tag:project").text
        assert "&lt;i&gt;bob" in users
        assert "<i>bob" not in users
        assert name in tagged
        assert "secret-project" not in tagged
        assert lead.get(f"/attribution?team={other.team.id}").status_code == 403
        (row,) = csv.DictReader(io.StringIO(lead.get("/download/attribution.csv?by=tag:project").text))
        assert row["value"] == name
        assert lead.get("/attribution?by=nonsense").status_code == 400


def test_the_api_says_what_it_does_not_know(root: httpx.Client) -> None:
    assert code_of(root.get("/usage", params={"by": "tag:project", "step": "hour"})) == "invalid_field"
    assert code_of(root.get("/usage", params={"by": "tag:"})) == "invalid_field"
    assert code_of(root.get("/usage", params={"by": "tag:a b"})) == "invalid_field"


def test_end_users_are_hashed_on_request_and_values_are_bounded(
    start: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTRIBUTION_KEY", "k" * 32)
    attribution = {"end_users": "hashed", "hash_key": "env:ATTRIBUTION_KEY", "max_values": 2, "metadata": ["project"]}
    with start(attribution=attribution) as gateway, admin_client(gateway) as root:
        key = gateway.new_key()
        for number in range(4):
            ask(gateway, key, user=f"user-{number}@example.com", metadata={"project": f"p{number}", "run": "1"})
        found = groups(root, key, "user")
        assert sorted(count for _, count in found.items()) == [1, 1, 2]
        assert found["other", None] == 2
        assert "example.com" not in str(found)
        assert groups(root, key, "tag:project") == {("value", "p0"): 1, ("value", "p1"): 1, ("other", None): 2}
        assert groups(root, key, "tag:run") == {("none", None): 4}


def test_turns_that_the_gateway_keeps_and_background_responses_count_once(start: StartGateway) -> None:
    with start(route={"state": "gateway"}) as gateway, admin_client(gateway) as root:
        key = gateway.new_key()
        with gateway.sdk(key, default_headers={"x-gateway-tags": "project=alpha"}) as client:
            first = client.responses.create(model="a/model", input="x", user="bob")
            client.responses.create(model="a/model", input="y", previous_response_id=first.id, metadata={"run": "1"})
            begun = client.responses.create(model="a/model", input="z", background=True, user="bob")
            wait_until_sync(lambda: client.responses.retrieve(begun.id).status == "completed", what="it has ended")
        wait_until_sync(lambda: sum(groups(root, key, "user").values()) == 3, what="all are settled")
        assert groups(root, key, "user") == {("value", "bob"): 2, ("none", None): 1}
        assert groups(root, key, "tag:project") == {("value", "alpha"): 3}
        assert groups(root, key, "tag:run") == {("value", "1"): 1, ("none", None): 2}


def test_what_corrects_an_estimate_counts_where_that_was_counted(
    gateway: RunningGateway, root: httpx.Client, key: NewKey
) -> None:
    with gateway.sdk(key, default_headers={"x-gateway-tags": "project=alpha"}) as client:
        made = client.responses.create(
            model="sim/slow-20", input="x", background=True, max_output_tokens=500, user="bob"
        )
    with gateway.sdk(key) as client:  # who reads it says nothing
        wait_until_sync(lambda: client.responses.retrieve(made.id).usage is not None, what="its usage is seen")
    gateway.wait_until_settled()
    for by, value in (("tag:project", "alpha"), ("user", "bob")):
        (group,) = done(root.get("/usage", params={"team": key.team.id, "by": by}))["groups"]
        assert (group["value"], group["requests"]) == (value, 1)
        assert group["cost_usd"] == format_usd(gateway.balance(key).spent)
    journal = done(root.get(f"/teams/{key.team.id}/journal"))["data"]
    assert len([entry for entry in journal if entry["type"] == "settle"]) == 2


def test_a_day_is_that_of_the_team_s_time_zone(gateway: RunningGateway, root: httpx.Client, key: NewKey) -> None:
    zone = "Pacific/Kiritimati" if datetime.now(UTC).hour >= 11 else "Etc/GMT+12"  # where it is another day just now
    done(root.patch(f"/teams/{key.team.id}", json={"timezone": zone}))
    ask(gateway, key, "project=alpha")
    found = done(root.get("/usage", params={"team": key.team.id, "by": "tag:project"}))
    (row,) = found["data"]
    assert (row["kind"], row["value"], row["requests"]) == ("value", "alpha", 1)
    assert found["timezone"] == zone
    begun = datetime.fromisoformat(row["start"])
    assert begun <= datetime.now(UTC) < begun + timedelta(days=1)
