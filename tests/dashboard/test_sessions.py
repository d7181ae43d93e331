"""Signing in: what it requires, the cookie, when a session ends, how many attempts are permitted."""

import time
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from gateway.accounts.sessions import MAX_SESSION_S, Sessions
from gateway.store.keyspace import sign_in
from tests.support.admins import admin_client, done, new_admin
from tests.support.dashboard_client import signed_in, signed_out
from tests.support.gateway import ADMIN_KEY, RunningGateway, running_gateway
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync


@pytest.mark.parametrize("path", ["", "/teams", "/requests", "/upstreams", "/audit", "/live", "/charts/spend.svg"])
def test_every_page_asks_strangers_to_sign_in(gateway: RunningGateway, path: str) -> None:
    with signed_out(gateway) as dashboard:
        answer = dashboard.get(path)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/dashboard/login?next=")


@pytest.mark.parametrize("key", ["", "wrong", ADMIN_KEY + "x", "sk-gwa-0123456789-" + "a" * 51, "schlüssel ✓"])
def test_a_wrong_key_does_not_sign_in(gateway: RunningGateway, key: str) -> None:
    with signed_out(gateway) as dashboard:
        answer = dashboard.try_to_sign_in(key)
        assert answer.status_code == 401
        assert "not valid" in answer.text
        assert "gateway_session" not in answer.cookies


@pytest.mark.parametrize(("proto", "secure"), [(None, False), ("https", True), ("https, http", True), ("http", False)])
def test_the_cookie_is_for_this_site_alone_and_out_of_reach_of_scripts(
    gateway: RunningGateway, proto: str | None, *, secure: bool
) -> None:
    with signed_out(gateway) as dashboard:
        token = dashboard.token("/login")
        headers = {"x-forwarded-proto": proto} if proto else {}
        answer = dashboard.client.post("/dashboard/login", data={"csrf": token, "key": ADMIN_KEY}, headers=headers)
    cookies = [SimpleCookie(text) for text in answer.headers.get_list("set-cookie")]
    session = next(cookie["gateway_session"] for cookie in cookies if "gateway_session" in cookie)
    assert session["httponly"]
    assert session["samesite"].lower() == "strict"
    assert session["path"] == "/dashboard"
    assert bool(session["secure"]) is secure
    assert ADMIN_KEY not in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("wanted", "then"),
    [
        ("/dashboard/teams", "/dashboard/teams"),
        ("https://elsewhere.example", "/dashboard"),
        ("//elsewhere.example", "/dashboard"),
        ("/dashboard@elsewhere.example", "/dashboard"),
        ("/dashboard/\\elsewhere.example", "/dashboard"),
        ("/dashboard/\r\nset-cookie: a=b", "/dashboard"),
        ("/admin/v1/teams", "/dashboard"),
    ],
)
def test_signing_in_leads_to_a_page_of_the_dashboard(gateway: RunningGateway, wanted: str, then: str) -> None:
    with signed_out(gateway) as dashboard:
        answer = dashboard.try_to_sign_in(ADMIN_KEY, next=wanted)
        assert (answer.status_code, answer.headers["location"]) == (303, then)


def test_after_signing_out_the_cookie_opens_nothing(gateway: RunningGateway) -> None:
    with signed_in(gateway) as dashboard:
        cookie = dashboard.client.cookies["gateway_session"]
        assert dashboard.get().status_code == 200
        assert dashboard.send("/logout").status_code == 303
        dashboard.client.cookies.set("gateway_session", cookie, path="/dashboard")
        assert dashboard.get().status_code == 303


