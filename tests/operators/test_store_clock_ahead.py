"""A store whose clock is two hours ahead: requests count by its clock, and no default report hides them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.admins import admin_client, done
from tests.support.dashboard_client import signed_in
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.servers import valkey_server
from tests.support.shifted_clock import clock_of

AHEAD_S = 2 * 3600


@pytest.fixture
def ahead(upstream: str, tmp_path: Path) -> Iterator[RunningGateway]:
    with (
        clock_of(tmp_path, AHEAD_S) as clock,
        valkey_server(binary=clock.program) as store,
        running_gateway(store.url, upstream, tmp_path) as gateway,
    ):
        seconds, _ = store.run("TIME")
        assert int(seconds) - time.time() > AHEAD_S - 60, "the server has another clock"
        yield gateway


def test_no_default_report_hides_its_requests(ahead: RunningGateway) -> None:
    key = ahead.new_key()
    with ahead.sdk(key) as client:
        client.responses.create(model="o4-mini", input="hello")
    with admin_client(ahead) as root:
        for step in ("hour", "day"):
            for by in ("model", "key", "team"):
                usage = done(root.get("/usage", params={"step": step, "by": by}))
                assert usage["total"]["requests"] == 1, (step, by)
        assert done(root.get("/requests"))["data"]
    with signed_in(ahead) as dashboard:
        for days in ("1", "7", "30"):
            assert "<dt>Requests charged</dt><dd>1</dd>" in dashboard.get(f"?days={days}").text


def test_admins_change_names_and_make_keys_right_after_the_clock_has_jumped_ahead(
    upstream: str, tmp_path: Path
) -> None:
    with (
        clock_of(tmp_path) as clock,
        valkey_server(binary=clock.program) as store,
        running_gateway(store.url, upstream, tmp_path) as gateway,
        admin_client(gateway) as root,
    ):
        team = done(root.post("/teams", json={"name": "before"}))
        clock.ahead_s = AHEAD_S
        renamed = done(root.patch(f"/teams/{team['id']}", json={"name": "after"}))
        assert renamed["name"] == done(root.get("/teams/after"))["name"]
        clock.ahead_s = 2 * AHEAD_S
        assert done(root.post("/teams", json={"name": "another", "credits_usd": "1"}))["balance"]["granted_usd"] == "1"
        clock.ahead_s = 3 * AHEAD_S
        assert done(root.post("/admin-keys", json={"name": "ada", "scope": "read"}))["key"]
