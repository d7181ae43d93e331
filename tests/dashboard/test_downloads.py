"""Every page gives its figures as CSV, of what its reader may see, and with nothing that a spreadsheet runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import httpx
import pytest

from gateway.dashboard.downloads import DOWNLOADS
from tests.support.admins import admin_client, done, new_admin, new_team
from tests.support.dashboard_client import DashboardClient, signed_in
from tests.support.gateway import RunningGateway

FORMULA = '=HYPERLINK("http://evil.example")'
PAGES = (
    "",
    "/attribution",
    "/teams",
    "/requests",
    "/upstreams",
    "/notices",
    "/prices",
    "/audit",
    "/admin-keys",
    "/configuration",
)


@pytest.fixture
def root(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with admin_client(gateway) as client:
        yield client


@pytest.fixture
def dashboard(gateway: RunningGateway) -> Iterator[DashboardClient]:
    with signed_in(gateway) as client:
        yield client


@pytest.fixture
def team(gateway: RunningGateway, root: httpx.Client) -> str:
    """The id of a team with a key of a dangerous name, and a request of it."""
    team: str = new_team(root)["id"]
    key = done(root.post(f"/teams/{team}/keys", json={"name": FORMULA.replace("/", "|")}))["key"]
    with gateway.sdk(key) as client:
        client.responses.create(model="@model", input="hello")
    gateway.wait_until_settled()
    return team


def rows(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.headers["content-type"].startswith("text/csv"), answer.text
    assert answer.headers["content-disposition"].startswith("attachment")
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


@pytest.mark.parametrize("name", [name for name in DOWNLOADS if name not in ("request", "admin-keys", "notices")])
def test_each_download_has_rows_and_no_formula(dashboard: DashboardClient, team: str, name: str) -> None:
    found = rows(dashboard.get(f"/download/{name}.csv?team={team}&days=1"))
    assert found
    for row in found:
        for text in (*row, *row.values()):
            assert not (text or "").startswith(("=", "@", "+", "\t")), row


def test_a_request_is_a_row(dashboard: DashboardClient, root: httpx.Client, team: str) -> None:
    request_id = done(root.get("/requests", params={"team": team}))["data"][0]["id"]
    (row,) = rows(dashboard.get(f"/download/request.csv?id={request_id}&team={team}"))
    assert row["id"] == request_id


def test_the_figures_are_the_ledger_s(dashboard: DashboardClient, root: httpx.Client, team: str) -> None:
    said = done(root.get("/usage", params={"team": team, "by": "model"}))["total"]
    (row,) = rows(dashboard.get(f"/download/usage.csv?team={team}&days=1"))
    assert (row["cost_usd"], row["model"]) == (said["cost_usd"], "'@model")
    (entry, *_) = rows(dashboard.get(f"/download/journal.csv?team={team}&type=settle"))
    assert entry["amount_usd"] == f"-{said['cost_usd']}"


@pytest.mark.parametrize("page", PAGES)
def test_each_page_links_to_its_download(dashboard: DashboardClient, page: str) -> None:
    assert "/dashboard/download/" in dashboard.get(page).text


def test_a_lead_downloads_its_own_team_alone(gateway: RunningGateway, root: httpx.Client, team: str) -> None:
    other = new_team(root)["id"]
    with signed_in(gateway, new_admin(root, "team", team)) as lead:
        assert rows(lead.get("/download/keys.csv?team=" + team))
        assert lead.get("/download/keys.csv?team=" + other).status_code == 403
        assert lead.get("/download/configuration.csv").status_code == 403
        assert {row["id"] for row in rows(lead.get("/download/teams.csv"))} == {team}


def test_what_is_no_download_is_404(dashboard: DashboardClient) -> None:
    assert dashboard.get("/download/nothing.csv").status_code == 404
