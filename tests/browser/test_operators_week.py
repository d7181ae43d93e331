"""A platform engineer's week through the dashboard alone; the same week by API and by CLI is in tests/operators.

Three teams are set up, keys handed out, one key rotated under load, the money followed, a refusal explained, credits
topped up, an upstream taken out and put back.
"""

import threading
from typing import Self

import openai
import pytest

from tests.browser.desk import Desk


class Load:
    """Requests with whatever key is current, until told to stop. State that changes: all of it."""

    def __init__(self, desk: Desk, key: str) -> None:
        self.key = key
        self.done = 0
        self.failures: list[Exception] = []
        self._stop = threading.Event()
        self._desk = desk
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._desk.ask(self.key, "gpt-5")
                self.done += 1
            except openai.OpenAIError as failed:
                self.failures.append(failed)


def test_a_week_of_an_operator(desk: Desk) -> None:
    desk.sign_in()
    keys = {}
    for team, credits_usd in (("Week: shop", "3"), ("Week: mail", "2"), ("Week: lab", "0.0002")):
        desk.make_team(team, credits_usd)
        keys[team] = desk.make_key("service")

    open_team(desk, "Week: shop")
    with Load(desk, keys["Week: shop"]) as load:
        load.key = desk.rotate("service", "1")
        for _ in range(3):
            desk.ask(load.key)
    assert load.failures == []
    assert load.done > 0

    desk.ask(keys["Week: mail"], "claude-sonnet", "a letter " * 200)
    desk.go("Overview")
    desk.page.locator("#team").select_option(label="Week: mail")
    desk.page.get_by_role("button", name="Show").click()
    who = desk.page.get_by_role("group", name="Who spent it").get_by_role("row").nth(1)
    assert "Week: mail" in who.inner_text()
    assert "claude-sonnet" in desk.page.get_by_role("group", name="Models").inner_text()

    with pytest.raises(openai.APIStatusError) as refused:
        desk.ask(keys["Week: lab"], text="an experiment " * 500)
    assert refused.value.status_code == 402
    open_team(desk, "Week: lab")
    why = desk.page.get_by_role("group", name="Last refused")
    desk.reload_until(why.get_by_text("credits"))

    desk.page.get_by_label("Amount, USD").fill("5")
    desk.page.get_by_label("Note").fill("for the experiments")
    desk.page.get_by_role("button", name="Book it").click()
    desk.page.get_by_role("status").get_by_text("The credits are booked.").wait_for()
    assert desk.ask(keys["Week: lab"], text="an experiment " * 500)

    desk.go("Upstreams")
    desk.page.get_by_role("button", name="Take simulator out").click()
    desk.page.get_by_text("out of service").wait_for()
    with pytest.raises(openai.InternalServerError) as nobody:
        desk.ask(keys["Week: mail"])
    assert nobody.value.code == "no_available_provider"
    desk.page.get_by_role("button", name="Put simulator back").click()
    desk.page.get_by_role("button", name="Take simulator out").wait_for()
    assert desk.ask(keys["Week: mail"])

    desk.go("Audit")
    log = desk.page.get_by_role("group", name="Changes").inner_text()
    for action in ("POST /teams", "/rotate", "/credits", "/disable", "/enable"):
        assert action in log


def open_team(desk: Desk, name: str) -> None:
    desk.go("Teams")
    desk.page.get_by_role("link", name=name).click()
    desk.page.get_by_role("heading", name=name, level=1).wait_for()
