"""Every page by every measure: accessibility, a phone's width, both colour schemes, keyboard, without scripts."""

from typing import Literal

import openai
import pytest
from playwright.sync_api import Browser, ViewportSize

from tests.browser.browser_session import BrowserSession
from tests.support.admins import admin_client, done, new_team
from tests.support.gateway import ADMIN_KEY, RunningGateway
from tests.support.waiting import wait_until_sync

FIRST_HEADINGS = "h1, [role=heading][aria-level='1']"
PHONE: ViewportSize = {"width": 390, "height": 844}
SMALL_PHONE: ViewportSize = {"width": 320, "height": 568}
FIGURES = "data, .figure, .ticks span, .labels span, td.number, th.number, time, .stacked td, .stacked th"
CUT = f"""[...document.querySelectorAll("{FIGURES}")].filter(
    each => each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display !== "inline"
).map(each => each.textContent)"""
"""Figures, and cells of rows that are shown as lists, that are wider than their place: nobody can read them whole."""
LETTERS_IN_A_COLUMN = """(() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
    while (walker.nextNode()) {
        const range = document.createRange();
        range.selectNode(walker.currentNode);
        const { width, height } = range.getBoundingClientRect();
        if (walker.currentNode.data.trim().length > 5 && width > 0 && width < 40 && height > 80)
            found.push(walker.currentNode.data);
    }
    return found;
})()"""
"""Texts that have so little width that their letters stand below one another."""
TEAMS = (
    ("Search & ranking", "40", {"rpm": 600, "budget_usd_day": "0.02", "concurrency": 20}),
    ("Support assistants", "0.0006", {"budget_usd_month": "500", "tpm": 2_000_000}),
    ("Data science sandbox", "12.5", {"budget_tokens_day": 3_000}),
)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
MODELS = ("gpt-5", "gpt-5-mini", "claude-sonnet", "llama-4-scout")
EXPIRIES = ("2199-12-31", "2199-12-15T06:30:00Z")
PROJECTS = ("alpha", "beta", "x" * 128)


@pytest.fixture(scope="module")
def team(gateway: RunningGateway) -> str:
    """The id of a team with past requests, next to other teams."""
    with admin_client(gateway) as root:
        ids = []
        for name, credits_usd, limits in TEAMS:
            found = new_team(root, name=name, credits_usd=credits_usd, limits=limits)
            ids.append(found["id"])
            for expires_at in EXPIRIES if len(ids) == 1 else ():
                body = {"kind": "grant", "amount_usd": "12.34", "note": "for the launch", "expires_at": expires_at}
                done(root.post(f"/teams/{found['id']}/credits", json=body))
            keys = [
                done(root.post(f"/teams/{found['id']}/keys", json={"name": label, "limits": key_limits}))
                for label, key_limits in (("production", {"rpm": 100}), ("laptop of Ana", {"rpm": 2}))
            ]
            done(root.post(f"/teams/{found['id']}/keys/{keys[0]['id']}/rotate", json={"overlap_s": 86_400}))
            for key, numbers in zip(keys, (range(8), range(8, 12)), strict=True):
                use(gateway, key["key"], numbers)
    return str(ids[0])


def use(gateway: RunningGateway, key: str, numbers: range) -> None:
    """Sends requests with a key, which may be refused for the lack of credits and for limits."""
    with gateway.sdk(key) as client:
        for number in numbers:
            try:
                client.responses.create(
                    model=MODELS[number % len(MODELS)],
                    input="hello " * 30,
                    max_output_tokens=60,
                    user="Ana",
                    extra_headers={"x-gateway-tags": f"project={PROJECTS[number % 3]}"},
                )
            except openai.APIStatusError as refused:
                assert refused.status_code in (402, 429)  # noqa: PT017 - the others went through


PATHS = {
    "overview": "",
    "teams": "/teams",
    "team": "/teams/{team}",
    "journal": "/teams/{team}/journal",
    "requests": "/requests",
    "request": "/requests/{request}",
    "request-refused": "/requests/{refused}",
    "upstreams": "/upstreams",
    "notices": "/notices",
    "attribution": "/attribution?by=tag:project",
    "audit": "/audit",
    "prices": "/prices?model=gpt-5&input=1200&cached=200&output=300",
    "admin-keys": "/admin-keys",
    "configuration": "/configuration",
    "not-found": "/nothing-here",
}


