"""Signing in at an identity provider of another site, in a real browser: the strict cookie of the session works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.browser_session import BrowserSession
from tests.support.gateway import RunningGateway, running_gateway, simulator
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, Provider, identity_provider
from tests.support.servers import valkey_server


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with identity_provider() as running:
        running.url = running.url.replace("127.0.0.1", "localhost")  # another site than the gateway's
        running.reset(sub="alice-1", email="alice@example.com", groups=["gateway-admins"])
        yield running


@pytest.fixture(scope="module")
def trusting_gateway(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory: Path = tmp_path_factory.mktemp("gateway")
    (directory / "secret").write_text(CLIENT_SECRET)
    oidc = {
        "issuer": provider.url,
        "client_id": CLIENT_ID,
        "client_secret": f"file:{directory / 'secret'}",
        "label": "Example ID",
        "groups": {"gateway-admins": "all"},
    }
    with (
        valkey_server() as store,
        simulator() as upstream,
        running_gateway(store.url, upstream, directory, oidc=oidc) as running,
    ):
        yield running


def test_one_click_leads_to_the_page_that_was_wanted(browser: Browser, trusting_gateway: RunningGateway) -> None:
    with BrowserSession.open(browser, trusting_gateway) as session:
        session.page.goto("/dashboard/teams")
        session.page.get_by_role("link", name="Sign in by Example ID").click()
        session.reads("Teams")
        session.page.wait_for_load_state()
        assert session.page.url.endswith("/dashboard/teams")
        assert session.page.get_by_text("alice@example.com").is_visible()
        session.press("Sign out")
        session.page.get_by_role("link", name="Sign in by Example ID").wait_for()
        session.picture("sign-in-by-provider")
