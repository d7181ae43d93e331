"""Deleting teams and keys: they end at once and for good, their names are free, and the books stay."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.admins import admin_client, code_of, done, new_admin, new_team
from tests.support.dashboard_client import signed_in
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.servers import Server
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync

ASK = {"model": "sim/echo", "input": "x"}


@pytest.fixture
def admin(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with admin_client(gateway) as client:
        yield client


@pytest.fixture
def team(admin: httpx.Client) -> dict[str, Any]:
    return new_team(admin)


@pytest.fixture
def shell(
    gateway: RunningGateway, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(gateway, capsys)


def new_key(admin: httpx.Client, team: dict[str, Any], name: str = "k") -> dict[str, Any]:
    return done(admin.post(f"/teams/{team['id']}/keys", json={"name": name}))


def status_of(gateway: RunningGateway, key: str) -> int:
    with gateway.http(key) as client:
        return client.post("/v1/responses", json=ASK).status_code


def test_a_deleted_team_is_refused_by_every_worker_and_its_books_stay(
    gateway: RunningGateway, store: Server, upstream: str, tmp_path: Path, admin: httpx.Client, team: dict[str, Any]
) -> None:
    key = new_key(admin, team)
    with running_gateway(store.url, upstream, tmp_path) as other:
        assert [status_of(worker, key["key"]) for worker in (gateway, other)] == [200, 200]
        deleted = done(admin.delete(f"/teams/{team['name']}", headers={"if-match": f'"{team["version"]}"'}))
        assert (deleted["id"], deleted["status"]) == (team["id"], "archived")
        assert [status_of(worker, key["key"]) for worker in (gateway, other)] == [401, 401]
    assert code_of(admin.get(f"/teams/{team['name']}")) == "team_not_found"
    assert done(admin.get(f"/teams/{team['id']}"))["status"] == "archived"
    journal = done(admin.get(f"/teams/{team['id']}/journal"))["data"]
    assert [entry["type"] for entry in journal].count("settle") == 2
    wait_until_sync(lambda: done(admin.get("/audit", params={"team": team["id"]}))["data"])
    newest = done(admin.get("/audit", params={"team": team["id"]}))["data"][0]
    assert (newest["action"], newest["before"]["status"], newest["after"]["status"]) == (
        "DELETE /teams/{team}",
        "active",
        "archived",
    )
    verified = done(admin.get("/ledger/verify", params={"team": team["id"]}))
    assert verified["ok"]
    assert done(admin.delete(f"/teams/{team['id']}"))["version"] == deleted["version"], "a repeat changes nothing"


def test_the_name_of_a_deleted_team_is_free_and_no_repeat_takes_it_back(admin: httpx.Client) -> None:
    name, once = f"team {uuid.uuid4().hex}", {"idempotency-key": uuid.uuid4().hex}
    first = done(admin.post("/teams", json={"name": name}, headers=once))
    done(admin.delete(f"/teams/{first['id']}"))
    second = done(admin.post("/teams", json={"name": name}))
    assert second["id"] != first["id"]
    assert done(admin.post("/teams", json={"name": name}, headers=once))["status"] == "archived"
    assert done(admin.get(f"/teams/{name}"))["id"] == second["id"]
    assert code_of(admin.patch(f"/teams/{first['id']}", json={"name": f"{name} again"})) == "not_allowed"
    assert code_of(admin.patch(f"/teams/{first['id']}", json={"status": "active"})) == "not_allowed"


def test_a_deleted_team_gets_no_keys_and_no_credits(admin: httpx.Client, team: dict[str, Any]) -> None:
    key = new_key(admin, team)
    done(admin.delete(f"/teams/{team['id']}"))
    assert code_of(admin.post(f"/teams/{team['id']}/keys", json={"name": "k"})) == "not_allowed"
    grant = {"kind": "grant", "amount_usd": "1"}
    assert code_of(admin.post(f"/teams/{team['id']}/credits", json=grant)) == "not_allowed"
    taken = {"kind": "adjust", "amount_usd": "-1"}
    assert done(admin.post(f"/teams/{team['id']}/credits", json=taken))["granted_usd"] == "9", "the books can be closed"
    assert done(admin.get(f"/keys/{key['id']}"))["team_id"] == team["id"]


def test_lists_show_what_has_ended_only_where_it_is_asked_for(admin: httpx.Client) -> None:
    teams = [new_team(admin) for _ in range(3)]
    done(admin.delete(f"/teams/{teams[1]['id']}"))

    def listed(path: str, **query: str) -> list[str]:
        found: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = done(admin.get(path, params={"limit": "1", **query, **after}))
            found += [row["id"] for row in page["data"]]
            if page["next"] is None:
                return found
            after = {"after": page["next"]}

    ids = [team["id"] for team in teams]
    assert [found for found in listed("/teams") if found in ids] == [ids[0], ids[2]]
    assert [found for found in listed("/teams", all="true") if found in ids] == ids
    path = f"/teams/{ids[0]}/keys"
    keys = [new_key(admin, teams[0])["id"] for _ in range(4)]
    done(admin.patch(f"{path}/{keys[0]}", json={"status": "revoked"}))
    done(admin.delete(f"{path}/{keys[1]}"))
    done(admin.patch(f"{path}/{keys[2]}", json={"status": "disabled"}))
    assert listed(path) == keys[2:]
    assert listed(path, all="true") == keys


def test_a_key_is_deleted_for_good_whatever_it_was_before(
    gateway: RunningGateway, admin: httpx.Client, team: dict[str, Any]
) -> None:
    path = f"/teams/{team['id']}/keys"
    for status in ("active", "disabled", "revoked"):
        key = new_key(admin, team)
        done(admin.patch(f"{path}/{key['id']}", json={"status": status}))
        assert code_of(admin.delete(f"{path}/{key['id']}", headers={"if-match": '"99"'})) == "version_mismatch"
        assert done(admin.delete(f"{path}/{key['id']}"))["status"] == "archived"
        assert status_of(gateway, key["key"]) == 401
        for body in ({"status": "active"}, {"status": "revoked"}, {"name": "other"}):
            assert code_of(admin.patch(f"{path}/{key['id']}", json=body)) == "not_allowed"
        assert code_of(admin.post(f"{path}/{key['id']}/rotate", json={})) == "not_allowed"


def test_a_lead_deletes_keys_of_the_team_and_no_team(
    gateway: RunningGateway, admin: httpx.Client, team: dict[str, Any]
) -> None:
    key, other = new_key(admin, team), new_team(admin)
    done(admin.patch(f"/teams/{team['id']}/keys/{key['id']}", json={"status": "disabled"}))
    foreign = new_key(admin, other)
    with admin_client(gateway, new_admin(admin, "team", team["id"])) as lead:
        assert code_of(lead.delete(f"/teams/{team['id']}")) == "not_allowed"
        assert code_of(lead.delete(f"/teams/{other['id']}/keys/{foreign['id']}")) == "not_allowed"
        assert done(lead.delete(f"/teams/{team['id']}/keys/{key['id']}"))["status"] == "archived"


def test_a_request_that_runs_while_its_team_is_deleted_is_settled(
    gateway: RunningGateway, admin: httpx.Client, team: dict[str, Any]
) -> None:
    key = new_key(admin, team)
    slow = {"model": "sim/slow-50", "input": "one two three four five six", "stream": True}
    with gateway.http(key["key"]) as client, client.stream("POST", "/v1/responses", json=slow) as answer:
        assert answer.status_code == 200
        done(admin.delete(f"/teams/{team['id']}"))
        assert "response.completed" in answer.read().decode()

    def balance() -> dict[str, str]:
        found: dict[str, str] = done(admin.get(f"/teams/{team['id']}"))["balance"]
        return found

    wait_until_sync(lambda: balance()["held_usd"] == "0")
    assert float(balance()["spent_usd"]) > 0


def test_the_command_line_asks_and_deletes(shell: Shell, admin: httpx.Client, team: dict[str, Any]) -> None:
    first, second = (new_key(admin, team, "laptop") for _ in range(2))
    assert shell("keys", "delete", first["id"]).code == 2, "it asks first"
    assert shell.json("keys", "delete", first["id"], "--yes")["status"] == "archived"
    assert shell.json("keys", "show", f"{team['name']}/laptop")["id"] == second["id"], "the label is free"
    assert [key["id"] for key in shell.json("keys", "list", team["name"])] == [second["id"]]
    assert len(shell.json("keys", "list", team["name"], "--all")) == 2
    assert shell.json("keys", "revoke", f"{team['name']}/laptop", "--yes")["id"] == second["id"]
    assert "2 keys named" in shell("keys", "show", f"{team['name']}/laptop").err
    assert shell("teams", "delete", team["name"]).code == 2
    assert shell.json("teams", "delete", team["name"], "--yes")["status"] == "archived"
    assert team["name"] not in [found["name"] for found in shell.json("teams", "list")]
    assert "archived" in shell("teams", "list", "--all").out
    assert shell("teams", "show", team["name"]).code == 1
    assert "archived" in shell("teams", "show", team["id"]).out
    assert "grant" in shell("ledger", "journal", team["id"]).out


def test_the_dashboard_asks_for_the_name_and_hides_what_has_ended(
    gateway: RunningGateway, admin: httpx.Client, team: dict[str, Any]
) -> None:
    key = new_key(admin, team, "laptop")
    page = f"/teams/{team['id']}"
    with signed_in(gateway) as dashboard:
        refused = dashboard.send(f"{page}/keys/{key['id']}/status", status="archived", confirm="no")
        assert (refused.status_code, "type its name: laptop" in refused.text) == (400, True)
        assert dashboard.send(f"{page}/keys/{key['id']}/status", status="archived", confirm="laptop").is_redirect
        assert key["id"] not in dashboard.get(page).text
        assert key["id"] in dashboard.get(f"{page}?all=1").text
        assert dashboard.send(f"{page}/delete", confirm="no").status_code == 400
        answer = dashboard.send(f"{page}/delete", confirm=team["name"])
        assert answer.headers["location"] == f"/dashboard{page}?done=deleted"
        shown = dashboard.get(f"{page}?done=deleted").text
        assert "deleted for good" in shown
        assert "Make the key" not in shown
        assert team["name"] not in dashboard.get("/teams").text
        assert team["name"] in dashboard.get("/teams?all=1").text