@pytest.fixture(scope="module")
def places(gateway: RunningGateway, team: str) -> dict[str, str]:
    """What the paths name: a team, a charged request of it, and a refused one."""

    def newest(outcome: str) -> str:
        with admin_client(gateway) as root:
            found = done(root.get("/requests", params={"team": team, "outcome": outcome}))["data"]
        return found[0]["id"] if found else ""

    wait_until_sync(lambda: newest("refused") != "", what="the refusal is stored")
    return {"team": team, "request": newest("incomplete"), "refused": newest("refused")}


def test_the_sign_in_page_is_accessible_in_light_and_dark(browser_session: BrowserSession) -> None:
    browser_session.page.goto("/dashboard/login")
    assert browser_session.faults_in_light_and_dark("login") == []


@pytest.mark.parametrize("name", PATHS)
def test_a_page_is_accessible_and_fits_in_light_and_dark(
    reader: BrowserSession, places: dict[str, str], name: str
) -> None:
    reader.page.goto(f"/dashboard{PATHS[name].format(**places)}")
    assert reader.faults_in_light_and_dark(name) == []
    assert reader.overflow_px() <= 0
    assert reader.page.title().endswith(" · Gateway")
    assert reader.page.evaluate(f'document.querySelectorAll("{FIRST_HEADINGS}").length') == 1


def test_every_page_fits_a_phone(browser: Browser, gateway: RunningGateway, places: dict[str, str]) -> None:
    with BrowserSession.open(browser, gateway, viewport=PHONE, is_mobile=True, has_touch=True) as browser_session:
        browser_session.enter()
        for name, path in PATHS.items():
            browser_session.page.goto(f"/dashboard{path.format(**places)}")
            for scheme in SCHEMES:
                browser_session.picture(f"phone-{name}", scheme)
            assert browser_session.overflow_px() <= 0, name
            assert browser_session.page.evaluate(CUT) == [], name
            assert browser_session.page.evaluate(LETTERS_IN_A_COLUMN) == [], name
            browser_session.page.set_viewport_size(SMALL_PHONE)
            assert browser_session.overflow_px() <= 0, name
            assert browser_session.page.evaluate(CUT) == [], name
            browser_session.page.set_viewport_size(PHONE)


def test_open_forms_are_accessible_too(browser_session: BrowserSession, team: str) -> None:
    browser_session.enter(f"/teams/{team}")
    browser_session.page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true })")
    assert browser_session.faults_of_accessibility() == []
    browser_session.picture("team-open")
    browser_session.make_key("seen once")
    assert browser_session.faults_of_accessibility() == []
    browser_session.picture("key-made")


def test_the_keyboard_is_enough(browser_session: BrowserSession, team: str) -> None:
    keyboard = browser_session.page.keyboard
    browser_session.page.goto("/dashboard/login")
    # A browser gives the field its focus after the page has loaded; what is typed before goes nowhere.
    browser_session.page.wait_for_function("document.activeElement.matches('input[autofocus]')")
    keyboard.type(ADMIN_KEY)
    with browser_session.page.expect_navigation():
        keyboard.press("Enter")
    browser_session.reads("Overview")
    keyboard.press("Tab")
    assert browser_session.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    keyboard.press("Enter")
    browser_session.page.wait_for_url("**#main")
    browser_session.page.goto("/dashboard")
    seen = set()
    for _ in range(40):
        keyboard.press("Tab")
        seen.add(browser_session.page.evaluate("document.activeElement.textContent.trim()"))
        outline = browser_session.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", seen
        if browser_session.page.evaluate("document.activeElement.textContent.trim()") == "Teams":
            break
    keyboard.press("Enter")
    browser_session.reads("Teams")


def test_all_but_the_live_feed_works_without_scripts(browser: Browser, gateway: RunningGateway, team: str) -> None:
    with BrowserSession.open(browser, gateway, java_script_enabled=False) as browser_session:
        browser_session.sign_in()
        browser_session.make_team("No scripts", "1")
        key = browser_session.make_key("plain")
        assert browser_session.ask(key)
        assert browser_session.rotate("plain") != key
        browser_session.go("Requests")
        browser_session.page.get_by_role("group", name="Recent requests").get_by_text("No scripts").first.wait_for()
        assert not browser_session.page.locator("#live").is_visible()
