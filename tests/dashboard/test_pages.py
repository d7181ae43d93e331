"""Pages: their headers, their numbers, and answers for paths that do not exist."""

import json
import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import httpx
import pytest

from gateway.dashboard.guard import HEADERS, PAGE_POLICY
from tests.support.admins import admin_client, done, new_admin, new_team
from tests.support.dashboard_client import DashboardClient, signed_in, signed_out
from tests.support.gateway import RunningGateway

PAGES = (
    "",
    "/teams",
    "/requests",
    "/requests/none",
    "/upstreams",
    "/attribution",
    "/attribution?by=tag:none",
    "/notices",
    "/audit",
    "/admin-keys",
    "/configuration",
    "/nowhere-to-be-found",
    "/teams/none",
    "/teams/none/journal",
    "/charts/none.svg",
)


@pytest.fixture(scope="module")
def root(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with admin_client(gateway) as client:
        yield client


@pytest.fixture
def dashboard(gateway: RunningGateway) -> Iterator[DashboardClient]:
    with signed_in(gateway) as opened:
        yield opened


@pytest.mark.parametrize("path", [*PAGES, "/login"])
def test_a_page_lets_nothing_in_from_elsewhere_and_needs_no_inline_code(dashboard: DashboardClient, path: str) -> None:
    answer = dashboard.get(path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == PAGE_POLICY
    assert not re.search(r"<script(?! src=\"/dashboard/)|<style|\sstyle=|\son\w+=|https?://(?!127)", answer.text)


@pytest.mark.parametrize("path", ["/nowhere-to-be-found", "/teams/none", "/charts/none.svg", "?team=none", "/a/b/c"])
def test_what_is_not_there_is_a_page_that_says_so(dashboard: DashboardClient, path: str) -> None:
    answer = dashboard.get(path)
    assert answer.status_code == 404
    assert "<h1>Not found</h1>" in answer.text


def test_a_slash_too_many_leads_home(dashboard: DashboardClient) -> None:
    answer = dashboard.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard")


def test_the_style_sheet_and_the_script_are_served_to_anybody(gateway: RunningGateway) -> None:
    with signed_out(gateway) as dashboard:
        for name, kind in (
            ("dashboard.css", "text/css"),
            ("live.js", "text/javascript"),
            ("icon.svg", "image/svg+xml"),
        ):
            answer = dashboard.get(f"/static/{name}")
            assert answer.status_code == 200
            assert answer.headers["content-type"].split(";")[0] == kind
            for tag in (answer.headers["etag"], f"W/{answer.headers['etag']}"):
                again = dashboard.get(f"/static/{name}", **{"if-none-match": tag})
                assert (again.status_code, again.content) == (304, b""), "a browser that has it is not sent it again"
            other = dashboard.get(f"/static/{name}", **{"if-none-match": '"an older one"'})
            assert other.content == answer.content
        assert dashboard.get("/static/guard.py").status_code == 404


def test_the_numbers_are_the_ledgers(gateway: RunningGateway, root: httpx.Client, dashboard: DashboardClient) -> None:
    team = new_team(root, limits={"budget_usd_day": "5"})["id"]
    key = done(root.post(f"/teams/{team}/keys", json={"name": "counted"}))["key"]
    with gateway.sdk(key) as client:
        for _ in range(3):
            client.responses.create(model="gpt-5", input="hello")
    gateway.wait_until_settled()
    said = done(root.get("/usage", params={"team": team, "by": "model"}))["total"]
    balance = done(root.get(f"/teams/{team}/credits"))
    overview, page = dashboard.get(f"?team={team}").text, dashboard.get(f"/teams/{team}").text
    for text in (overview, page):
        assert f'<data value="{said["cost_usd"]}"' in text
    assert f'<data value="{balance["available_usd"]}"' in page
    assert balance["spent_usd"] == said["cost_usd"]


@pytest.mark.parametrize("days", ["1", "7", "30", "90", "no number"])
@pytest.mark.parametrize("name", ["spend", "requests", "latency", "refusals"])
def test_a_chart_is_an_image_without_scripts(dashboard: DashboardClient, name: str, days: str) -> None:
    answer = dashboard.get(f"/charts/{name}.svg?days={days}")
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    tags = {str(node.tag).rpartition("}")[2] for node in ET.fromstring(answer.text).iter()}  # noqa: S314 - ours
    assert "svg" in tags
    assert not tags & {"script", "foreignObject", "image", "a"}


def test_the_live_feed_is_the_admin_apis(
    gateway: RunningGateway, root: httpx.Client, dashboard: DashboardClient
) -> None:
    team, other = new_team(root)["id"], new_team(root)["id"]
    key, others = (done(root.post(f"/teams/{of}/keys", json={"name": "k"}))["key"] for of in (team, other))
    with (
        signed_in(gateway, new_admin(root, "team", team)) as lead,
        lead.client.stream("GET", "/dashboard/live") as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["content-security-policy"] == PAGE_POLICY
        lines = answer.iter_lines()
        assert "event: ready" in lines
        for text in (others, key):
            with gateway.sdk(text) as client:
                client.responses.create(model="gpt-5", input="hello")
        data = next(line for line in lines if line.startswith("data: {") and "team_id" in line)
    assert json.loads(data.removeprefix("data: "))["team_id"] == team


def test_a_live_feed_ends_in_time_and_the_browser_comes_back(
    dashboard: DashboardClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.dashboard.requests.LIVE_S", 1.0)
    with dashboard.client.stream("GET", "/dashboard/live") as answer:
        assert answer.status_code == 200
        text = "".join(answer.iter_text())  # raises where the stream is cut instead of ended
    assert "event: ready" in text


def test_a_live_feed_of_another_team_is_refused(gateway: RunningGateway, root: httpx.Client) -> None:
    own, other = new_team(root)["id"], new_team(root)["id"]
    with signed_in(gateway, new_admin(root, "team", own)) as lead:
        assert lead.get(f"/live?team={other}").status_code == 403


def test_an_upstream_goes_out_and_comes_back(root: httpx.Client, dashboard: DashboardClient) -> None:
    assert "running requests go on" in dashboard.get("/upstreams").text, "it asks first"
    assert dashboard.send("/upstreams/simulator/disable").status_code == 303
    assert "out of service" in dashboard.get("/upstreams").text
    assert dashboard.send("/upstreams/simulator/enable").status_code == 303
    assert "out of service" not in dashboard.get("/upstreams").text


def test_older_requests_are_on_the_next_page(
    gateway: RunningGateway, root: httpx.Client, dashboard: DashboardClient
) -> None:
    team = new_team(root)["id"]
    key = done(root.post(f"/teams/{team}/keys", json={"name": "busy"}))["key"]
    with gateway.sdk(key) as client:
        for _ in range(55):
            client.responses.create(model="gpt-5", input="hello")
    gateway.wait_until_settled()
    page = dashboard.get(f"/requests?team={team}").text
    older = re.search(r'href="/dashboard(/requests\?after=[^"]+)"', page)
    assert older is not None
    then = dashboard.get(older[1].replace("&amp;", "&")).text
    seen = [re.findall(r' title="(req_[^"]+)"', text) for text in (page, then)]
    assert len(seen[0]) + len(seen[1]) == 55
    assert not set(seen[0]) & set(seen[1])


def test_a_lead_sees_nothing_of_another_team_on_any_page(gateway: RunningGateway, root: httpx.Client) -> None:
    own, other = new_team(root)["id"], new_team(root, name="Secret project")["id"]
    key = done(root.post(f"/teams/{other}/keys", json={"name": "hidden label"}))["key"]
    with gateway.sdk(key) as client:
        client.responses.create(model="secret/model", input="hello")
    gateway.wait_until_settled()
    request_id = done(root.get("/requests", params={"team": other}))["data"][0]["id"]
    seen = ("", "/teams", f"/teams/{own}", f"/teams/{own}/journal", "/requests", "/audit")
    named = [f"/teams/{other}", f"/teams/{other}/journal", f"/requests/{request_id}?team={other}"]
    named += [f"{path}?team={other}" for path in ("", "/requests", "/audit", "/charts/spend.svg")]
    barred = (*named, f"/requests/{request_id}", "/teams?find=Secret+project", "/admin-keys", "/configuration")
    with signed_in(gateway, new_admin(root, "team", own)) as lead:
        for path in (*seen, *barred, "/upstreams"):
            answer = lead.client.get(f"/dashboard{path}", follow_redirects=True)
            assert answer.status_code in ((200,) if path in seen or "find" in path else (403, 404)), path
            for secret in ("Secret project", "hidden label", "secret/model"):
                assert secret not in answer.text, path
