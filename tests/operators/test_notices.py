"""Notices as operators see them: the admin API, the command line, the dashboard, the metrics, and two workers."""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from tests.operators.test_reload import File
from tests.support.admins import admin_client, code_of, done, new_admin, new_team
from tests.support.dashboard_client import signed_in
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.noticing import SECRET
from tests.support.program import started
from tests.support.servers import Server, valkey_server
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync
from tests.support.webhook_receiver import Received, WebhookReceiver, webhook_receiver

NAMES = {"OPS_SECRET": SECRET}


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with webhook_receiver() as running:
        yield running


@pytest.fixture
def store() -> Iterator[Server]:
    """What waits to be sent is one list for the whole store."""
    with valkey_server() as server:
        yield server


@pytest.fixture
def gateway(
    store: Server, upstream: str, receiver: WebhookReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningGateway]:
    monkeypatch.setenv("OPS_SECRET", SECRET)
    monkeypatch.setenv("OPS_URL", f"{receiver.url}/secret-path?token=secret")
    ops = {"webhook": "env:OPS_URL", "secrets": ["env:OPS_SECRET"], "balance_below_usd": ["5"]}
    recipients = {"ops": ops, "down": {"webhook": "http://127.0.0.1:1/x", "form": "slack", "teams": ["nobody"]}}
    with running_gateway(
        store.url, upstream, tmp_path, recipients=recipients, notices={"every_s": 0.2, "retry_s": 0.2}
    ) as running:
        yield running


