"""From signing in to a bill: one team, one key, its live requests, its spend on the chart, its revocation."""

import openai
import pytest

from tests.browser.browser_session import BrowserSession
from tests.support.admins import admin_client, new_admin, new_team


def test_a_request_appears_live_and_its_spend_on_the_charts(browser_session: BrowserSession) -> None:
    browser_session.sign_in()
    browser_session.make_team("Search", "5")
    key = browser_session.make_key("nightly index")
    browser_session.go("Requests")
    live = browser_session.page.locator("#live")
    live.get_by_text("live", exact=True).wait_for()
    browser_session.ask(key)
    line = live.get_by_role("row").filter(has_text="Search")
    line.get_by_text("completed").wait_for()

    browser_session.go("Overview")
    spent = browser_session.page.locator(".tiles data").first.get_attribute("value")
    assert spent is not None
    assert float(spent) > 0
    chart = browser_session.page.get_by_role("img", name="spend per day")
    assert chart.locator("rect[height]").count() > 0
    browser_session.page.get_by_text("Figures of: spend per day").click()
    assert browser_session.page.get_by_role("columnheader", name="gpt-5").count() >= 1


def test_a_rotated_key_shows_who_uses_the_old_secret_and_a_revoked_one_is_refused(
    browser_session: BrowserSession,
) -> None:
    with admin_client(browser_session.gateway) as root:
        team = new_team(root, name="Ads")
    browser_session.enter(f"/teams/{team['id']}")
    old = browser_session.make_key("bidder")
    new = browser_session.rotate("bidder")
    assert new != old
    for text in (old, new):
        browser_session.ask(text)
    browser_session.page.goto(f"/dashboard/teams/{team['id']}")
    assert browser_session.key("bidder").get_by_role("row").count() == 3, "a head and two secrets"
    assert "never" not in browser_session.key("bidder").locator("tbody").inner_text()
    browser_session.revoke("bidder")
    for text in (old, new):
        with pytest.raises(openai.AuthenticationError):
            browser_session.ask(text)


def test_whoever_runs_into_a_limit_reads_why(browser_session: BrowserSession) -> None:
    with admin_client(browser_session.gateway) as root:
        team = new_team(root, name="Limited")
    browser_session.enter(f"/teams/{team['id']}")
    key = browser_session.make_key("twice per minute", rpm="2")
    for _ in range(2):
        browser_session.ask(key)
    with pytest.raises(openai.RateLimitError) as refused:
        browser_session.ask(key)
    assert "requests" in str(refused.value)
    row = (
        browser_session.page.get_by_role("group", name="Last refused")
        .get_by_role("row")
        .filter(has_text="twice per minute")
    )
    browser_session.open_until(f"/teams/{team['id']}", row.get_by_text("(requests per minute, of the key)"))
    browser_session.go("Requests")
    browser_session.page.get_by_label("Outcome").select_option("refused")
    browser_session.press("Show")
    why = browser_session.page.get_by_role("group", name="Recent requests").get_by_text(
        "(requests per minute, of the key)"
    )
    why.first.wait_for()


def test_a_lead_sees_its_own_team_alone(browser_session: BrowserSession) -> None:
    with admin_client(browser_session.gateway) as root:
        own, other = new_team(root), new_team(root)
        lead = new_admin(root, "team", own["id"])
    browser_session.sign_in(lead)
    browser_session.go("Team")
    browser_session.reads(own["name"])
    assert browser_session.page.get_by_role("heading", name="Credits").count() == 0
    assert browser_session.page.get_by_role("link", name="Upstreams").count() == 0
    assert browser_session.make_key("mine").startswith("sk-")
    for path in (f"/teams/{other['id']}", f"/requests?team={other['id']}", f"?team={other['id']}", "/upstreams"):
        answer = browser_session.page.goto(f"/dashboard{path}")
        assert answer is not None
        assert answer.status == 403
        assert other["name"] not in browser_session.page.content()


def test_signing_out_ends_the_session(browser_session: BrowserSession) -> None:
    browser_session.sign_in()
    browser_session.press("Sign out")
    browser_session.page.get_by_role("heading", name="Sign in").wait_for()
    browser_session.page.goto("/dashboard/teams")
    browser_session.page.get_by_role("heading", name="Sign in").wait_for()