def test_a_deleted_admin_key_ends_its_sessions_at_once(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        made = done(root.post("/admin-keys", json={"name": "gone soon", "scope": "all"}))
        with signed_in(gateway, made["key"]) as dashboard:
            assert dashboard.get().status_code == 200
            done(root.delete(f"/admin-keys/{made['id']}"))
            assert dashboard.get().status_code == 303


def test_an_expired_admin_key_ends_its_sessions(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
        key = new_admin(root, "all", expires_at=soon)
    with signed_in(gateway, key) as dashboard:
        wait_until_sync(lambda: dashboard.get().status_code == 303, what="the session ends")


def test_the_store_holds_neither_the_key_nor_the_cookie(gateway: RunningGateway, store: Server) -> None:
    with signed_in(gateway) as dashboard:
        cookie = dashboard.client.cookies["gateway_session"]

        async def everything() -> list[bytes]:
            run = gateway.services.store.run
            names = await run("KEYS", "gw:session:*", key="gw:session:")
            return [*names, *[await run("GET", name.decode()) for name in names]]

        found = gateway.run(everything())
    assert len(found) >= 2
    assert not any(secret.encode() in text for secret in (cookie, ADMIN_KEY) for text in found)


def test_a_session_ends_after_twelve_hours_however_busy(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with signed_in(gateway) as dashboard:
        assert dashboard.get().status_code == 200
        now_ns = time.time_ns()
        monkeypatch.setattr("gateway.accounts.sessions.time.time_ns", lambda: now_ns + (MAX_SESSION_S + 1) * 10**9)
        assert dashboard.get().status_code == 303


def test_a_session_of_another_root_key_is_not_taken(gateway: RunningGateway) -> None:
    async def find(key: bytes) -> object:
        sessions: Sessions = gateway.services.sessions
        return await sessions.find(await sessions.open("root", b"the root key"), key)

    assert gateway.run(find(b"the root key")) is not None
    assert gateway.run(find(b"the next root key")) is None


def test_an_unused_session_ends(store: Server, upstream: str, tmp_path: Path) -> None:
    with running_gateway(store.url, upstream, tmp_path, admin={"session_ttl_s": 60}) as gateway, signed_in(gateway):

        async def lives_ms() -> list[int]:
            run = gateway.services.store.run
            names = await run("KEYS", "gw:session:*", key="gw:session:")
            return [await run("PTTL", name.decode()) for name in names]

        assert any(0 < life <= 60_000 for life in gateway.run(lives_ms()))


def forget_attempts(gateway: RunningGateway) -> None:
    async def forget() -> None:
        await gateway.services.store.run("DEL", sign_in("127.0.0.1"))

    gateway.run(forget())


def test_attempts_are_limited_by_address(store: Server, upstream: str, tmp_path: Path) -> None:
    with (
        running_gateway(store.url, upstream, tmp_path, admin={"sign_in_attempts": 3}) as gateway,
        signed_out(gateway) as dashboard,
    ):
        forget_attempts(gateway)
        for _ in range(3):
            assert dashboard.try_to_sign_in("wrong").status_code == 401
        refused = dashboard.try_to_sign_in("wrong")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert "Too many attempts" in refused.text
        assert dashboard.try_to_sign_in(ADMIN_KEY).status_code == 303, "nobody locks the right key out"
        assert dashboard.try_to_sign_in("wrong").status_code == 429, "and it buys no attempts"
        assert gateway.services.admins.sign_ins["wrong"] >= 5
        assert gateway.services.admins.sign_ins["right"] >= 1


def test_attempts_through_a_trusted_proxy_count_against_the_one_behind_it(
    store: Server, upstream: str, tmp_path: Path
) -> None:
    trusting = {"trusted_proxies": ["127.0.0.1/32"]}
    with (
        running_gateway(store.url, upstream, tmp_path, admin={"sign_in_attempts": 1}, server=trusting) as gateway,
        signed_out(gateway) as dashboard,
    ):
        statuses = []
        for host in ("2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:2::1"):
            dashboard.client.headers["x-forwarded-for"] = host
            statuses.append(dashboard.try_to_sign_in("wrong").status_code)
    assert statuses == [401, 429, 401], "one host has a whole /64"


def test_wrong_keys_count_with_those_of_the_api(store: Server, upstream: str, tmp_path: Path) -> None:
    few = {"auth_failures_per_minute": 1}
    with running_gateway(store.url, upstream, tmp_path, server=few) as gateway, signed_out(gateway) as dashboard:
        forget_attempts(gateway)
        assert [dashboard.try_to_sign_in("wrong").status_code for _ in range(2)] == [401, 429]
