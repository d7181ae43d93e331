"""Charts that say what they show, keys that fit a screen and can be copied, and forms that outlive a session."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.browser.browser_session import BrowserSession
from tests.support.admins import admin_client, done, new_team
from tests.support.gateway import RunningGateway

WIDE = {"width": 1280, "height": 900}
MODELS = ("Zeta/Large-v2", "alpha-mini")


@pytest.fixture(scope="module")
def used_team(gateway: RunningGateway) -> str:
    """The id of a team that has used two models, the second one more often and for less."""
    with admin_client(gateway) as root:
        team = new_team(root)["id"]
        key = done(root.post(f"/teams/{team}/keys", json={"name": "Nightly Jobs"}))["key"]
    with gateway.sdk(key) as client:
        for model, tokens in ((MODELS[0], 400), (MODELS[1], 16), (MODELS[1], 16)):
            client.responses.create(model=model, input="hello", max_output_tokens=tokens)
    return str(team)


def test_a_chart_says_its_values_under_the_pointer_and_for_the_keyboard(reader: BrowserSession, used_team: str) -> None:
    page = reader.page
    page.goto(f"/dashboard?team={used_team}")
    chart = page.get_by_role("img", name="requests per day")
    says = page.locator("#requests-says")
    chart.locator(".step").last.hover()
    page.wait_for_function("document.getElementById('requests-says').textContent.includes('3 in all')")
    assert f"{MODELS[1]} 2, {MODELS[0]} 1" in says.inner_text()
    page.mouse.move(0, 0)
    chart.focus()
    assert "3 in all" in says.inner_text(), "the keyboard begins at the newest"
    page.keyboard.press("ArrowLeft")
    assert says.inner_text().endswith("nothing")
    page.keyboard.press("End")
    assert "3 in all" in says.inner_text()


def test_a_model_has_one_colour_on_every_chart_and_page(reader: BrowserSession, used_team: str) -> None:
    page = reader.page
    found: dict[str, set[str]] = {model: set() for model in MODELS}
    for path in (f"?team={used_team}", f"?team={used_team}&days=30", f"/teams/{used_team}"):
        page.goto(f"/dashboard{path}")
        for model, colours in found.items():
            swatches = page.locator(".legend li").filter(has_text=model).locator("rect")
            assert swatches.count() >= 1
            colours.update(filter(None, (swatch.get_attribute("fill") for swatch in swatches.all())))
    assert [len(colours) for colours in found.values()] == [1, 1]
    assert found[MODELS[0]] != found[MODELS[1]]


def test_each_chart_ranks_its_bands_by_what_it_shows_and_begins_at_zero(reader: BrowserSession, used_team: str) -> None:
    page = reader.page
    page.goto(f"/dashboard?team={used_team}")

    def legend(name: str) -> list[str]:
        figure = page.locator("figure").filter(has=page.get_by_role("img", name=name))
        assert figure.locator(".ticks span").last.inner_text() == "0"
        return figure.locator(".legend li").all_inner_texts()

    assert legend("spend per day") == [MODELS[0], MODELS[1]]
    assert legend("requests per day") == [MODELS[1], MODELS[0]]


def test_a_chart_without_data_has_no_axis(reader: BrowserSession) -> None:
    with admin_client(reader.gateway) as root:
        team = new_team(root)["id"]
    reader.page.goto(f"/dashboard?team={team}")
    assert reader.page.get_by_text("Nothing in this time.").count() == 4
    assert reader.page.locator(".ticks, .plot").count() == 0


def test_twenty_keys_fit_a_screen_and_one_is_opened_by_its_name(browser: Browser, gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)["id"]
        for number in range(20):
            done(root.post(f"/teams/{team}/keys", json={"name": f"iPhone of worker {number}"}))
    with BrowserSession.open(browser, gateway, viewport=WIDE) as session:
        session.enter(f"/teams/{team}")
        table = session.page.get_by_role("table", name="Keys of the team")
        box = table.bounding_box()
        assert table.locator("tbody tr").count() == 20
        assert box is not None
        assert box["height"] <= WIDE["height"]
        for scheme in ("light", "dark"):
            session.picture("twenty-keys", scheme)
        assert session.page.locator("li.key").count() == 0
        session.follow(table.get_by_role("link", name="iPhone of worker 7", exact=True))
        assert session.key("iPhone of worker 7").get_by_text("Limits and label").is_visible()


def test_a_new_key_has_a_button_that_copies_it_and_lines_that_work(browser: Browser, gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)["id"]
    with BrowserSession.open(browser, gateway, permissions=["clipboard-read", "clipboard-write"]) as session:
        session.enter(f"/teams/{team}")
        key = session.make_key("laptop")
        session.page.get_by_role("button", name="Copy", exact=True).click()
        session.page.get_by_role("button", name="Copied", exact=True).wait_for()
        assert session.page.evaluate("navigator.clipboard.readText()") == key
        lines = session.page.locator("#snippet-1").inner_text()
        assert f'base_url="{gateway.url}/v1"' in lines
        assert key in lines
        printed: list[str] = []
        exec(lines, {"print": printed.append})  # noqa: S102 - the page promises that they work as they stand
        assert printed[0]


def test_a_form_outlives_its_session(browser_session: BrowserSession) -> None:
    with admin_client(browser_session.gateway) as root:
        team = new_team(root)
    page = browser_session.page
    browser_session.enter(f"/teams/{team['id']}")
    page.get_by_label("Amount, USD").fill("12.5")
    page.get_by_label("Note").fill("typed for a long time")
    browser_session.end_session()
    browser_session.press("Book it")
    page.get_by_text("What you filled in is kept").wait_for()
    assert browser_session.faults_of_accessibility() == []
    browser_session.picture("login-kept")
    browser_session.fill_in_key()
    page.get_by_text("typed for a long time").wait_for()
    assert browser_session.faults_of_accessibility() == []
    browser_session.picture("send-again")
    browser_session.press("Send it")
    page.get_by_role("status").get_by_text("The credits were posted.").wait_for()
    with admin_client(browser_session.gateway) as root:
        balance = done(root.get(f"/teams/{team['id']}/credits"))
    assert balance["granted_usd"] == "22.5", "once, beside the 10 of the beginning"


def test_a_usage_is_priced_line_by_line(reader: BrowserSession) -> None:
    page = reader.page
    page.goto("/dashboard/prices")
    page.get_by_label("Model").fill("Any/Model")
    page.get_by_label("Input tokens").fill("1,000,000")
    page.get_by_label("Output tokens").fill("100000")
    reader.press("Reckon")
    bill = page.get_by_role("table", name="The bill")
    assert bill.get_by_role("row").filter(has_text="In all").inner_text().split()[-1] == "2.00"
    assert page.get_by_text("is priced by the row").is_visible()
