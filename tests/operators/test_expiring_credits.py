"""Credits that expire: granted, corrected and shown by API, command line and dashboard, and what a client reads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from standardwebhooks.webhooks import Webhook

from gateway.config.sections import LedgerSettings
from gateway.store.keyspace import REAPER_LOCK
from tests.support.admins import admin_client, code_of, done, new_admin, new_team
from tests.support.dashboard_client import signed_in
from tests.support.gateway import RunningGateway, StartGateway, running_gateway
from tests.support.noticing import SECRET
from tests.support.servers import Server
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync
from tests.support.webhook_receiver import webhook_receiver

BODY = {"model": "sim/tokens-900", "input": "x", "max_output_tokens": 910}
FAR, FARTHER = "2199-12-31T00:00:00.000Z", "2199-12-31T06:30:00.000Z"


def grant(root: httpx.Client, team: dict[str, Any], amount: str, expires_at: str | None, **fields: Any) -> Any:
    body = {"kind": "grant", "amount_usd": amount, "expires_at": expires_at, **fields}
    return done(root.post(f"/teams/{team['id']}/credits", json=body))


def new_key(root: httpx.Client, team: dict[str, Any]) -> str:
    key: str = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
    return key


def in_s(seconds: float) -> str:
    """A time as the API writes it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def grant_shortly(root: httpx.Client, team: dict[str, Any], amount: str) -> str:
    """Grants credits that expire within a second, and returns when. Again where the grant takes longer than that."""
    tried: list[str] = []

    def granted() -> bool:
        tried.append(in_s(0.5))
        body = {"kind": "grant", "amount_usd": amount, "expires_at": tried[-1]}
        return root.post(f"/teams/{team['id']}/credits", json=body).is_success

    wait_until_sync(granted, what="the grant comes in time")
    return tried[-1]


def test_they_are_granted_corrected_and_shown_everywhere(
    gateway: RunningGateway, root: httpx.Client, shell: Shell
) -> None:
    team = new_team(root, credits_usd="10")
    for amount, expires in (("2.50", FARTHER), ("5", "2199-12-31"), ("1", FARTHER)):
        assert shell("credits", "grant", team["id"], amount, "--expires", expires, "--note", "promised").code == 0
    adjusted = shell.json("credits", "adjust", team["id"], "-0.50", "--expires", FARTHER)
    expiring = [{"expires_at": FAR, "available_usd": "5"}, {"expires_at": FARTHER, "available_usd": "3"}]
    assert (adjusted["available_usd"], adjusted["expiring"]) == ("18", expiring)
    assert done(root.get(f"/teams/{team['id']}"))["balance"]["expiring"] == expiring
    shown = shell("credits", "show", team["id"]).out
    assert [line.split()[-1] for line in shown.splitlines() if "until" in line] == ["5", "3"]
    assert FARTHER in shown
    with gateway.http(new_key(root, team)) as client:
        assert client.get("/v1/key").json()["team"]["balance"]["expiring"] == expiring
        preview = client.post("/v1/responses", json=BODY, headers={"x-gateway-dry-run": "true"}).json()
        assert preview["team"]["balance"]["expiring"] == expiring
    journal = shell.json("ledger", "journal", team["id"])
    assert [(one["type"], one["amount_usd"], one["expires_at"]) for one in reversed(journal)] == [
        ("grant", "10", None),
        ("grant", "2.5", FARTHER),
        ("grant", "5", FAR),
        ("grant", "1", FARTHER),
        ("adjust", "-0.5", FARTHER),
    ]
    table = shell("ledger", "journal", team["id"]).out
    assert f"promised, until {FAR}" in table
    assert "expired" not in table
    with signed_in(gateway) as dashboard:
        page = dashboard.get(f"/teams/{team['id']}").text
        assert "Credits that expire" in page
        assert page.index("2199-12-31 00:00:00") < page.index("2199-12-31 06:30:00")
        sent = dashboard.send(
            f"/teams/{team['id']}/credits", kind="grant", amount_usd="4", expires_at="2198-01-02T03:04", note="n"
        )
        assert sent.status_code == 303
        assert "until <time" in dashboard.get(f"/teams/{team['id']}/journal").text
        page = dashboard.get(f"/teams/{team['id']}").text
        assert "USD until 2199-12-31 06:30:00: 3.5 → 3<" in page
        assert "USD until 2198-01-02 03:04:00: none → 4<" in page
    first = {"expires_at": "2198-01-02T03:04:00.000Z", "available_usd": "4"}
    assert done(root.get(f"/teams/{team['id']}/credits"))["expiring"] == [first, *expiring]
    assert done(root.get("/ledger/verify", params={"team": team["id"]}))["ok"]


def test_a_form_that_is_refused_keeps_what_was_typed(gateway: RunningGateway, root: httpx.Client) -> None:
    team = new_team(root)
    with signed_in(gateway) as dashboard:
        sent = dashboard.send(
            f"/teams/{team['id']}/credits", kind="grant", amount_usd="4", expires_at="2020-01-02T03:04"
        )
    assert sent.status_code == 400
    assert "2020-01-02T03:04:00.000Z has passed" in sent.text
    assert 'name="expires_at" type="datetime-local" value="2020-01-02T03:04"' in sent.text


