"""Time zones, anchors, budgets of any period: set and shown by API, command line, dashboard; reports by local date."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from tests.support.admins import done, new_team
from tests.support.dashboard_client import signed_in
from tests.support.gateway import RunningGateway
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync


def other_date() -> str:
    """A time zone in which it is another day than in UTC just now."""
    return "Pacific/Kiritimati" if datetime.now(UTC).hour >= 11 else "Etc/GMT+12"


def used_by(gateway: RunningGateway, root: httpx.Client, team: dict[str, Any], requests: int = 1) -> None:
    """Sends requests of a new key of the team, one more than it may, and waits until all are in the reports."""
    limits = {"budget_tokens_total": 1_000_000, "rpm": requests}
    key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k", "limits": limits}))["key"]
    with gateway.http(key) as client:
        answers = [client.post("/v1/responses", json={"model": "m", "input": "x"}) for _ in range(requests + 1)]
    assert [answer.status_code for answer in answers] == [200] * requests + [429]

    def counted() -> bool:
        total = done(root.get("/usage", params={"team": team["id"], "by": "model"}))["total"]
        return bool(total["requests"] == requests and total["refused"] == 1 and total["outcomes"])

    wait_until_sync(counted, what="the requests are in the reports")


def test_a_teams_report_is_by_the_dates_of_its_time_zone(gateway: RunningGateway, root: httpx.Client) -> None:
    name = other_date()
    zone = ZoneInfo(name)
    team = new_team(root, timezone=name)
    before = datetime.now(zone).date()
    used_by(gateway, root, team, requests=2)
    today = datetime.now(zone).date()
    for by in ("model", "key", "team", None):
        query = {"team": team["id"], "step": "day", **({"by": by} if by else {})}
        found = done(root.get("/usage", params=query))
        assert found["timezone"] == name
        (row,) = found["data"]
        assert row["start"] in {
            datetime(*day.timetuple()[:3], tzinfo=zone).isoformat(timespec="milliseconds") for day in (before, today)
        }
        assert row["requests"] == found["total"]["requests"] == 2
        assert by == "key" or row["refused"] == 1
        assert datetime.fromisoformat(found["to"]).astimezone(zone).date() == today + timedelta(days=1)
        assert datetime.fromisoformat(found["to"]) - datetime.fromisoformat(found["from"]) == timedelta(days=30)
    of_today = {
        "team": team["id"],
        "step": "day",
        "from": before.isoformat(),
        "to": (today + timedelta(days=1)).isoformat(),
    }
    assert done(root.get("/usage", params=of_today))["total"]["requests"] == 2
    hours = done(root.get("/usage", params={"team": team["id"]}))["data"]
    assert [row["start"][-6:] for row in hours] == [datetime.now(zone).isoformat()[-6:]] * len(hours)


def test_a_report_of_all_teams_misses_none_that_is_a_day_ahead(gateway: RunningGateway, root: httpx.Client) -> None:
    team = new_team(root, timezone=other_date())
    used_by(gateway, root, team)
    found = done(root.get("/usage", params={"by": "team", "step": "day"}))
    (mine,) = (row for row in found["groups"] if row["team_id"] == team["id"])
    assert mine["requests"] == 1
    assert found["timezone"] == "UTC"


def test_dashboard_and_command_line_show_the_teams_dates(
    gateway: RunningGateway, root: httpx.Client, shell: Shell
) -> None:
    name = other_date()
    team = new_team(root, timezone=name)
    used_by(gateway, root, team)
    start = done(root.get("/usage", params={"team": team["id"], "step": "day", "by": "model"}))["data"][0]["start"]
    assert start[:10] != datetime.now(UTC).date().isoformat()
    told = shell("usage", "--team", team["id"], "--by", "time", "--csv")
    assert [row["start"] for row in csv.DictReader(io.StringIO(told.out))] == [start]
    with signed_in(gateway) as dashboard:
        page = dashboard.get(f"?days=7&team={team['id']}").text
        assert f"From ({name})" in page
        assert f'<th scope="row">{start[:10]}</th>' in page
        assert name in dashboard.get(f"/teams/{team['id']}").text


def test_a_zone_and_an_anchor_are_set_shown_and_removed(root: httpx.Client, shell: Shell) -> None:
    team = shell.json("teams", "create", f"z-{datetime.now(UTC).timestamp()}", "--timezone", "Asia/Kolkata")
    assert (team["timezone"], team["anchor"]) == ("Asia/Kolkata", None)
    changed = shell.json("teams", "periods", team["id"], "--anchor", "2026-11-15")
    assert (changed["timezone"], changed["anchor"]) == ("Asia/Kolkata", "2026-11-15")
    assert "Asia/Kolkata, from 2026-11-15" in shell("teams", "show", team["id"]).out
    key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
    with httpx.Client(
        base_url=str(root.base_url).removesuffix("/admin/v1/"), headers={"authorization": f"Bearer {key}"}
    ) as client:
        told = client.get("/v1/key").json()["team"]
        assert (told["timezone"], told["anchor"]) == ("Asia/Kolkata", "2026-11-15")
    stale = root.patch(f"/teams/{team['id']}", json={"timezone": "UTC"}, headers={"if-match": str(team["version"])})
    assert stale.status_code == 412
    changed = shell.json("teams", "periods", team["id"], "--timezone", "none", "--anchor", "none")
    assert (changed["timezone"], changed["anchor"]) == ("UTC", None)
    assert shell("teams", "periods", team["id"]).code == 2
    actions = done(root.get("/audit", params={"team": team["id"], "limit": 1}))["data"]
    assert actions[0]["before"]["timezone"] == "Asia/Kolkata"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"timezone": ""}, "timezone"),
        ({"anchor": "2026-02-30"}, "anchor"),
        ({"anchor": "1066-10-14"}, "anchor"),
        ({"limits": {"budget_usd_fortnight": "1"}}, "limits.budget_usd_fortnight"),
        ({"limits": {"budget_usd_0d": "1"}}, "limits.budget_usd_0d"),
        ({"limits": {"budget_usd_367d": "1"}}, "limits.budget_usd_367d"),
        ({"limits": {"budget_usd_7d": 1}}, "limits.budget_usd_7d"),
        ({"limits": {"budget_usd_7d": "-1"}}, "limits.budget_usd_7d"),
        ({"limits": {"budget_tokens_7d": "1"}}, "limits.budget_tokens_7d"),
        ({"limits": {"budget_tokens_7d": 1}}, "limits.budget_tokens_7d"),
        ({"limits": {f"budget_tokens_{days}d": 1000 for days in range(1, 34)}}, "limits"),
    ],
    ids=str,
)
def test_what_is_no_zone_anchor_or_limit_is_refused(root: httpx.Client, fields: dict[str, Any], param: str) -> None:
    team = new_team(root)
    for answer in (
        root.patch(f"/teams/{team['id']}", json=fields),
        root.post("/teams", json={"name": "never", **fields}),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_field", param), error
    assert done(root.get(f"/teams/{team['id']}"))["version"] == team["version"]


BUDGETS = {"budget_usd_week": "2.5", "budget_usd_quarter": "30", "budget_usd_7d": "3", "budget_tokens_36h": 90_000}


def test_budgets_of_any_period_are_set_shown_and_removed(
    gateway: RunningGateway, root: httpx.Client, shell: Shell
) -> None:
    words = [f"{name}={value}" for name, value in BUDGETS.items()]
    team = shell.json("teams", "create", f"b-{datetime.now(UTC).timestamp()}", "--credits", "9", "--limit", words[2])
    assert shell("limits", "set", team["id"], *words).code == 0
    key = shell.json(
        "keys", "create", team["id"], "--name", "k", "--limit", "budget_usd_week=2", "--limit", "budget_usd_24h=1"
    )
    with gateway.http(key["key"]) as client:
        dry = client.post("/v1/responses", json={"model": "m", "input": "x"}, headers={"x-gateway-dry-run": "true"})
        answer = client.post("/v1/responses", json={"model": "m", "input": "x"})
        assert answer.status_code == 200
        own = client.get("/v1/key").json()
    shown = done(root.get(f"/teams/{team['id']}"))["limits"]
    assert list(shown) == ["budget_usd_week", "budget_usd_quarter", "budget_usd_7d", "budget_tokens_36h"]
    assert {name: one.get("limit_usd", one.get("limit")) for name, one in shown.items()} == BUDGETS
    assert all(one["resets_at"] > datetime.now(UTC).isoformat()[:19] for one in shown.values())
    assert set(own["limits"]) == {"budget_usd_week", "budget_usd_24h"}
    assert dry.json()["team"]["limits"].keys() == shown.keys() == own["team"]["limits"].keys()
    assert "budget_usd_7d" in shell("limits", "show", team["id"]).out
    assert "budget_usd_24h 1" in shell("keys", "list", team["id"]).out
    with signed_in(gateway) as dashboard:
        page = dashboard.get(f"/teams/{team['id']}").text
        assert "USD in any 7 days" in page
        assert "budget_usd_7d=3\nbudget_tokens_36h=90000</textarea>" in page
        typed = {
            "limits.budget_usd_week": "2.5",
            "limits": "budget_usd_7d = 4\n",
            "limits.had": "budget_usd_7d budget_tokens_36h",
        }
        sent = dashboard.send(f"/teams/{team['id']}/limits", timezone="Asia/Kolkata", anchor="2026-11-15", **typed)
        assert sent.status_code == 303, sent.text
    team = done(root.get(f"/teams/{team['id']}"))
    assert {name: one["limit_usd"] for name, one in team["limits"].items()} == {
        "budget_usd_week": "2.5",
        "budget_usd_7d": "4",
    }
    assert (team["timezone"], team["anchor"]) == ("Asia/Kolkata", "2026-11-15")
    assert shell("limits", "set", team["id"], "budget_usd_week=none", "budget_usd_7d=none").code == 0
    assert done(root.get(f"/teams/{team['id']}"))["limits"] == {}
    assert "is it budget_usd_week" in shell("limits", "set", team["id"], "budget_usd_weak=1").err
    wrong = shell("teams", "periods", team["id"], "--timezone", "europe/berlin")
    assert wrong.err.endswith("--timezone: 'europe/berlin' is not a time zone; is it Europe/Berlin?\n")
    answer = root.patch(f"/teams/{team['id']}", json={"limits": {"budget_usd_7days": "1"}})
    assert answer.json()["error"]["message"].endswith("; is it budget_usd_7d?")


def test_a_refusal_names_the_budget_and_when_it_resets(gateway: RunningGateway, root: httpx.Client) -> None:
    team = new_team(root, timezone="Asia/Kolkata", limits={"budget_tokens_week": 60})
    key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
    body = {"model": "m", "input": "x", "max_output_tokens": 16}
    with gateway.http(key) as client:
        while (refused := client.post("/v1/responses", json=body)).status_code == 200:
            pass
    assert refused.status_code == 402
    error = refused.json()["error"]
    assert (error["limit"], error["scope"], error["limit_value"]) == ("budget_tokens_week", "team", 60)
    resets_at = datetime.fromisoformat(error["resets_at"]).astimezone(ZoneInfo("Asia/Kolkata"))
    assert (resets_at.weekday(), resets_at.hour, resets_at.minute) == (0, 0, 0)
    assert int(refused.headers["retry-after"]) > 0
