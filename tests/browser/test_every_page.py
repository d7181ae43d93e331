"""Every page by every measure: accessibility, a phone's width, both colour schemes, the keyboard, no scripts."""

from typing import Literal

import openai
import pytest
from playwright.sync_api import Browser

from tests.browser.desk import Desk
from tests.support.admins import admin_client, done, new_team
from tests.support.gateway import RunningGateway
from tests.support.waiting import wait_until_sync

PHONE = {"width": 390, "height": 844}
TEAMS = (
    ("Search & ranking", "40", {"rpm": 600, "budget_usd_day": "0.02", "concurrency": 20}),
    ("Support assistants", "0.0006", {"budget_usd_month": "500", "tpm": 2_000_000}),
    ("Data science sandbox", "12.5", {"budget_tokens_day": 3_000}),
)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
MODELS = ("gpt-5", "gpt-5-mini", "claude-sonnet", "llama-4-scout")


@pytest.fixture(scope="module")
def team(gateway: RunningGateway) -> str:
    """The id of a team with a past; there are others."""
    with admin_client(gateway) as root:
        ids = []
        for name, credits_usd, limits in TEAMS:
            found = new_team(root, name=name, credits_usd=credits_usd, limits=limits)
            ids.append(found["id"])
            keys = [
                done(root.post(f"/teams/{found['id']}/keys", json={"name": label, "limits": key_limits}))
                for label, key_limits in (("production", {"rpm": 100}), ("laptop of Ana", {"rpm": 2}))
            ]
            done(root.post(f"/teams/{found['id']}/keys/{keys[0]['id']}/rotate", json={"overlap_s": 86_400}))
            for number, key in enumerate((keys[0],) * 8 + (keys[1],) * 4):
                with gateway.sdk(key["key"]) as client:
                    try:
                        client.responses.create(
                            model=MODELS[number % len(MODELS)], input="hello " * 30, max_output_tokens=60
                        )
                    except openai.APIStatusError as refused:
                        assert refused.status_code in (402, 429)  # noqa: PT017 - the others went through
    return str(ids[0])


PATHS = {
    "overview": "",
    "teams": "/teams",
    "team": "/teams/{team}",
    "journal": "/teams/{team}/journal",
    "requests": "/requests",
    "request": "/requests/{request}",
    "request-refused": "/requests/{refused}",
    "upstreams": "/upstreams",
    "audit": "/audit",
    "admin-keys": "/admin-keys",
    "configuration": "/configuration",
    "not-found": "/nothing-here",
}


@pytest.fixture(scope="module")
def places(gateway: RunningGateway, team: str) -> dict[str, str]:
    """What the paths name: a team, a request of its own that was charged, and one that was refused."""

    def newest(outcome: str) -> str:
        with admin_client(gateway) as root:
            found = done(root.get("/requests", params={"team": team, "outcome": outcome}))["data"]
        return found[0]["id"] if found else ""

    wait_until_sync(lambda: newest("refused") != "", what="the refusal is stored")
    return {"team": team, "request": newest("incomplete"), "refused": newest("refused")}


def test_the_sign_in_page_is_accessible_in_light_and_dark(desk: Desk) -> None:
    desk.page.goto("/dashboard/login")
    for scheme in SCHEMES:
        desk.picture("login", scheme)
        assert desk.faults_of_accessibility() == []


@pytest.mark.parametrize("name", PATHS)
def test_a_page_is_accessible_and_fits_in_light_and_dark(desk: Desk, places: dict[str, str], name: str) -> None:
    desk.sign_in()
    desk.page.goto(f"/dashboard{PATHS[name].format(**places)}")
    for scheme in SCHEMES:
        desk.picture(name, scheme)
        assert desk.faults_of_accessibility() == [], scheme
    assert desk.overflow_px() <= 0
    assert desk.page.title().endswith(" · Gateway")
    assert desk.page.get_by_role("heading", level=1).count() == 1


def test_every_page_fits_a_phone(browser: Browser, gateway: RunningGateway, places: dict[str, str]) -> None:
    with Desk.open(browser, gateway, viewport=PHONE, is_mobile=True, has_touch=True) as desk:
        desk.sign_in()
        for name, path in PATHS.items():
            desk.page.goto(f"/dashboard{path.format(**places)}")
            desk.picture(f"phone-{name}")
            assert desk.overflow_px() <= 0, name
        desk.picture("phone-not-found", "dark")


def test_open_forms_are_accessible_too(desk: Desk, team: str) -> None:
    desk.sign_in()
    desk.page.goto(f"/dashboard/teams/{team}")
    desk.page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true })")
    assert desk.faults_of_accessibility() == []
    desk.picture("team-open")
    desk.make_key("seen once")
    assert desk.faults_of_accessibility() == []
    desk.picture("key-made")


def test_the_keyboard_is_enough(desk: Desk, team: str) -> None:
    keyboard = desk.page.keyboard
    desk.page.goto("/dashboard/login")
    keyboard.type("admin-key-of-the-tests")
    keyboard.press("Enter")
    desk.page.get_by_role("heading", name="Overview", level=1).wait_for()
    keyboard.press("Tab")
    assert desk.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    keyboard.press("Enter")
    assert desk.page.url.endswith("#main")
    desk.page.goto("/dashboard")
    seen = set()
    for _ in range(40):
        keyboard.press("Tab")
        seen.add(desk.page.evaluate("document.activeElement.textContent.trim()"))
        outline = desk.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", seen
        if desk.page.evaluate("document.activeElement.textContent.trim()") == "Teams":
            break
    keyboard.press("Enter")
    desk.page.get_by_role("heading", name="Teams", level=1).wait_for()


def test_all_but_the_live_feed_works_without_scripts(browser: Browser, gateway: RunningGateway, team: str) -> None:
    with Desk.open(browser, gateway, java_script_enabled=False) as desk:
        desk.sign_in()
        desk.make_team("No scripts", "1")
        key = desk.make_key("plain")
        assert desk.ask(key)
        assert desk.rotate("plain") != key
        desk.go("Requests")
        desk.page.get_by_role("group", name="Recent requests").get_by_text("No scripts").first.wait_for()
        assert not desk.page.locator("#live").is_visible()