@pytest.mark.parametrize(
    ("fields", "param", "why"),
    [
        ({"expires_at": "2020-01-01"}, "expires_at", "has passed"),
        ({"expires_at": "1960-01-01"}, "expires_at", "1970"),
        ({"expires_at": "2199-12-31T00:00:00"}, "expires_at", "time zone"),
        ({"kind": "adjust", "amount_usd": "-1", "expires_at": FAR}, "amount_usd", "0 USD are left"),
    ],
    ids=str,
)
def test_what_can_never_work_is_refused(root: httpx.Client, fields: dict[str, str], param: str, why: str) -> None:
    team = new_team(root)
    answer = root.post(f"/teams/{team['id']}/credits", json={"kind": "grant", "amount_usd": "1", **fields})
    assert code_of(answer) == "invalid_field"
    error = answer.json()["error"]
    assert (error["param"], why in error["message"]) == (param, True), error
    assert done(root.get(f"/teams/{team['id']}/credits"))["expiring"] == []


def test_the_command_line_says_why_a_grant_is_refused(root: httpx.Client, shell: Shell) -> None:
    refused = shell("credits", "grant", new_team(root)["id"], "5", "--expires", "2020-01-01")
    assert (refused.code, "has passed" in refused.err) == (1, True)


def test_how_many_different_expiries_there_may_be_is_a_setting(start: StartGateway) -> None:
    with start(ledger={"max_credit_lots": 2}) as gateway, admin_client(gateway) as root:
        team = new_team(root)
        for expires in (FAR, FARTHER, FAR):
            grant(root, team, "1", expires)
        body = {"kind": "grant", "amount_usd": "1", "expires_at": "2198-01-01"}
        refused = root.post(f"/teams/{team['id']}/credits", json=body)
        assert code_of(refused) == "invalid_field"
        assert "at 2 different times at most" in refused.json()["error"]["message"]


@pytest.mark.parametrize("most", [0, 201])
def test_that_setting_has_bounds(most: int) -> None:
    assert LedgerSettings().max_credit_lots == 32
    with pytest.raises(ValidationError, match="max_credit_lots"):
        LedgerSettings(max_credit_lots=most)


def test_a_lead_reads_them_and_grants_none(gateway: RunningGateway, root: httpx.Client) -> None:
    team = new_team(root)
    grant(root, team, "5", FAR)
    with admin_client(gateway, new_admin(root, "team", team["id"])) as lead:
        assert done(lead.get(f"/teams/{team['id']}/credits"))["expiring"] == [{"expires_at": FAR, "available_usd": "5"}]
        body = {"kind": "grant", "amount_usd": "1", "expires_at": FAR}
        assert code_of(lead.post(f"/teams/{team['id']}/credits", json=body)) == "not_allowed"


def test_a_refusal_says_that_credits_have_expired_until_new_ones_are_granted(
    gateway: RunningGateway, root: httpx.Client, shell: Shell, store: Server
) -> None:
    team = new_team(root, credits_usd="0.001")
    key, place = new_key(root, team), f"/teams/{team['id']}"
    at = grant_shortly(root, team, "2")
    wait_until_sync(
        lambda: done(root.get(f"{place}/credits"))["available_usd"] == "0.001", what="the credits have expired"
    )

    def refusal() -> dict[str, Any]:
        with gateway.http(key) as client:
            refused = client.post("/v1/responses", json=BODY)
        assert refused.status_code == 402
        error: dict[str, Any] = refused.json()["error"]
        assert (error["code"], error["limit"]) == ("insufficient_quota", "credits")
        return error

    def journalled() -> bool:
        store.run("DEL", REAPER_LOCK)
        gateway.services.ledger.upkeep.wake()
        entries = done(root.get(f"{place}/journal", params={"type": "lapse"}))["data"]
        return [(one["amount_usd"], one["expires_at"]) for one in entries] == [("-2", at)]

    first = refusal()
    assert (first["expired_usd"], first["expired_at"], first["available_usd"]) == ("2", at, "0.001")
    assert f"2 USD of its credits expired, the last at {at}." in first["message"]
    wait_until_sync(journalled, what="the expiry is journalled")
    again = refusal()
    assert (again["expired_usd"], again["expired_at"]) == ("2", at)
    assert f"expired {at}" in shell("ledger", "journal", team["id"], "--type", "lapse").out
    with signed_in(gateway) as dashboard:
        assert "credits expired" in dashboard.get(f"{place}/journal").text
        assert "Credits that expire" not in dashboard.get(place).text
    grant(root, team, "0.000001", None)
    after = refusal()
    assert "expired_usd" not in after
    assert "expired" not in after["message"]
    assert done(root.get("/ledger/verify", params={"team": team["id"]}))["ok"]


def test_a_recipient_is_told_before_they_expire(
    upstream: str, own_store: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPS_SECRET", SECRET)
    with webhook_receiver() as receiver:
        ops = {"webhook": receiver.url, "secrets": ["env:OPS_SECRET"], "days_left": [7]}
        with (
            running_gateway(
                own_store.url, upstream, tmp_path, recipients={"ops": ops}, notices={"every_s": 0.2, "retry_s": 0.2}
            ) as gateway,
            admin_client(gateway) as root,
        ):
            team = new_team(root)
            grant(root, team, "1", FAR)
            at = in_s(2 * 86_400 - 3600)
            grant(root, team, "2.5", at)
            wait_until_sync(lambda: bool(receiver.requests), what="the notice is sent")
            [sent] = receiver.requests
            said = Webhook(SECRET).verify(sent.body, sent.headers)
            assert said["type"] == "credits.expiring"
            text = f"Team {team['name']} has 2.5 USD of credits that expire within 2 days, at {at}."
            assert said["data"]["text"] == text
            assert (said["data"]["expiring_usd"], said["data"]["expires_at"]) == ("2.5", at)
            [row] = done(root.get("/notices"))["data"]
            assert (row["type"], row["team_id"]) == ("credits.expiring", team["id"])