@pytest.fixture
def root(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with admin_client(gateway) as client:
        yield client


def test_a_team_s_balance_is_noticed_and_shown_without_a_secret(
    gateway: RunningGateway, root: httpx.Client, receiver: WebhookReceiver
) -> None:
    team = new_team(root, credits_usd="4")
    new_team(root, credits_usd="40")

    def found() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = done(root.get("/notices"))["data"]
        return [row for row in rows if row["state"] == "sent"]

    wait_until_sync(lambda: bool(found()), what="the notice is sent")
    [row] = found()
    assert (row["recipient"], row["type"], row["team_id"]) == ("ops", "balance.low", team["id"])
    assert row["text"] == f"Team {team['name']} has 4 USD of credits left, less than 5 USD."
    [sent] = receiver.requests
    assert sent.path == "/secret-path?token=secret"
    assert Webhook(SECRET).verify(sent.body, sent.headers)["data"]["balance_usd"] == "4"
    shown = root.get("/notices").text
    assert done(root.get("/notices"))["recipients"][0]["webhook"] == f"{receiver.url}/…"
    assert "secret-path" not in shown
    assert SECRET not in shown
    metrics = httpx.get(f"{gateway.url}/metrics").text
    assert 'gateway_notices_total{recipient="ops",result="sent"} 1' in metrics
    assert "gateway_notices_waiting 0" in metrics


@pytest.mark.parametrize(
    "budget",
    ["budget_tokens_total", "budget_tokens_week", "budget_tokens_total@SIM/*", "budget_tokens_7d@sim/tokens-900"],
)
def test_a_key_s_budget_that_refuses_requests_is_noticed(
    gateway: RunningGateway, root: httpx.Client, receiver: WebhookReceiver, budget: str
) -> None:
    key = gateway.new_key(key_limits={budget: 1000})
    with gateway.http(key) as client:
        body = {"model": "sim/tokens-900", "input": "x", "max_output_tokens": 910}
        assert client.post("/v1/responses", json=body).status_code == 200
        assert client.post("/v1/responses", json=body).status_code == 402

    def thresholds() -> list[int]:
        return [sent.json["data"].get("threshold_percent") for sent in receiver.requests]

    wait_until_sync(lambda: 100 in thresholds(), what="it is noticed that the budget refuses")
    sent = receiver.requests[thresholds().index(100)]
    assert (sent.json["data"]["key"]["id"], sent.json["data"]["budget"]) == (key.id, budget)
    assert f"% of {budget}: " in sent.json["data"]["text"]
    assert "Requests are refused because of it." in sent.json["data"]["text"]


def test_the_command_line_lists_and_tests(
    gateway: RunningGateway,
    receiver: WebhookReceiver,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = Shell(gateway, capsys)
    listed = shell("notices", "list")
    assert listed.code == 0
    assert re.search(r"ops +http://127\.0\.0\.1:\d+/… +\* +50, 80, 100 +5 +7, 1", listed.out)
    assert shell.json("notices", "test", "ops") == [
        {"object": "notice_test", "recipient": "ops", "sent": True, "error": None}
    ]
    assert Webhook(SECRET).verify(receiver.requests[-1].body, receiver.requests[-1].headers)["type"] == "test"
    both = shell("notices", "test")
    assert both.code == 1
    assert "the test did not reach down" in both.err
    assert "Connect call failed" in both.out
    unknown = shell("notices", "test", "nobody")
    assert (unknown.code, "configured: ops, down" in unknown.err) == (1, True)


def test_the_dashboard_shows_what_failed_and_sends_a_test(
    gateway: RunningGateway, root: httpx.Client, receiver: WebhookReceiver
) -> None:
    receiver.answers = [500]
    name = f"<b>{uuid.uuid4().hex}"
    new_team(root, name=name, credits_usd="1")
    wait_until_sync(lambda: bool(receiver.requests), what="it is tried")
    with signed_in(gateway) as dashboard:
        wait_until_sync(lambda: "status 500: said" in dashboard.get("/notices").text, what="the page says why")
        page = dashboard.get("/notices").text
        assert "&lt;b&gt;" in page
        assert "<b>" not in page
        assert "status 500: said" in dashboard.send("/notices/test", recipient="ops").text
        assert name in dashboard.get("/download/notices.csv").text
        receiver.answers = [200]
        assert "The test reached ops." in dashboard.send("/notices/test", recipient="ops").text


def test_a_lead_neither_sees_recipients_nor_sends_to_them(
    gateway: RunningGateway, root: httpx.Client, receiver: WebhookReceiver
) -> None:
    team = new_team(root)
    lead, reader = new_admin(root, "team", team["id"]), new_admin(root, "read")
    with admin_client(gateway, lead) as client:
        assert code_of(client.get("/notices")) == "not_allowed"
        assert code_of(client.post("/notices/test", json={"recipient": "ops"})) == "not_allowed"
    with admin_client(gateway, reader) as client:
        assert done(client.get("/notices"))["recipients"]
        assert code_of(client.post("/notices/test", json={"recipient": "ops"})) == "not_allowed"
    assert receiver.requests == []


def test_a_reload_changes_the_recipients(
    store: Server, upstream: str, tmp_path: Path, receiver: WebhookReceiver
) -> None:
    file = File(store, upstream, tmp_path)
    with (
        running_gateway(store.url, upstream, tmp_path, load=file.load, notices={"every_s": 0.2}) as gateway,
        admin_client(gateway) as root,
    ):
        new_team(root, credits_usd="1")
        file.sections = {
            "notices": {"every_s": 0.3},
            "recipients": {"chat": {"webhook": receiver.url, "form": "slack", "balance_below_usd": ["2"]}},
        }
        assert done(root.post("/config/reload"))["changed"] == ["notices", "recipients"]
        wait_until_sync(lambda: bool(receiver.requests), what="the new recipient is told")
        file.sections = {}
        done(root.post("/config/reload"))
        assert done(root.get("/notices"))["recipients"] == []


CONFIG = """
[server]
port = 0
workers = 2
[store]
url = "{store}"
accept_data_loss = true
data_dir = "{data}"
[admin]
key = "env:GATEWAY_ADMIN_KEY"
[upstreams.one]
base_url = "{upstream}"
api_keys = ["env:PROVIDER_KEY"]
[[routes]]
model = "*"
upstreams = ["one"]
[prices."*"]
input = "1"
output = "1"
[notices]
every_s = 0.2
timeout_s = 2
[recipients.ops]
webhook = "{webhook}"
secrets = ["env:OPS_SECRET"]
balance_below_usd = ["5"]
"""
ENV = {"GATEWAY_ADMIN_KEY": "admin-key-of-32-characters-at-least", "PROVIDER_KEY": "key", **NAMES}


@pytest.mark.timeout(180)
def test_when_the_workers_are_killed_between_sending_and_noting_their_successors_send_under_the_same_id(
    store: Server, upstream: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.toml"
    values = {"store": store.url, "data": str(tmp_path / "data"), "upstream": upstream, "webhook": receiver.url}
    path.write_text(CONFIG.format(**values), encoding="utf-8")
    workers: list[int] = []

    def kill(_: Received) -> None:
        while workers:
            os.kill(workers.pop(), signal.SIGKILL)

    with started("serve", "--config", str(path), cwd=tmp_path, env=ENV) as program:
        url = re.findall(r"Gateway: (http://\S+)/v1", program.wait_for("Gateway: http://"))[-1]
        headers = {"authorization": f"Bearer {ENV['GATEWAY_ADMIN_KEY']}"}
        with httpx.Client(base_url=f"{url}/admin/v1", headers=headers, timeout=20) as root:

            def running() -> list[int]:
                try:
                    return [worker["pid"] for worker in done(root.get("/config"))["workers"]]
                except httpx.TransportError:
                    return []

            wait_until_sync(lambda: len(running()) == 2, timeout_s=90, what="both workers report")
            workers += running()
            receiver.before_answer = kill
            new_team(root, credits_usd="1")
            wait_until_sync(lambda: len(receiver.requests) >= 2, timeout_s=90, what="a successor sends it again")

            def states() -> list[str]:
                try:
                    return [row["state"] for row in done(root.get("/notices"))["data"]]
                except httpx.TransportError:
                    return []

            wait_until_sync(lambda: states() == ["sent"], what="it is noted")
    assert len({(sent.id, sent.body) for sent in receiver.requests}) == 1
    for sent in receiver.requests:
        Webhook(SECRET).verify(sent.body, sent.headers)
