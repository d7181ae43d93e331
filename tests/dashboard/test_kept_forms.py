"""A form that arrives when its session has ended: kept for whoever filled it in, and for nobody else."""

from __future__ import annotations

import html
import re

import httpx
import pytest

from gateway.dashboard.guard import COOKIE
from tests.support.admins import admin_client, done, new_team
from tests.support.dashboard_client import DashboardClient, signed_in, signed_out
from tests.support.gateway import ADMIN_KEY, RunningGateway


@pytest.fixture
def team(gateway: RunningGateway) -> str:
    with admin_client(gateway) as root:
        return str(new_team(root)["id"])


def end_session(gateway: RunningGateway, dashboard: DashboardClient) -> None:
    gateway.run(gateway.services.sessions.close(str(dashboard.client.cookies[COOKIE])))


def fields_of(page: str) -> dict[str, str]:
    return {
        html.unescape(name): html.unescape(value)
        for name, value in re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page)
    }


def granted(gateway: RunningGateway, team: str) -> str:
    with admin_client(gateway) as root:
        return str(done(root.get(f"/teams/{team}/credits"))["granted_usd"])


def sent_too_late(gateway: RunningGateway, dashboard: DashboardClient, team: str, **fields: str) -> httpx.Response:
    token = dashboard.token(f"/teams/{team}")
    end_session(gateway, dashboard)
    data = {"csrf": token, "kind": "grant", "amount_usd": "5", "note": 'a "note" & more', **fields}
    return dashboard.client.post(f"/dashboard/teams/{team}/credits", data=data)


def test_a_form_is_kept_through_a_wrong_key_and_sent_once_more_on_demand(gateway: RunningGateway, team: str) -> None:
    with signed_in(gateway) as dashboard:
        page = sent_too_late(gateway, dashboard, team).text
        for key in ("wrong", ADMIN_KEY):
            page = dashboard.client.post("/dashboard/login", data={**fields_of(page), "key": key}).text
        assert granted(gateway, team) == "10", "nothing is sent by itself"
        assert "a &#34;note&#34; &amp; more" in page
        answer = dashboard.client.post(f"/dashboard/teams/{team}/credits", data=fields_of(page))
        assert answer.headers["location"].endswith("?done=credits")
    assert granted(gateway, team) == "15"


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_form_that_the_dashboard_has_not_made_is_not_kept(gateway: RunningGateway, team: str, token: str) -> None:
    """Another site could else put a change before somebody who is about to sign in."""
    with signed_in(gateway) as dashboard:
        answer = sent_too_late(gateway, dashboard, team, csrf=token)
    assert (answer.status_code, "kept_fields" in answer.text) == (303, False)


def test_a_stranger_s_form_is_not_kept(gateway: RunningGateway, team: str) -> None:
    with signed_out(gateway) as dashboard:
        answer = dashboard.client.post(f"/dashboard/teams/{team}/credits", data={"csrf": "x", "amount_usd": "5"})
    assert answer.status_code == 303


@pytest.mark.parametrize("path", ["https://evil.example/dashboard", "//evil.example", "/admin/v1/teams"])
def test_a_kept_form_goes_to_the_dashboard_alone(gateway: RunningGateway, path: str) -> None:
    with signed_out(gateway) as dashboard:
        answer = dashboard.try_to_sign_in(ADMIN_KEY, kept_path=path, kept_fields='{"a": "b"}')
    assert (answer.status_code, answer.headers.get("location")) == (303, "/dashboard")
