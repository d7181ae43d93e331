"""Upstreams: what every worker sees of them, and taking one out on all of them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.admins import admin_client, code_of, done, new_team
from tests.support.answering_provider import Answer, AnsweringProvider
from tests.support.dashboard_client import signed_in
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.servers import Server
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync


def works(gateway: RunningGateway, key: str) -> bool:
    with gateway.sdk(key) as client:
        try:
            client.responses.create(model="a/model", input="x")
        except openai.InternalServerError as error:
            return error.code != "no_available_provider"
    return True


def test_an_upstream_that_is_taken_out_is_asked_by_no_worker_until_it_is_back(
    store: Server, upstream: str, gateway: RunningGateway, tmp_path: Path
) -> None:
    with admin_client(gateway) as root, running_gateway(store.url, upstream, tmp_path / "second") as second:
        team = new_team(root)
        key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"]
        wait_until_sync(lambda: len(done(root.get("/upstreams"))["data"][0]["workers"]) == 2, what="both report")

        taken = done(root.post("/upstreams/simulator/disable"))
        assert (taken["enabled"], taken["healthy"], taken["disabled_by"]) == (False, False, "root")
        assert not works(gateway, key), "at once where it was said"
        wait_until_sync(lambda: not works(second, key), what="the other worker has heard of it")
        with running_gateway(store.url, upstream, tmp_path / "third") as third:
            assert not works(third, key), "a worker that starts later knows from its beginning"

        back = done(root.post("/upstreams/simulator/enable"))
        assert (back["enabled"], back["healthy"]) == (True, True)
        assert works(gateway, key)
        wait_until_sync(lambda: works(second, key), what="the other worker has heard of it")


def test_both_are_in_the_audit_log(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        done(root.post("/upstreams/simulator/disable"))
        done(root.post("/upstreams/simulator/enable"))
        enabled, disabled = done(root.get("/audit", params={"limit": 2}))["data"]
        assert (disabled["before"]["enabled"], disabled["after"]["enabled"]) == (True, False)
        assert (enabled["before"]["enabled"], enabled["after"]["enabled"]) == (False, True)


def test_a_worker_tells_of_breaker_keys_and_connections(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        wait_until_sync(lambda: bool(done(root.get("/upstreams"))["data"][0]["workers"]), what="a report")
        (found,) = done(root.get("/upstreams"))["data"]
        worker = found["workers"][0]
        assert (found["name"], worker["breaker"]) == ("simulator", "closed")
        assert worker["keys"] == [{"number": 0, "rests_s": 0.0}]


def test_all_say_why_an_upstream_is_not_asked_and_until_when(
    own_store: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A provider limits one model of the only key, and then refuses the key."""
    limited = Answer({"error": {"message": "slow down"}}, status=429, headers={"retry-after": "60"})
    answers = {"next": limited}
    with (
        AnsweringProvider.serving(lambda _: answers["next"]) as provider,
        running_gateway(own_store.url, provider.url, tmp_path) as gateway,
        admin_client(gateway) as root,
        signed_in(gateway) as dashboard,
    ):
        shell, key = Shell(gateway, capsys), gateway.new_key()

        def ask(model: str, status: int) -> None:
            with gateway.http(key.text) as client:
                assert client.post("/v1/responses", json={"model": model, "input": "x"}).status_code == status

        def wait_for(state: str, models: list[str]) -> dict[str, Any]:
            def is_said() -> bool:
                (one,) = done(root.get("/upstreams"))["data"]
                found.update(one)
                return (one["state"], [down["model"] for down in one["models_affected"]]) == (state, models)

            found: dict[str, Any] = {}
            wait_until_sync(is_said, what=f"{state}, {models}")
            return found

        assert wait_for("healthy", [])["until"] is None
        ask("a/one", 429)
        assert wait_for("healthy", ["a/one"])["models_affected"][0]["state"] == "keys_rest"
        assert "a/one: keys rest until" in shell("upstreams", "list").out
        assert "<code>a/one</code>" in dashboard.get("/upstreams").text

        answers["next"] = Answer({"error": {"message": "no such key"}}, status=401)
        ask("a/two", 502)
        resting = wait_for("keys_rest", ["a/one"])
        assert (resting["healthy"], resting["until"] > datetime.now(UTC).isoformat()) == (False, True)
        assert httpx.get(f"{gateway.url}/readyz").status_code == 200, "a resting key is used if no other is left"
        told = shell("upstreams", "list").out
        assert f"keys rest  {resting['until'][:16]}" in told
        assert "asked only where no other is left" in told
        page = dashboard.get("/upstreams").text
        assert "keys rest</span>" in page
        assert "asked only where no other upstream is left" in page


@pytest.mark.parametrize("verb", ["disable", "enable"])
def test_an_upstream_that_is_not_there_is_not_found(gateway: RunningGateway, verb: str) -> None:
    with admin_client(gateway) as root:
        answer: httpx.Response = root.post(f"/upstreams/nobody/{verb}")
        assert (answer.status_code, code_of(answer)) == (404, "upstream_not_found")


def test_a_worker_that_ended_is_not_listed(
    store: Server, upstream: str, gateway: RunningGateway, tmp_path: Path
) -> None:
    with admin_client(gateway) as root:
        with running_gateway(store.url, upstream, tmp_path):
            wait_until_sync(lambda: len(done(root.get("/config"))["workers"]) == 2, what="both report")
        assert len(done(root.get("/config"))["workers"]) == 1
