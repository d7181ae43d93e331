"""GET /: where a person who has only the host's name begins."""

from __future__ import annotations

import httpx
import pytest

from tests.support.gateway import RunningGateway, StartGateway

_BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_a_browser_is_led_to_the_dashboard(gateway: RunningGateway) -> None:
    answer = httpx.get(gateway.url + "/", headers=_BROWSER, trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard")


def test_without_an_admin_key_nobody_is_led_anywhere(start: StartGateway) -> None:
    with start(admin={"key": None}) as gateway:
        answer = httpx.get(gateway.url + "/", headers=_BROWSER, trust_env=False)
    assert answer.status_code == 200
    assert "dashboard" not in answer.json()


def test_everybody_else_is_told_what_this_is(gateway: RunningGateway) -> None:
    answer = httpx.get(gateway.url + "/", trust_env=False)
    assert answer.status_code == 200
    assert answer.json()["service"] == "OpenResponses gateway"
    assert "/v1" in answer.json()["message"]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_nothing_else_is_there(gateway: RunningGateway, method: str) -> None:
    assert httpx.request(method, gateway.url + "/", trust_env=False).status_code == 405
