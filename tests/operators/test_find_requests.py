"""Requests are found from what a user has, and listed by what an operator asks for."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from gateway.cli import output
from tests.support.admins import admin_client, code_of, done, new_admin, new_team
from tests.support.dashboard_client import signed_in
from tests.support.gateway import RunningGateway
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync


@pytest.fixture
def admin(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with admin_client(gateway) as client:
        yield client


@pytest.fixture
def shell(
    gateway: RunningGateway, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(gateway, capsys)


class Traffic:
    """A team with two keys: one answered, one answered as a stream, one that its upstream refuses, one refused here."""

    def __init__(self, gateway: RunningGateway, admin: httpx.Client) -> None:
        self.team = new_team(admin)
        path = f"/teams/{self.team['id']}/keys"
        self.keys = [done(admin.post(path, json={"name": name})) for name in ("laptop", "server")]
        self.answers = [
            self._send(gateway, 0, model="a/one"),
            self._send(gateway, 1, model="a/two", stream=True),
            self._send(gateway, 0, model="sim/error-404"),
        ]
        done(admin.patch(f"{path}/{self.keys[1]['id']}", json={"models": ["a/*"]}))
        self.answers.append(self._send(gateway, 1, model="b/one"))
        self.ids = [answer.headers["x-request-id"] for answer in self.answers]

        def listed() -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = done(admin.get("/requests", params={"team": self.team["id"]}))["data"]
            return rows

        wait_until_sync(lambda: len(listed()) == 4 and all(row["timings"] for row in listed()), what="all is reported")

    def _send(self, gateway: RunningGateway, key: int, **fields: Any) -> httpx.Response:
        with gateway.http(self.keys[key]["key"]) as client:
            return client.post("/v1/responses", json={"input": "hello", **fields})


@pytest.fixture(scope="module")
def traffic(gateway: RunningGateway) -> Traffic:
    with admin_client(gateway) as admin:
        return Traffic(gateway, admin)


def test_a_request_is_found_from_what_its_client_has(admin: httpx.Client, traffic: Traffic) -> None:
    answer, wanted = traffic.answers[0], traffic.ids[0]
    found: dict[str, Any] = {}
    names = [wanted, wanted.removeprefix("req_"), answer.json()["id"], answer.headers["x-upstream-request-id"]]
    for name in names:
        for query in ({}, {"team": traffic.team["id"]}):
            found = done(admin.get(f"/requests/{name}", params=query))
            assert found["id"] == wanted, name
    assert (found["team"], found["key"], found["client"]) == (traffic.team["name"], "laptop", "127.0.0.1")
    assert (found["asked_model"], found["answered_model"]) == ("a/one", answer.json()["model"])
    assert (found["status"], found["response_id"]) == (200, answer.json()["id"])
    assert found["upstream_request_id"] == answer.headers["x-upstream-request-id"]
    assert found["entry"]["bill"]["lines"]
    assert list(found["timings"])[-1] == "total_ms"
    assert [one["upstream"] for one in found["tried"]] == ["simulator"]


def test_a_streamed_request_is_found_by_its_response(admin: httpx.Client, traffic: Traffic) -> None:
    (response_id,) = set(re.findall(r'"id":\s*"(resp_\w+)"', traffic.answers[1].text))
    assert done(admin.get(f"/requests/{response_id}"))["id"] == traffic.ids[1]


def test_a_response_is_found_when_only_the_journal_has_it(
    gateway: RunningGateway, admin: httpx.Client, store: Any
) -> None:
    team = new_team(admin)
    key = done(admin.post(f"/teams/{team['id']}/keys", json={"name": "k"}))
    with gateway.http(key["key"]) as client:
        answer = client.post("/v1/responses", json={"model": "a/b", "input": "x"})
    place = f"/requests/{answer.json()['id']}"
    wait_until_sync(lambda: admin.get(place).is_success)
    wait_until_sync(lambda: done(admin.get(place))["timings"] is not None, what="the timings are written")
    for name in store.run("KEYS", f"gw:{{{team['id']}}}:*"):
        if b":timings" in name or b":response:" in name:
            store.run("DEL", name)
    found = done(admin.get(place))
    assert (found["id"], found["upstream_response_id"]) == (answer.headers["x-request-id"], answer.json()["id"])


def test_a_refusal_and_a_failure_carry_their_own_times(admin: httpx.Client, traffic: Traffic) -> None:
    refused = done(admin.get(f"/requests/{traffic.ids[3]}"))
    assert (refused["state"], refused["status"], refused["client"]) == ("refused", 403, "127.0.0.1")
    assert refused["timings"]["total_ms"] > 0
    assert refused["asked_model"] == "b/one"
    failed = done(admin.get(f"/requests/{traffic.ids[2]}"))
    assert (failed["state"], failed["status"], failed["upstream"]) == ("voided", 404, "simulator")


def test_nobody_finds_a_request_of_another_team(gateway: RunningGateway, admin: httpx.Client, traffic: Traffic) -> None:
    with admin_client(gateway, new_admin(admin, "team", new_team(admin)["id"])) as lead:
        for name in (traffic.ids[0], traffic.answers[0].json()["id"]):
            assert code_of(lead.get(f"/requests/{name}")) == "request_not_found"


LISTS: list[tuple[dict[str, str], list[int]]] = [
    ({}, [3, 2, 1, 0]),
    ({"key": "laptop"}, [2, 0]),
    ({"model": "a/two"}, [1]),
    ({"model": "a/*"}, [1, 0]),
    ({"model": "a/*", "key": "laptop"}, [0]),
    ({"status": "403"}, [3]),
    ({"status": "4xx"}, [3, 2]),
    ({"status": "200"}, [1, 0]),
    ({"outcome": "refused", "status": "200"}, []),
    ({"outcome": "completed"}, [1, 0]),
    ({"from": "2100-01-01"}, []),
    ({"to": "2100-01-01"}, [3, 2, 1, 0]),
    ({"to": "2001-01-01"}, []),
]


@pytest.mark.parametrize(("asked", "expected"), LISTS, ids=str)
def test_requests_are_listed_by_what_is_asked_for(
    admin: httpx.Client, traffic: Traffic, asked: dict[str, str], expected: list[int]
) -> None:
    page = done(admin.get("/requests", params={"team": traffic.team["id"], **asked}))
    assert [traffic.ids.index(row["id"]) for row in page["data"]] == expected


def test_requests_are_listed_by_their_ids_and_between_times(admin: httpx.Client, traffic: Traffic) -> None:
    def listed(**asked: str) -> list[int]:
        rows = done(admin.get("/requests", params={"team": traffic.team["id"], **asked}))["data"]
        return [traffic.ids.index(row["id"]) for row in rows]

    assert listed(id=traffic.ids[1][:20]) == [1]
    assert listed(id=traffic.ids[1].removeprefix("req_")) == [1]
    assert listed(id=traffic.answers[0].json()["id"]) == [0]
    assert listed(key=traffic.keys[1]["id"]) == [3, 1]
    times = [done(admin.get(f"/requests/{request_id}"))["at"] for request_id in traffic.ids]
    assert 0 not in listed(**{"from": times[3]})
    assert 3 not in listed(to=times[3])


def test_a_filter_that_cannot_be_is_said_so(admin: httpx.Client, traffic: Traffic) -> None:
    query = {"team": traffic.team["id"]}
    assert code_of(admin.get("/requests", params={**query, "key": "nobody"})) == "key_not_found"
    for wrong in ({"key": "laptop"}, {"status": "many"}, {"from": "soon"}, {"outcome": "fine"}):
        assert code_of(admin.get("/requests", params=wrong)) == "invalid_field", wrong


def test_the_command_line_lists_and_shows(shell: Shell, traffic: Traffic) -> None:
    team = traffic.team["name"]
    listed = shell("requests", "list", "--key", f"{team}/laptop", "--model", "a/*").out
    assert (traffic.ids[0] in listed, traffic.ids[1] in listed) == (True, False)
    assert f"{team}/laptop" in listed
    shown = shell("requests", "show", traffic.answers[0].json()["id"]).out
    assert all(
        part in shown for part in (traffic.ids[0], team, "127.0.0.1", "simulator: 200", "STEP", "COST OF", "admit")
    )
    refused = shell("requests", "show", traffic.ids[3]).out
    assert "STEP" in refused


def test_ids_stay_whole_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, traffic: Traffic) -> None:
    console = Console(width=80, record=True, highlight=False, file=io.StringIO())
    monkeypatch.setattr(output, "_console", lambda: console)
    row = ("2026-11-30T15:00:00", traffic.ids[0], "a team with a long name/laptop", "a/model", "completed", "0.001234")
    output.table(("AT", "ID", "KEY", "MODEL", "OUTCOME", "COST USD"), [row], empty="")
    text = console.export_text()
    assert traffic.ids[0] in text
    assert max(map(len, text.splitlines())) <= 80
    assert "a team with a long name/laptop" in text


def test_the_dashboard_filters_and_searches(gateway: RunningGateway, traffic: Traffic) -> None:
    with signed_in(gateway) as dashboard:
        page = dashboard.get(f"/requests?team={traffic.team['id']}&model=a/*&status=200").text
        assert (traffic.ids[0] in page, traffic.ids[3] in page) == (True, False)
        assert "laptop" in page
        found = dashboard.get(f"/requests/find?find={traffic.answers[0].json()['id']}")
        shown = dashboard.client.get(found.headers["location"]).text
        assert all(part in shown for part in (traffic.ids[0], "127.0.0.1", "How the cost came about", "laptop"))
        wrong = dashboard.get(f"/requests?team={traffic.team['id']}&status=many")
        assert "Not done" in wrong.text
        local = dashboard.get(f"/requests?team={traffic.team['id']}&from=2100-01-01T00:00")
        assert "No such request" in local.text
