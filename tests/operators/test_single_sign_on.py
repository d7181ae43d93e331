"""Operators sign in at an identity provider: in the dashboard and from the command line; their groups say what for."""

from __future__ import annotations

import base64
import json
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from starlette.responses import JSONResponse

from gateway.accounts.admin_keys import MAX_SIGN_INS
from tests.support.admins import admin_client, code_of, done, new_team
from tests.support.dashboard_client import DashboardClient, signed_out
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, Provider, identity_provider, new_key, text
from tests.support.servers import valkey_server
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[Provider]:
    with identity_provider() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    shared_provider: Provider, upstream: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    secret = tmp_path_factory.mktemp("oidc") / "secret"
    secret.write_text(CLIENT_SECRET)
    oidc = {
        "issuer": shared_provider.url,
        "client_id": CLIENT_ID,
        "client_secret": f"file:{secret}",
        "label": "Example ID",
        "groups": {"gateway-admins": "all", "auditors": "read", "search": "team:search"},
    }
    with (
        valkey_server() as store,
        running_gateway(
            store.url, upstream, secret.parent / "data", admin={"sign_in_attempts": 1000}, oidc=oidc
        ) as running,
    ):
        yield running


@pytest.fixture
def provider(shared_provider: Provider) -> Provider:
    shared_provider.reset(sub="alice-1", email="alice@example.com", groups=["staff", "gateway-admins"])
    return shared_provider


@pytest.fixture
def browser(gateway: RunningGateway) -> Iterator[DashboardClient]:
    with signed_out(gateway) as dashboard:
        yield dashboard


def sign_in(browser: DashboardClient, wanted: str = "/dashboard/teams") -> httpx.Response:
    """Follows the redirects to the provider and back, as a browser does."""
    there = browser.client.get("/dashboard/login/oidc", params={"next": wanted})
    assert there.status_code == 303, there.text
    back = httpx.get(there.headers["location"])
    return browser.client.get(back.headers["location"])


def whoami(gateway: RunningGateway, name: str) -> list[dict[str, Any]]:
    with admin_client(gateway) as root:
        return [key for key in done(root.get("/admin-keys"))["data"] if key["name"] == name]


def test_the_sign_in_page_offers_it(browser: DashboardClient) -> None:
    assert "Sign in by Example ID" in browser.get("/login").text


def test_a_person_signs_in_and_is_named_in_the_audit_log(
    gateway: RunningGateway, provider: Provider, browser: DashboardClient
) -> None:
    answer = sign_in(browser)
    assert answer.status_code == 200
    assert 'content="0; url=/dashboard/teams"' in answer.text, "a page: SameSite=Strict keeps a cookie from a redirect"
    assert browser.get("/teams").status_code == 200
    name = f"team of alice {time.time_ns()}"
    assert browser.send("/teams", name=name).status_code == 303
    with admin_client(gateway) as root:
        (entry, *_) = done(root.get("/audit"))["data"]
    assert (entry["actor_name"], entry["action"]) == ("alice@example.com", "POST /teams")
    assert browser.send("/logout").status_code == 303
    assert browser.get("/teams").status_code == 303


@pytest.mark.parametrize(
    ("groups", "scope"),
    [(["auditors"], "read"), (["auditors", "gateway-admins"], "all"), ("auditors", "read"), (["search"], "team")],
    ids=str,
)
def test_groups_say_what_a_person_may_do_the_first_one_of_the_configuration(
    gateway: RunningGateway, provider: Provider, browser: DashboardClient, groups: Any, scope: str
) -> None:
    with admin_client(gateway) as root:
        if root.get("/teams/search").is_error:
            new_team(root, name="search")
    provider.person |= {"sub": f"someone-{groups}", "email": f"{groups}@example.com", "groups": groups}
    assert sign_in(browser).status_code == 200
    (key,) = whoami(gateway, f"{groups}@example.com"[:64])
    assert key["scope"] == scope
    assert (key["team_id"] is not None) is (scope == "team")


@pytest.mark.parametrize("groups", [[], ["staff"], None, {"gateway-admins": 1}, [["gateway-admins"]]], ids=str)
def test_nobody_else_may_sign_in(
    gateway: RunningGateway, provider: Provider, browser: DashboardClient, groups: Any
) -> None:
    provider.person |= {"sub": "mallory", "email": "mallory@example.com", "groups": groups}
    answer = sign_in(browser)
    assert answer.status_code == 401
    assert "in no group that may sign in" in answer.text
    assert browser.get("/teams").status_code == 303
    assert whoami(gateway, "mallory@example.com") == []


def test_groups_may_be_in_the_userinfo_of_the_same_person_alone(provider: Provider, browser: DashboardClient) -> None:
    provider.person["groups"] = None
    provider.userinfo = {"sub": "somebody else", "groups": ["gateway-admins"]}
    assert sign_in(browser).status_code == 401
    provider.userinfo["sub"] = "alice-1"
    assert sign_in(browser).status_code == 200


