"""The pages for whoever runs the gateway: admin keys, the configuration and its mistakes, one request, the journal."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from playwright.sync_api import Browser

from gateway.config.settings import Settings
from tests.browser.browser_session import BrowserSession
from tests.support.admins import admin_client, done, new_team
from tests.support.gateway import RunningGateway, gateway_settings, running_gateway, simulator
from tests.support.servers import valkey_server


class File:
    """Stands for the configuration file. Mutable: its content."""

    def __init__(self) -> None:
        self.sections: dict[str, Any] = {}
        self.where: tuple[str, str, Path] | None = None

    def load(self) -> Settings:
        assert self.where is not None
        return gateway_settings(*self.where, **self.sections)


@pytest.fixture(scope="module")
def file() -> File:
    return File()


@pytest.fixture(scope="module")
def reloadable(file: File, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory: Path = tmp_path_factory.mktemp("gateway")
    with valkey_server() as store, simulator() as upstream:
        file.where = (store.url, upstream, directory)
        with running_gateway(store.url, upstream, directory, load=file.load) as running:
            yield running


@pytest.fixture
def runner(browser: Browser, reloadable: RunningGateway) -> Iterator[BrowserSession]:
    with BrowserSession.open(browser, reloadable) as opened:
        yield opened


def test_a_file_with_mistakes_changes_nothing_and_a_good_one_is_in_force(runner: BrowserSession, file: File) -> None:
    page = runner.page
    runner.enter("/configuration")
    prices = page.get_by_role("group", name="Prices")
    before = prices.inner_text()
    file.sections = {"upstream": {"ca_file": "nothing.pem", "base_url": "https://127.0.0.1:1/v1"}}
    runner.press("Read the file again")
    page.get_by_role("alert").get_by_text("nothing was changed").wait_for()
    assert page.get_by_role("alert").get_by_role("listitem").count() == 1
    assert prices.inner_text() == before
    assert runner.faults_of_accessibility() == []
    runner.picture("configuration-mistakes")
    file.sections = {"prices": {"*": {"input": "7.25", "output": "8"}}}
    runner.press("Read the file again")
    page.get_by_role("status").get_by_text("Changed: prices.").wait_for()
    assert "7.25" in prices.inner_text()
    assert page.get_by_role("alert").count() == 0


def test_a_lead_gets_an_admin_key_signs_in_and_loses_it(
    runner: BrowserSession, browser: Browser, reloadable: RunningGateway
) -> None:
    with admin_client(reloadable) as root:
        team = new_team(root, name="Led")
    page = runner.page
    runner.enter("/admin-keys")
    page.get_by_label("Name: whose it is").fill("Lea")
    page.get_by_label("Team that is led").select_option(label="Led")
    runner.press("Make the admin key")
    text = page.get_by_label("Admin key", exact=True).input_value()
    assert runner.faults_of_accessibility() == []
    with BrowserSession.open(browser, reloadable) as lead:
        lead.sign_in(text)
        lead.go("Team")
        lead.reads("Led")
        runner.go("Admin keys")
        assert text not in page.content()
        page.get_by_text("Revoke Lea").first.click()
        page.get_by_label("Type its name").fill("Lea")
        runner.press("Revoke Lea")
        page.get_by_role("status").get_by_text("revoked").wait_for()
        lead.page.goto(f"/dashboard/teams/{team['id']}")
        lead.page.get_by_role("heading", name="Sign in").wait_for()


def test_from_the_live_list_to_one_request_and_from_the_journal_too(
    runner: BrowserSession, reloadable: RunningGateway
) -> None:
    with admin_client(reloadable) as root:
        team = new_team(root, name="Followed")
        key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k", "limits": {"rpm": 1}}))["key"]
    page = runner.page
    runner.enter("/requests")
    live = page.locator("#live")
    live.get_by_text("live", exact=True).wait_for()
    runner.ask(key)
    with pytest.raises(openai.RateLimitError):
        runner.ask(key)
    runner.follow(live.get_by_role("row").filter(has_text="refused").get_by_role("link"))
    runner.reads("One request")
    assert "requests per minute, of the key" in page.locator(".alert").inner_text()
    runner.follow(page.get_by_role("link", name="Followed"))
    runner.follow(page.get_by_role("link", name="Journal"))
    page.locator("#type").select_option(label="charged")
    runner.press("Show")
    rows = page.get_by_role("group", name="Entries of the journal").locator("tbody tr")
    assert rows.count() == 1
    runner.follow(rows.get_by_role("link"))
    runner.reads("One request")
    assert "admission by the ledger" in page.get_by_role("group", name="What it took").inner_text()
    page.go_back()
    runner.reads("Journal of Followed")
