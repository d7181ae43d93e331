"""A real browser (Debian's Chromium) on a real gateway. Without one, the tests are skipped with the reason.

Every page is watched: an error on its console, a failed request or a violation of its policy fails the test. With
PICTURES set, pictures of the pages are saved in tests/browser/screenshots for people.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.browser_session import AXE, BrowserSession
from tests.support.gateway import RunningGateway, running_gateway, simulator
from tests.support.servers import valkey_server

START_MS = 120_000  # of a browser on a machine that does much else
# The suggestions of chromium's address bar (the headless shell has none) are pages, which cost a second of CPU time for
# each window that is opened. This list takes the place of Playwright's own, and so repeats it.
WITHOUT = (
    "WebUIOmniboxPopup",
    "WebUIOmniboxAimPopup",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsUpgrades",
    "HttpsFirstBalancedModeAutoEnable",
    "LensOverlay",
    "MediaRouter",
    "PaintHolding",
    "ThirdPartyStoragePartitioning",
    "AvoidCorsURLLoaderRestartOnRedirect",
    "OptimizationHints",
    "NetworkTimeServiceQuerying",
    "AimEnabled",
    "PreconnectToSearch",
)
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")


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
        pytest.skip("neither chromium-headless-shell nor chromium on PATH (Debian's packages of these names)")
    args = [f"--disable-features={','.join(WITHOUT)}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=args, timeout=START_MS)
        yield opened
        opened.close()


@pytest.fixture
def browser_session(browser: Browser, gateway: RunningGateway) -> Iterator[BrowserSession]:
    with BrowserSession.open(browser, gateway) as opened:
        yield opened


@pytest.fixture(scope="package")
def reading_room(browser: Browser, gateway: RunningGateway) -> Iterator[BrowserSession]:
    with BrowserSession.open(browser, gateway) as opened:
        opened.page.add_init_script(AXE)
        opened.enter()
        yield opened


@pytest.fixture
def reader(reading_room: BrowserSession) -> Iterator[BrowserSession]:
    """A session that all tests share that only read pages: it is signed in, and each of them opens what it reads."""
    yield reading_room
    reading_room.page.emulate_media(color_scheme="light")
    reading_room.assert_no_trouble()
