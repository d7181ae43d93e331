"""The operator scenario with the dashboard alone. tests/operators runs the same scenario with the API and the CLI.

Everything is read from pages and done with forms.
"""

from __future__ import annotations

import re
from decimal import Decimal

from playwright.sync_api import Locator

from gateway.accounts.limit_names import LIMITS
from gateway.dashboard.render import limit_label
from tests.browser.browser_session import BrowserSession
from tests.support.operator_scenario import CreatedKey, run_operator_scenario


class ByDashboard:
    """An operator who is signed in with a browser. Mutable: the addresses of the teams' pages that were opened."""

    def __init__(self, browser_session: BrowserSession) -> None:
        self._browser_session = browser_session
        self._page = browser_session.page
        self._addresses: dict[str, str] = {}

    def new_team(self, name: str, credits_usd: str) -> None:
        self._browser_session.make_team(name, credits_usd)

    def new_key(self, team: str, name: str) -> CreatedKey:
        self._open(team)
        text = self._browser_session.make_key(name)
        return CreatedKey(self._browser_session.key(name).locator("code").first.inner_text(), text)

    def rotate(self, team: str, key_id: str) -> str:
        self._open(team)
        return self._browser_session.rotate(self._label(key_id), "1")

    def unused_secrets(self, team: str, key_id: str) -> int:
        self._open(team)
        return self._card(key_id).locator("tbody tr").filter(has_text="never").count()

    def limit_key(self, team: str, key_id: str, rpm: int) -> None:
        self._open(team)
        self._card(key_id).get_by_text("Limits and label").click()
        self._page.locator(f"#key-{key_id}-rpm").fill(str(rpm))
        self._browser_session.press("Save limits", inside=self._card(key_id))
        self._page.get_by_role("status").get_by_text("The key was changed").wait_for()

    def spend(self, by: str, team: str | None = None) -> dict[str, Decimal]:
        if not self._page.title().startswith("Overview"):
            self._browser_session.go("Overview")
        self._page.locator("#team").select_option(label=team or "All teams")
        self._browser_session.press("Show")
        table = "Models" if by == "model" else "Who spent it"
        found: dict[str, Decimal] = {}
        for row in self._page.get_by_role("group", name=table, exact=True).locator("tbody tr").all():
            if row.locator("data").count():
                name = row.locator("td").first if by == "team" else row.locator("th")
                usd = Decimal(row.locator("data").get_attribute("value") or "0")
                found[name.inner_text()] = found.get(name.inner_text(), Decimal(0)) + usd
        return found

    def why_refused(self, team: str) -> list[str]:
        self._open(team)
        links = self._page.get_by_role("group", name="Last refused").get_by_role("link")
        return [self._why(path or "") for path in [link.get_attribute("href") for link in links.all()]]

    def grant(self, team: str, usd: str) -> None:
        self._open(team)
        self._page.get_by_label("Amount, USD").fill(usd)
        self._page.get_by_label("Note").fill("for the experiments")
        self._browser_session.press("Book it")
        self._page.get_by_role("status").get_by_text("The credits were posted.").wait_for()

    def turn_upstream(self, name: str, *, on: bool) -> None:
        self._browser_session.go("Upstreams")
        if on:
            self._browser_session.press(f"Put {name} back")
            self._page.get_by_text(f"Take {name} out …").wait_for()
        else:
            self._page.get_by_text(f"Take {name} out …").click()
            self._browser_session.press(f"Yes, take {name} out")
            self._page.get_by_role("button", name=f"Put {name} back").wait_for()

    def _open(self, team: str) -> None:
        """Opens a team's page: by the menu the first time, by its address from then on."""
        if team in self._addresses:
            self._page.goto(self._addresses[team])
            return
        self._browser_session.go("Teams")
        self._browser_session.follow(self._page.get_by_role("link", name=team, exact=True))
        self._browser_session.reads(team)
        self._addresses[team] = self._page.url

    def _card(self, key_id: str) -> Locator:
        return self._page.locator("li.key").filter(has_text=key_id)

    def _label(self, key_id: str) -> str:
        label = self._card(key_id).locator("h3").evaluate("heading => heading.firstChild.textContent")
        return str(label).strip()

    def _why(self, path: str) -> str:
        """Returns the reason on a refused request's page in the API's words: "key rpm rate_limit_exceeded"."""
        self._page.goto(path)
        said = self._page.locator(".alert").inner_text()
        found = re.search(r"\((.+), of the (\w+)\)", said)
        assert found is not None, said
        limit = next(name for name in LIMITS if limit_label(name) == found[1])
        code = self._page.locator(".facts code").inner_text()
        return f"{found[2]} {limit} {code}"


def test_the_operator_scenario_runs_with_the_dashboard_alone(browser_session: BrowserSession) -> None:
    browser_session.enter()
    run_operator_scenario(ByDashboard(browser_session), browser_session.gateway)
    browser_session.go("Audit")
    log = browser_session.page.get_by_role("group", name="Changes").inner_text()
    for action in ("created the team", "created the key", "rotated the key", "changed the key", "moved credits of"):
        assert action in log
    assert "disabled the upstream simulator" in log
    assert "enabled the upstream simulator" in log
