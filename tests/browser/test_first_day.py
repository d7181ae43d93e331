"""From signing in to a bill: one team, one key, its requests live, its spend on the chart, its end."""

import openai
import pytest

from tests.browser.desk import Desk
from tests.support.admins import admin_client, new_admin, new_team


def test_a_request_appears_live_and_its_spend_on_the_charts(desk: Desk) -> None:
    desk.sign_in()
    desk.make_team("Search", "5")
    key = desk.make_key("nightly index")
    desk.go("Requests")
    live = desk.page.locator("#live")
    live.get_by_text("live", exact=True).wait_for()
    desk.ask(key)
    line = live.get_by_role("row").filter(has_text="Search")
    line.get_by_text("completed").wait_for()

    desk.go("Overview")
    spent = desk.page.locator(".tiles data").first.get_attribute("value")
    assert spent is not None
    assert float(spent) > 0
    chart = desk.page.get_by_role("img", name="spend per day")
    assert chart.evaluate("image => image.decode().then(() => image.naturalWidth > 0)")
    desk.page.get_by_text("Figures of: spend per day").click()
    assert desk.page.get_by_role("columnheader", name="gpt-5").count() >= 1


def test_a_rotated_key_shows_who_uses_the_old_secret_and_a_revoked_one_is_refused(desk: Desk) -> None:
    desk.sign_in()
    desk.make_team("Ads")
    old = desk.make_key("bidder")
    new = desk.rotate("bidder")
    assert new != old
    for text in (old, new):
        desk.ask(text)
    desk.page.get_by_role("heading", name="Ads", level=1).wait_for()
    desk.go("Teams")
    desk.page.get_by_role("link", name="Ads").click()
    assert desk.key("bidder").get_by_role("row").count() == 3, "a head and two secrets"
    assert "never" not in desk.key("bidder").locator("tbody").inner_text()
    desk.revoke("bidder")
    for text in (old, new):
        with pytest.raises(openai.AuthenticationError):
            desk.ask(text)


def test_whoever_runs_into_a_limit_reads_why(desk: Desk) -> None:
    desk.sign_in()
    desk.make_team("Limited")
    key = desk.make_key("twice a minute", rpm="2")
    for _ in range(2):
        desk.ask(key)
    with pytest.raises(openai.RateLimitError) as refused:
        desk.ask(key)
    assert "requests" in str(refused.value)
    desk.go("Teams")
    desk.page.get_by_role("link", name="Limited").click()
    desk.page.get_by_role("heading", name="Limited", level=1).wait_for()
    row = desk.page.get_by_role("group", name="Last refused").get_by_role("row").filter(has_text="twice a minute")
    desk.reload_until(row.get_by_text("(requests a minute, of the key)"))
    desk.go("Requests")
    desk.page.get_by_label("Outcome").select_option("refused")
    desk.page.get_by_role("button", name="Show").click()
    why = desk.page.get_by_role("group", name="Recent requests").get_by_text("(requests a minute, of the key)")
    why.first.wait_for()


def test_a_lead_sees_its_own_team_alone(desk: Desk) -> None:
    with admin_client(desk.gateway) as root:
        own, other = new_team(root), new_team(root)
        lead = new_admin(root, "team", own["id"])
    desk.sign_in(lead)
    desk.go("Team")
    desk.page.get_by_role("heading", name=own["name"], level=1).wait_for()
    assert desk.page.get_by_role("heading", name="Credits").count() == 0
    assert desk.page.get_by_role("link", name="Upstreams").count() == 0
    assert desk.make_key("mine").startswith("sk-")
    for path in (f"/teams/{other['id']}", f"/requests?team={other['id']}", f"?team={other['id']}", "/upstreams"):
        answer = desk.page.goto(f"/dashboard{path}")
        assert answer is not None
        assert answer.status == 403
        assert other["name"] not in desk.page.content()


def test_signing_out_ends_the_session(desk: Desk) -> None:
    desk.sign_in()
    desk.page.get_by_role("button", name="Sign out").click()
    desk.page.get_by_role("heading", name="Sign in").wait_for()
    desk.page.goto("/dashboard/teams")
    desk.page.get_by_role("heading", name="Sign in").wait_for()
