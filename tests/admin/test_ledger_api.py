"""What became of a request, the journal and its verification, by the admin API and by `gateway ledger`."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.store.keyspace import TeamKeys
from tests.admin.test_teams import ASK, create, error
from tests.support.admins import admin_client
from tests.support.gateway import ADMIN_KEY, RunningGateway, running_gateway
from tests.support.ledgers import expire_hold
from tests.support.program import Ended, run
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync


@pytest.fixture
def team(admin: httpx.Client, new_name: Callable[[], str]) -> Any:
    return create(admin, new_name(), credits_usd="5")


@pytest.fixture
def key(admin: httpx.Client, team: Any) -> str:
    made = admin.post(f"/teams/{team['id']}/keys", json={"name": "k"}).json()["key"]
    assert isinstance(made, str)
    return made


def entries(admin: httpx.Client, team: Any, **params: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = admin.get(f"/teams/{team['id']}/journal", params=params).json()["data"]
    return found


def ledger(gateway: RunningGateway, cwd: Path, *words: str) -> Ended:
    return run("ledger", *words, cwd=cwd, env={"GATEWAY_URL": gateway.url, "GATEWAY_ADMIN_KEY": ADMIN_KEY})


def test_a_request_is_shown_with_how_it_was_settled(
    admin: httpx.Client, gateway: RunningGateway, team: Any, key: str
) -> None:
    with gateway.http(key) as client:
        answer = client.post("/v1/responses", json=ASK)
        failed = client.post("/v1/responses", json={**ASK, "model": "sim/error-500"})
    request_id, usage = answer.headers["x-request-id"], answer.json()["usage"]
    wait_until_sync(lambda: len(entries(admin, team)) == 3, what="both are settled")
    for params in ({}, {"team": team["name"]}):
        shown = admin.get(f"/requests/{request_id}", params=params).json()
        assert (shown["object"], shown["state"], shown["settled_by"]) == ("request", "settled", "usage")
        assert shown["team_id"] == team["id"]
        assert shown["entry"]["usage"]["output_tokens"] == usage["output_tokens"]
        assert shown["entry"]["amount_usd"] == f"-{shown['cost_usd']}"
        assert (shown["entry"]["model"], shown["entry"]["outcome"]) == ("sim/echo", "completed")
    voided = admin.get(f"/requests/{failed.headers['x-request-id']}").json()
    assert (voided["state"], voided["cost_usd"], voided["entry"]["outcome"]) == ("voided", "0", "upstream_refused")
    assert error(admin.get("/requests/req_nobody"))[:2] == (404, "request_not_found")
    assert error(admin.get("/requests/req_nobody", params={"team": team["id"]}))[:2] == (404, "request_not_found")


def test_a_request_that_runs_is_shown_as_running(
    admin: httpx.Client, gateway: RunningGateway, team: Any, key: str
) -> None:
    body = {**ASK, "model": "sim/slow-50", "stream": True}
    with gateway.http(key) as client, client.stream("POST", "/v1/responses", json=body) as stream:
        shown = admin.get(f"/requests/{stream.headers['x-request-id']}").json()
        assert (shown["state"], shown["team_id"]) == ("running", team["id"])
        assert shown["hold_tokens"] > 0
        assert admin.get(f"/teams/{team['id']}").json()["balance"]["held_usd"] == shown["hold_usd"]


def test_a_request_whose_gateway_died_is_found_by_its_team(
    admin: httpx.Client, gateway: RunningGateway, team: Any, key: str
) -> None:
    body = {**ASK, "model": "sim/slow-50", "stream": True}
    with gateway.http(key) as client, client.stream("POST", "/v1/responses", json=body) as stream:
        request_id = stream.headers["x-request-id"]

        gateway.run(expire_hold(gateway.services.store, team["id"], request_id))
        assert admin.get(f"/teams/{team['id']}/credits").json()["held_usd"] == "0"
        shown = admin.get(f"/requests/{request_id}", params={"team": team["id"]}).json()
        assert (shown["state"], shown["settled_by"], shown["cost_usd"]) == ("expired", "expired", "0")


def test_the_journal_comes_in_pages_and_by_period(admin: httpx.Client, team: Any) -> None:
    place = f"/teams/{team['id']}"
    for amount in ("1", "-2", "3"):
        admin.post(f"{place}/credits", json={"kind": "adjust", "amount_usd": amount, "note": f"by {amount}"})
    every = entries(admin, team)
    assert [entry["amount_usd"] for entry in every] == ["5", "1", "-2", "3"]
    assert [entry["balance_usd"] for entry in every] == ["5", "6", "4", "7"]
    assert (every[1]["note"], every[1]["request_id"], every[1]["usage"]) == ("by 1", None, None)
    first = admin.get(f"{place}/journal", params={"limit": 3}).json()
    second = admin.get(f"{place}/journal", params={"limit": 3, "after": first["next"]}).json()
    assert first["data"] + second["data"] == every
    assert second["next"] is None
    assert entries(admin, team, **{"from": "2099-01-01"}) == []
    assert entries(admin, team, **{"from": every[0]["at"], "to": "2099-01-01T00:00:00+02:00"}) == every
    assert entries(admin, team, to=every[0]["at"]) == []
    for name, value in (("from", "last week"), ("to", "2026-13-01"), ("after", "x")):
        assert error(admin.get(f"{place}/journal", params={name: value})) == (400, "invalid_field", name)


def test_true_books_verify_and_false_ones_are_named(own_store: Server, upstream: str, tmp_path: Path) -> None:
    """On a store of its own: others write books on the shared one that do not agree."""
    with running_gateway(own_store.url, upstream, tmp_path) as gateway, admin_client(gateway) as admin:
        team = create(admin, "books", credits_usd="5")
        verify_true_and_false_books(gateway, admin, team, tmp_path)


def verify_true_and_false_books(gateway: RunningGateway, admin: httpx.Client, team: Any, tmp_path: Path) -> None:
    found = admin.get("/ledger/verify", params={"team": team["id"]}).json()
    assert found["ok"]
    assert found["data"][0] == {
        "object": "verification",
        "team_id": team["id"],
        "team_name": team["name"],
        "ok": True,
        "entries": 1,
        "complete": True,
        "differences": [],
    }
    assert ledger(gateway, tmp_path, "verify", team["name"]).code == 0
    everybody = ledger(gateway, tmp_path, "verify")
    assert (everybody.code, everybody.err) == (0, "")

    async def move(amount: str) -> None:
        await gateway.services.store.run("HINCRBY", TeamKeys(team["id"]).state, "held", amount)

    gateway.run(move("7"))
    try:
        wrong = admin.get("/ledger/verify", params={"team": team["id"]}).json()
        assert not wrong["ok"]
        assert {"name": "held", "expected": 0, "found": 7, "entry_id": None} in wrong["data"][0]["differences"]
        told = ledger(gateway, tmp_path, "verify", team["name"])
        assert (told.code, "held" in told.out) == (1, True)
        assert "do not agree" in told.err
        as_json = ledger(gateway, tmp_path, "verify", "--json")
        assert as_json.code == 1
        assert [one["ok"] for one in map(json.loads, as_json.out.splitlines())].count(False) == 1
    finally:
        gateway.run(move("-7"))


def test_the_journal_is_exported_as_json_lines_and_csv(
    admin: httpx.Client, gateway: RunningGateway, team: Any, key: str, tmp_path: Path
) -> None:
    with gateway.http(key) as client:
        client.post("/v1/responses", json=ASK)
    wait_until_sync(lambda: len(entries(admin, team)) == 2, what="the request is settled")
    admin.post(f"/teams/{team['id']}/credits", json={"kind": "adjust", "amount_usd": "-1", "note": "=1+1"})
    expected = entries(admin, team)
    lines = ledger(gateway, tmp_path, "export", team["name"])
    assert (lines.code, lines.err) == (0, "")
    owner = {"team_id": team["id"], "team": team["name"]}
    assert [json.loads(line) for line in lines.out.splitlines()] == [{**owner, **entry} for entry in expected]
    written = ledger(gateway, tmp_path, "export", team["name"], "--format", "csv", "--output", "journal.csv")
    assert (written.code, written.out) == (0, "")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "journal.csv").read_text(encoding="utf-8"))))
    assert [row["amount_usd"] for row in rows] == [entry["amount_usd"] for entry in expected]
    assert rows[1]["output_tokens"] == str(expected[1]["usage"]["output_tokens"])
    assert rows[2]["note"] == "'=1+1", "no spreadsheet runs it"
    nothing = ledger(gateway, tmp_path, "export", team["name"], "--from", "2099-01-01")
    assert (nothing.code, nothing.out) == (0, "")
    assert ledger(gateway, tmp_path, "export", "nobody").code == 1
    unwritable = ledger(gateway, tmp_path, "export", team["name"], "--output", "nowhere/journal.csv")
    assert (unwritable.code, "cannot be written" in unwritable.err) == (1, True)
