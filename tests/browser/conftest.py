"""A real browser (Debian's Chromium) on a real gateway. Without one, the tests are skipped with the reason.

Every page is watched: an error on its console, a failed request or a violation of its policy fails the test. Pictures
of the pages are saved in tests/browser/screenshots for people.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.browser_session import BrowserSession
from tests.support.gateway import RunningGateway, running_gateway, simulator
from tests.support.servers import valkey_server

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory: Path = tmp_path_factory.mktemp("gateway")
    with (
        valkey_server() as store,
        simulator() as upstream,
        running_gateway(store.url, upstream, directory, admin={"sign_in_attempts": 1000}) as running,
    ):
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH (Debian's package chromium)")
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=as_root)
        yield opened
        opened.close()


@pytest.fixture
def browser_session(browser: Browser, gateway: RunningGateway) -> Iterator[BrowserSession]:
    with BrowserSession.open(browser, gateway) as opened:
        yield opened


@pytest.fixture
def lead_desk(browser: Browser, gateway: RunningGateway) -> Iterator[BrowserSession]:
    """A second user, with a browser session of their own."""
    with BrowserSession.open(browser, gateway) as opened:
        yield opened
