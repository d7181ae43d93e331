"""A user with a browser: signs in, fills in forms, reads pages."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Locator, Page

from gateway.dashboard.guard import COOKIE
from gateway.dashboard.sign_in_page import HOME
from tests.support.dashboard_client import signed_in
from tests.support.gateway import ADMIN_KEY, RunningGateway
from tests.support.waiting import wait_until_sync

AXE: Final = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
WAIT_MS: Final = 30_000
PICTURES: Final = Path(__file__).parent / "screenshots"
PICTURES_WANTED: Final = bool(os.environ.get("PICTURES"))
ALL_OF_AXE: Final = "axe.run({resultTypes: ['violations']})"
COLOURS_OF_AXE: Final = """(() => {
    const seen = new Set(), first = [];
    for (const each of document.body.querySelectorAll("*")) {
        const holdsText = [...each.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
        if (!holdsText && !each.matches("input, select, textarea")) continue;
        const own = getComputedStyle(each), look = [each.localName, own.color, own.fontSize, own.fontWeight];
        for (let around = each; around; around = around.parentElement) {
            const { backgroundColor, backgroundImage, opacity } = getComputedStyle(around);
            look.push(backgroundColor, backgroundImage, opacity);
        }
        if (!seen.has(look.join())) first.push(each);
        seen.add(look.join());
    }
    return axe.run({include: first}, {resultTypes: ["violations"], runOnly: ["color-contrast", "link-in-text-block"]});
})()"""
"""The rules that depend on colours, for the first text of each look: its colour and size, and what is behind it."""
_WATCH: Final = "addEventListener('securitypolicyviolation', e => console.error('policy: ' + e.violatedDirective));"


class BrowserSession:
    """Mutable: the errors in the browser so far."""

    def __init__(self, context: BrowserContext, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.context = context
        self.page: Page = context.new_page()
        self.troubles: list[str] = []
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(f"{self.page.url}: {error}"))
        self.page.add_init_script(_WATCH)

    @classmethod
    @contextlib.contextmanager
    def open(cls, browser: Browser, gateway: RunningGateway, **options: Any) -> Iterator[BrowserSession]:
        """A session whose pages must report no error in the browser."""
        # Colours that are still in transition have no measurable contrast.
        context = browser.new_context(base_url=gateway.url, reduced_motion="reduce", **options)
        context.set_default_timeout(WAIT_MS)
        browser_session = cls(context, gateway)
        try:
            yield browser_session
            browser_session.assert_no_trouble()
        finally:
            context.close()

    def assert_no_trouble(self) -> None:
        """The browser has reported no error since this was asked last."""
        troubles, self.troubles = self.troubles, []
        assert not troubles, troubles

    def sign_in(self, key: str = ADMIN_KEY) -> None:
        """Signs in, from the sign-in page to the overview."""
        self.page.goto("/dashboard/login")
        self.fill_in_key(key)
        self.reads("Overview")

    def enter(self, path: str = "", key: str = ADMIN_KEY) -> None:
        """Opens a page of the dashboard as somebody who has signed in before. How one signs in has tests of its own."""
        with signed_in(self.gateway, key) as dashboard:
            token = str(dashboard.client.cookies[COOKIE])
        host = urlsplit(self.gateway.url).hostname or ""
        self.context.add_cookies(
            [{"name": COOKIE, "value": token, "domain": host, "path": HOME, "httpOnly": True, "sameSite": "Strict"}]
        )
        self.page.goto(f"/dashboard{path}")

    def fill_in_key(self, key: str = ADMIN_KEY) -> None:
        """Sends the sign-in page that is shown."""
        self.page.get_by_label("Admin key").fill(key)
        self.press("Sign in")

    def follow(self, link: Locator) -> None:
        """Clicks what leads to another page, and waits until that has loaded: what is read next stands there."""
        with self.page.expect_navigation():
            link.click()

    def press(self, name: str, *, inside: Locator | None = None) -> None:
        """Presses a button that sends a form, and waits until the page that answers has loaded."""
        self.follow((inside or self.page).get_by_role("button", name=name))

    def reads(self, heading: str) -> None:
        """Waits for a page by its heading."""
        self.page.get_by_role("heading", name=heading, level=1).wait_for()

    def end_session(self) -> None:
        """Ends this browser's session, as time does."""
        token = next(cookie["value"] for cookie in self.context.cookies() if cookie["name"] == COOKIE)
        self.gateway.run(self.gateway.services.sessions.close(token))

    def go(self, name: str) -> None:
        """Opens a page of the main menu."""
        self.follow(self.page.get_by_role("navigation").get_by_role("link", name=name, exact=True))

    def make_team(self, name: str, credits_usd: str = "5", **limits: str) -> None:
        """Creates a team and ends on its page. Limits are given by their labels."""
        self.go("Teams")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("First credits, USD").fill(credits_usd)
        if limits:
            self.page.get_by_text("Limits of the whole team").click()
        for limit, value in limits.items():
            self.page.locator(f"#new-{limit}").fill(value)
        self.press("Make the team")
        self.reads(name)

    def make_key(self, label: str, **limits: str) -> str:
        """Creates a key on a team's page. Returns its text."""
        self.page.get_by_label("Label: who or what uses it").fill(label)
        if limits:
            self.page.get_by_text("Limits, models, expiry").click()
        for limit, value in limits.items():
            self.page.locator(f"#new-key-{limit}").fill(value)
        self.press("Make the key")
        return self.secret()

    def rotate(self, label: str, overlap_hours: str = "24") -> str:
        """Rotates a key on a team's page. Returns its new text."""
        card = self.key(label)
        card.get_by_text(f"Rotate {label}").first.click()
        card.get_by_label("Hours for which the secrets of now still work").fill(overlap_hours)
        self.press(f"Rotate {label}", inside=card)
        return self.secret()

    def revoke(self, label: str) -> None:
        """Revokes a key on a team's page."""
        card = self.key(label)
        card.get_by_text("Disable, revoke or delete").click()
        card.get_by_label("To revoke or delete it for ever, type its name").fill(label)
        self.press(f"Revoke {label}", inside=card)
        self.page.get_by_role("status").get_by_text("The key is revoked").wait_for()

    def key(self, label: str) -> Locator:
        """Returns a key's card on a team's page."""
        heading = self.page.get_by_role("heading", name=label, level=3)
        return self.page.locator("li.key").filter(has=heading)

    def secret(self) -> str:
        """Returns the text of a new key, which the page shows once."""
        field = self.page.get_by_label("Key", exact=True)
        field.wait_for()
        return field.input_value()

    def ask(self, key: str, model: str = "gpt-5", text: str = "hello") -> str:
        """Sends one request with the official SDK. Returns the answer's text."""
        with self.gateway.sdk(key) as client:
            return client.responses.create(model=model, input=text).output_text

    def faults_of_accessibility(self, run: str = ALL_OF_AXE) -> list[str]:
        """Returns what axe-core finds on this page. Only of what is wrong are all nodes looked up, which takes long."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE)
        found = self.page.evaluate(run)
        return [f"{fault['id']}: {node['html']}" for fault in found["violations"] for node in fault["nodes"]]

    def overflow_px(self) -> int:
        """Returns by how much the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def open_until(self, path: str, found: Locator) -> None:
        """Opens a page until it shows something: refusals are written a moment after their answer."""

        def shown() -> bool:
            self.page.goto(f"/dashboard{path}")
            return found.count() > 0

        wait_until_sync(shown, what=str(found))

    def faults_in_light_and_dark(self, name: str) -> list[str]:
        """Returns what axe-core finds on this page in both colour schemes, which differ in nothing but colours."""
        self.picture(name, "light")
        faults = self.faults_of_accessibility()
        self.picture(name, "dark")
        return faults + [f"in dark: {fault}" for fault in self.faults_of_accessibility(COLOURS_OF_AXE)]

    def picture(self, name: str, scheme: Literal["light", "dark"] = "light") -> None:
        """Shows the page in a colour scheme, and saves a picture of the whole of it for people if they want one."""
        self.page.emulate_media(color_scheme=scheme)
        if PICTURES_WANTED:
            PICTURES.mkdir(exist_ok=True)
            self.page.screenshot(path=PICTURES / f"{name}-{scheme}.png", full_page=True)

    def _note(self, kind: str, text: str) -> None:
        # A browser also logs each 4xx answer that it shows as a page, which some tests request.
        if kind == "error" and "the server responded with a status of 4" not in text:
            self.troubles.append(f"{self.page.url}: {text}")
