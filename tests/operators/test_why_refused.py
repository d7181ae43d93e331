"""Why a key is not valid, or no upstream is available: operators read the cause, and the client reads none."""

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.accounts.accounts import Changes
from gateway.errors import GatewayError
from gateway.identity.api_keys import INVALID_KEYS, checksum
from gateway.store.errors import StoreError
from gateway.store.keyspace import TeamKeys
from tests.support.admins import admin_client, done
from tests.support.dashboard_client import signed_in
from tests.support.gateway import NewKey, RunningGateway, running_gateway, simulator
from tests.support.ports import free_port
from tests.support.servers import Server, valkey_server
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync

HASTY = {"timeout_s": 0.5}
PAST_MS = 1_577_836_800_000  # 2020
BODY = {"model": "sim/echo", "input": "hello"}
LARGE = {"model": "sim/echo", "input": "x" * 300_000}
"""Its key is looked up before its body is read, by another script."""
CONTINUED = {"model": "sim/echo", "input": "hello", "previous_response_id": "resp_none"}
MESSAGE = "The API key is not valid. Send 'Authorization: Bearer sk-gw-...'."


class Watched(NamedTuple):
    """A gateway and what it logs."""

    gateway: RunningGateway
    log: io.StringIO

    def line(self, request_id: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            lines = [json.loads(text) for text in self.log.getvalue().splitlines() if request_id in text]
            found[:] = [line for line in lines if line["event"] == "request"]
            return bool(found)

        wait_until_sync(is_there, what="the log line")
        return found[0]


@pytest.fixture(scope="module")
def watched(store: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    log = io.StringIO()
    routes = [{"model": "*", "upstreams": ["simulator"]}, {"model": "kept/*", "upstreams": ["simulator"]}]
    routes[1]["state"] = "gateway"
    with (
        simulator() as upstream,
        running_gateway(store.url, upstream, tmp_path_factory.mktemp("data"), log_to=log, routes=routes) as gateway,
    ):
        yield Watched(gateway, log)


def expire_key(gateway: RunningGateway, key: NewKey) -> None:
    """The admin API sets no time that has passed; it passes."""
    accounts = gateway.services.accounts
    found = gateway.run(accounts.key(key.team, key.id))
    gateway.run(accounts.update_key(key.team, found, Changes(expires_ms=PAST_MS)))


def change_key(gateway: RunningGateway, key: NewKey, status: str) -> None:
    with admin_client(gateway) as admin:
        done(admin.patch(f"/teams/{key.team.id}/keys/{key.id}", json={"status": status}))


def disable_key(gateway: RunningGateway, key: NewKey) -> None:
    change_key(gateway, key, "disabled")


def revoke_key(gateway: RunningGateway, key: NewKey) -> None:
    change_key(gateway, key, "revoked")


def delete_key(gateway: RunningGateway, key: NewKey) -> None:
    with admin_client(gateway) as admin:
        done(admin.delete(f"/teams/{key.team.id}/keys/{key.id}"))


def disable_team(gateway: RunningGateway, key: NewKey) -> None:
    with admin_client(gateway) as admin:
        done(admin.patch(f"/teams/{key.team.id}", json={"status": "disabled"}))


def delete_team(gateway: RunningGateway, key: NewKey) -> None:
    with admin_client(gateway) as admin:
        done(admin.delete(f"/teams/{key.team.id}"))


def expire_team(gateway: RunningGateway, key: NewKey) -> None:
    gateway.run(gateway.services.accounts.update_team(key.team, Changes(expires_ms=PAST_MS)))


def rotate_out(gateway: RunningGateway, key: NewKey) -> None:
    with admin_client(gateway) as admin:
        done(admin.post(f"/teams/{key.team.id}/keys/{key.id}/rotate", json={"overlap_s": 0}))


CAUSES: list[tuple[Callable[[RunningGateway, NewKey], None], str, str]] = [
    (expire_key, "key_expired", "key expired 2020-01-01T00:00:00.000Z"),
    (disable_key, "key_disabled", "key disabled"),
    (revoke_key, "key_revoked", "key revoked"),
    (delete_key, "key_archived", "key deleted"),
    (disable_team, "team_disabled", "team disabled"),
    (delete_team, "team_archived", "team deleted"),
    (expire_team, "team_expired", "team expired 2020-01-01T00:00:00.000Z"),
    (rotate_out, "secret_ended", "the secret was rotated out 20"),
]


@pytest.mark.parametrize(
    "body", [BODY, LARGE, CONTINUED, {**CONTINUED, "model": "kept/x"}, {**BODY, "model": "kept/x"}]
)
@pytest.mark.parametrize(("cause", "reason", "detail"), CAUSES, ids=[reason for _, reason, _ in CAUSES])
def test_operators_read_why_a_key_is_not_valid_and_the_client_does_not(
    watched: Watched,
    cause: Callable[[RunningGateway, NewKey], None],
    reason: str,
    detail: str,
    body: dict[str, Any],
) -> None:
    gateway, key = watched.gateway, watched.gateway.new_key()
    before = counted(gateway, reason)
    with admin_client(gateway) as admin, gateway.http(key) as client:
        cause(gateway, key)
        answer = client.post("/v1/responses", json=body)
        assert (answer.status_code, answer.json()["error"]["message"]) == (401, MESSAGE)
        assert detail[:-2] not in answer.text
        request_id = answer.headers["x-request-id"]
        assert watched.line(request_id)["detail"].startswith(detail)
        wait_until_sync(
            lambda: admin.get(f"/requests/{request_id}").is_success, what="operators can look the request up"
        )
        shown = admin.get(f"/requests/{request_id}").json()
    assert (shown["code"], shown["message"]) == ("invalid_api_key", MESSAGE)
    assert shown["detail"].startswith(detail)
    wait_until_sync(lambda: counted(gateway, reason) == before + 1, what="the reason is counted")


def test_a_key_that_does_not_exist_has_a_cause_in_the_log(watched: Watched) -> None:
    one, other = watched.gateway.new_key(), watched.gateway.new_key()
    for text, reason in (("sk-gw-x", "malformed"), (with_other_key(one, other), "unknown_key")):
        with watched.gateway.http(text) as client:
            answer = client.post("/v1/responses", json=BODY)
        assert (answer.status_code, answer.json()["error"]["message"]) == (401, MESSAGE)
        assert watched.line(answer.headers["x-request-id"])["detail"] == INVALID_KEYS[reason]


def test_lists_show_what_has_expired(watched: Watched) -> None:
    key = watched.gateway.new_key()
    with admin_client(watched.gateway) as admin:
        assert not admin.get(f"/teams/{key.team.id}").json()["expired"]
        expire_key(watched.gateway, key)
        expire_team(watched.gateway, key)
        assert admin.get(f"/teams/{key.team.id}").json()["expired"]
        assert [one["expired"] for one in admin.get(f"/teams/{key.team.id}/keys").json()["data"]] == [True]


def test_operators_read_of_each_upstream_why_none_was_available(store: Server, tmp_path_factory: Any) -> None:
    log = io.StringIO()
    away = f"http://127.0.0.1:{free_port()}/v1"
    with simulator() as upstream:
        others = {"away": {"base_url": away, "api_keys": ["env:TEST_UPSTREAM_KEY"], "breaker_failures": 1}}
        others["out"] = {**others["away"], "base_url": upstream}
        with running_gateway(
            store.url,
            upstream,
            tmp_path_factory.mktemp("data"),
            log_to=log,
            upstreams=others,
            upstream={"breaker_failures": 1, "breaker_open_s": 60},
            route={"upstreams": ["simulator", "away", "out"]},
        ) as gateway:
            key = gateway.new_key()
            watched = Watched(gateway, log)
            with admin_client(gateway) as admin, gateway.http(key) as client:
                assert admin.post("/upstreams/out/disable").is_success
                out = gateway.services.handler.snapshot.upstreams["out"]
                wait_until_sync(lambda: not out.enabled, what="it is taken out")
                client.post("/v1/responses", json={"model": "sim/error-500", "input": "hi"})
                answer = client.post("/v1/responses", json={"model": "sim/error-500", "input": "hi"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_available_provider")
            assert "breaker" not in answer.text
            detail = watched.line(answer.headers["x-request-id"])["detail"]
    of_each = dict(part.split(": ", 1) for part in detail.split("; "))
    assert of_each["simulator"].startswith("the breaker of sim/error-500 is open since 20")
    assert ", the next try is in " in of_each["simulator"]
    assert of_each["simulator"].endswith("(last fault: status 500)")
    assert of_each["out"].startswith("taken out by root at 20")
    assert "connect" in of_each["away"], "also where its breaker is open: that names the last fault"


@pytest.mark.parametrize("how", ["paused", "stopped"])
def test_a_refusal_while_the_store_is_away_is_found_once_it_is_back(tmp_path: Path, how: str) -> None:
    with (
        valkey_server(appendonly="yes") as own_store,
        simulator() as upstream,
        running_gateway(own_store.url, upstream, tmp_path, store=HASTY) as gateway,
    ):
        key = gateway.new_key()
        with admin_client(gateway) as admin, gateway.http(key) as client:
            client.post("/v1/responses", json=BODY)
            away, back = {
                "paused": (own_store.pause, own_store.resume),
                "stopped": (own_store.stop, own_store.start),  # what is sent meanwhile never arrives
            }[how]
            away()
            try:
                answer = client.post("/v1/responses", json=BODY)
                with contextlib.suppress(GatewayError, StoreError):
                    gateway.run(gateway.services.reporter.flush())
            finally:
                back()
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
            request_id = answer.headers["x-request-id"]
            wait_until_sync(lambda: admin.get(f"/requests/{request_id}").is_success, what="it is written later")
            found = done(admin.get(f"/requests/{request_id}"))
            assert (found["state"], found["code"]) == ("refused", "store_unavailable")
            listed = [one["id"] for one in done(admin.get("/requests?outcome=refused"))["data"]]
            assert listed == [request_id], "once, whether or not it had been written while nobody was told so"


def test_lists_say_why(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    key = watched.gateway.new_key()
    expire_key(watched.gateway, key)
    with watched.gateway.http(key) as client:
        request_id = client.post("/v1/responses", json=BODY).headers["x-request-id"]
    with admin_client(watched.gateway) as admin:
        wait_until_sync(lambda: admin.get(f"/requests/{request_id}").is_success, what="it is written")
    shell = Shell(watched.gateway, capsys)
    assert "key expired 2020-01-01" in shell("requests", "list", "--team", key.team.id).out
    with signed_in(watched.gateway) as dashboard:
        for path in (f"/requests?team={key.team.id}", f"/teams/{key.team.id}"):
            assert "key expired 2020-01-01" in dashboard.get(path).text


@pytest.mark.parametrize(
    ("headers", "reason"),
    [({}, "no_key"), ({"authorization": "Basic abc"}, "no_scheme")],
)
def test_a_request_without_a_usable_key_is_counted_by_what_it_lacks(
    watched: Watched, headers: dict[str, str], reason: str
) -> None:
    before = counted(watched.gateway, reason)
    with watched.gateway.http() as client:
        answer = client.post("/v1/responses", json=BODY, headers=headers)
    assert answer.status_code == 401
    assert watched.line(answer.headers["x-request-id"])["detail"] == INVALID_KEYS[reason]
    wait_until_sync(lambda: counted(watched.gateway, reason) == before + 1, what="the reason is counted")


def counted(gateway: RunningGateway, reason: str) -> int:
    with gateway.http() as client:
        text = client.get("/metrics").text
    found = re.search(rf'^gateway_invalid_keys_total{{reason="{reason}"}} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


def with_other_key(key: NewKey, other: NewKey) -> str:
    """A well-formed key that names one team and a key of another."""
    text = key.text[:-8].replace(key.id, other.id)
    return text + checksum(text)


def test_a_key_remembers_the_ends_of_few_secrets(watched: Watched, store: Server) -> None:
    key = watched.gateway.new_key()
    for _ in range(12):
        rotate_out(watched.gateway, key)
    fields = [field.decode() for field in store.run("HKEYS", TeamKeys(key.team.id).key(key.id))]
    assert len([field for field in fields if field.startswith("e:")]) == 8
    assert len([field for field in fields if field.startswith("s:")]) == 1