def another_key(claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256", "kid": "first"}, claims, new_key("first"))


def by_the_secret(claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(CLIENT_SECRET), algorithms=["HS256"])


def unsigned(claims: dict[str, Any]) -> str:
    parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


WRONG: dict[str, dict[str, Any]] = {
    "issuer": {"claims": {"iss": "https://elsewhere.example"}},
    "no issuer": {"claims": {"iss": None}},
    "audience": {"claims": {"aud": "another client"}},
    "authorised party": {"claims": {"aud": [CLIENT_ID, "other"], "azp": "other"}},
    "expired": {"claims": {"exp": 1_000_000_000}},
    "issued in the future": {"claims": {"iat": 4_000_000_000}},
    "nonce": {"claims": {"nonce": "of another sign-in"}},
    "no nonce": {"claims": {"nonce": None}},
    "no subject": {"claims": {"sub": None}},
    "access token": {"claims": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}},
    "signed by another key": {"sign": another_key},
    "signed by the client's secret": {"sign": by_the_secret},
    "not signed": {"sign": unsigned},
    "no token": {"sign": lambda _claims: ""},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_an_id_token_that_is_not_valid_signs_nobody_in(
    provider: Provider, browser: DashboardClient, wrong: dict[str, Any]
) -> None:
    provider.claims = wrong.get("claims", {})
    provider.sign = wrong.get("sign")
    answer = sign_in(browser)
    assert answer.status_code == 401, answer.text
    assert browser.get("/teams").status_code == 303


def test_new_keys_of_the_provider_are_read_when_a_token_needs_them(
    provider: Provider, browser: DashboardClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.oidc.provider._KEYS_EVERY_S", 0.0)
    assert sign_in(browser).status_code == 200
    provider.key = new_key("second")
    assert sign_in(browser).status_code == 200
    assert provider.asked.count("keys") >= 1


BROKEN: dict[str, Callable[[], Any]] = {
    "an error page": lambda: text("<html>", 500),
    "no JSON": lambda: text("{"),
    "a list": lambda: JSONResponse([]),
    "a long answer": lambda: text("x" * 2_000_000),
    "a redirect": lambda: text("", 302),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_a_provider_that_is_broken_is_named_and_nobody_is_signed_in(
    provider: Provider, browser: DashboardClient, answer: Callable[[], Any]
) -> None:
    provider.fault["token"] = answer()
    refused = sign_in(browser)
    assert refused.status_code == 503
    assert "identity provider" in refused.text
    assert browser.get("/teams").status_code == 303


def test_a_sign_in_that_another_browser_has_begun_is_not_completed(
    gateway: RunningGateway, provider: Provider, browser: DashboardClient
) -> None:
    there = browser.client.get("/dashboard/login/oidc")
    back = httpx.get(there.headers["location"]).headers["location"]
    with signed_out(gateway) as victim:
        assert victim.client.get(back).status_code == 403
        victim.client.get("/dashboard/login/oidc")
        assert victim.client.get(back).status_code == 403, "the state is that of the other browser"
        assert victim.get("/teams").status_code == 303
    assert "token" not in provider.asked


def test_a_code_is_of_use_once(provider: Provider, browser: DashboardClient) -> None:
    there = browser.client.get("/dashboard/login/oidc")
    cookies = dict(browser.client.cookies)
    back = httpx.get(there.headers["location"]).headers["location"]
    assert browser.client.get(back).status_code == 200
    browser.client.cookies.clear()
    browser.client.cookies.update(cookies)
    assert browser.client.get(back).status_code == 401


@pytest.mark.parametrize("wanted", ["https://elsewhere.example/", "//elsewhere.example", "/v1/models"])
def test_it_leads_to_pages_of_the_dashboard_alone(provider: Provider, browser: DashboardClient, wanted: str) -> None:
    assert 'content="0; url=/dashboard"' in sign_in(browser, wanted).text


def test_the_provider_is_told_where_to_come_back_to(browser: DashboardClient, provider: Provider) -> None:
    there = browser.client.get(
        "/dashboard/login/oidc", headers={"host": "gateway.example.com", "x-forwarded-proto": "https"}
    )
    query = parse_qs(urlsplit(there.headers["location"]).query)
    assert query["redirect_uri"] == ["https://gateway.example.com/dashboard/login/callback"]
    assert "secure" in there.headers["set-cookie"].lower()


def test_a_form_of_an_ended_session_is_kept_while_somebody_signs_in(
    gateway: RunningGateway, provider: Provider, browser: DashboardClient
) -> None:
    sign_in(browser)
    token = browser.token("/teams")
    key = whoami(gateway, "alice@example.com")[-1]
    with admin_client(gateway) as root:
        done(root.delete(f"/admin-keys/{key['id']}"))
    kept = browser.client.post("/dashboard/teams", data={"csrf": token, "name": "kept"})
    assert "is kept" in kept.text
    form = {
        "csrf": browser.token("/login"),
        "kept_path": "/dashboard/teams",
        "kept_fields": '{"name": "kept"}',
        "signed_in": "1",
    }
    assert browser.client.post("/dashboard/login", data=form).status_code == 401
    sign_in(browser)
    form["csrf"] = browser.token("/login")
    assert "Send it now?" in browser.client.post("/dashboard/login", data=form).text


def test_a_person_has_a_bounded_number_of_sign_ins(
    gateway: RunningGateway, provider: Provider, browser: DashboardClient
) -> None:
    provider.person |= {"sub": "often", "email": "often@example.com"}
    for _ in range(MAX_SIGN_INS + 2):
        assert sign_in(browser).status_code == 200
    assert len(whoami(gateway, "often@example.com")) == MAX_SIGN_INS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_line_signs_in_and_out(
    gateway: RunningGateway, provider: Provider, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(gateway, capsys, admin_key="")
    assert "gateway login" in shell("whoami").err
    done_ = shell("login")
    assert done_.code == 0, done_
    assert "ABCD-EFGH" in done_.err
    assert "alice@example.com" in done_.out
    (kept,) = (here / "gateway" / "signed-in").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text() not in done_.out + done_.err
    assert "alice@example.com" in shell("whoami").out
    key = kept.read_text()
    assert "signed out" in shell("logout").out
    assert not kept.exists()
    with admin_client(gateway, key) as client:
        assert code_of(client.get("/whoami")) == "invalid_admin_key"
    assert shell("logout").code == 2


def test_a_command_line_waits_until_the_code_is_entered(gateway: RunningGateway, provider: Provider) -> None:
    provider.approved = False
    with httpx.Client(base_url=f"{gateway.url}/admin/v1") as client:
        begun = done(client.post("/sign-in", json={}))
        code = {"device_code": begun["device_code"]}
        waiting = client.post("/sign-in/token", json=code)
        assert (waiting.status_code, waiting.json()["status"]) == (202, "pending")
        provider.approved = True
        admitted = client.post("/sign-in/token", json=code)
        assert done(admitted)["scope"] == "all"
        assert admitted.headers["cache-control"] == "no-store"
        assert code_of(client.post("/sign-in/token", json=code)) == "sign_in_failed"
        assert code_of(client.post("/sign-in/token", json={"device_code": "x" * 5000})) == "invalid_field"
        assert code_of(client.post("/sign-in/token", content=b"{" * 300_000)) == "body_too_large"


def test_a_command_line_that_asks_too_often_slows_down(
    gateway: RunningGateway, provider: Provider, here: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    provider.fault["token"] = JSONResponse({"error": "slow_down"}, 400)
    with httpx.Client(base_url=f"{gateway.url}/admin/v1") as client:
        code = {"device_code": done(client.post("/sign-in", json={}))["device_code"]}
        refused = client.post("/sign-in/token", json=code)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    pauses: list[float] = []

    def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 3:
            provider.fault.clear()

    monkeypatch.setattr("gateway.cli.sign_in.sleep", sleep)
    assert Shell(gateway, capsys, admin_key="")("login").code == 0
    assert pauses == [0, 5, 10]
    assert (here / "gateway" / "signed-in").is_dir()


def test_only_a_sign_in_ends_by_signing_out(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        assert code_of(root.delete("/sign-in")) == "admin_key_not_found"


def test_a_sign_in_deletes_itself(shared_provider: Provider, upstream: str, tmp_path: Path, provider: Provider) -> None:
    oidc = {
        "issuer": shared_provider.url,
        "client_id": CLIENT_ID,
        "client_secret": "env:OIDC_TEST_SECRET",
        "groups": {"gateway-admins": "all"},
    }
    with pytest.MonkeyPatch.context() as patch, valkey_server() as store:
        patch.setenv("OIDC_TEST_SECRET", CLIENT_SECRET)
        with running_gateway(store.url, upstream, tmp_path, oidc=oidc, admin={"sign_in_attempts": 2}) as running:
            assert running.services.sign_on is not None
            running.services.sign_on._lasts_s = 1  # noqa: SLF001 - less than may be set
            with signed_out(running) as browser:
                assert sign_in(browser).status_code == 200
                wait_until_sync(lambda: browser.get("/teams").status_code == 303, what="the sign-in has ended")
            wait_until_sync(lambda: not running.run(_stored(running)), what="nothing of it is stored")
            with httpx.Client(base_url=f"{running.url}/admin/v1") as client:
                codes = [client.post("/sign-in", json={}).status_code for _ in range(3)]
            assert codes == [200, 200, 429], "attempts are counted by address"


async def _stored(gateway: RunningGateway) -> list[bytes]:
    found: list[bytes] = await gateway.services.store.run("KEYS", "gw:admin:*")
    return found


def test_without_a_provider_there_is_no_such_sign_in(upstream: str, tmp_path: Path) -> None:
    with valkey_server() as store, running_gateway(store.url, upstream, tmp_path) as running:
        with signed_out(running) as browser:
            assert "Sign in by" not in browser.get("/login").text
            assert browser.get("/login/oidc").status_code == 404
            assert browser.get("/login/callback").status_code == 404
        with httpx.Client(base_url=f"{running.url}/admin/v1") as client:
            assert code_of(client.post("/sign-in", json={})) == "admin_disabled"
