"""Keys through the admin API, and who may use it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.admin.test_teams import ASK, create, error
from tests.support.gateway import ADMIN_KEY, RunningGateway, running_gateway, simulator
from tests.support.servers import valkey_server


@pytest.fixture
def team(admin: httpx.Client, new_name: Callable[[], str]) -> Any:
    return create(admin, new_name(), credits_usd="5")


@pytest.fixture
def keys(admin: httpx.Client, team: Any) -> str:
    return f"/teams/{team['id']}/keys"


def test_a_key_is_shown_once_and_works(admin: httpx.Client, gateway: RunningGateway, team: Any, keys: str) -> None:
    made = admin.post(keys, json={"name": "laptop", "models": ["sim/*"], "limits": {"rpm": 5}})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    key = made.json()
    assert (key["object"], key["name"], key["team_id"], key["status"]) == ("key", "laptop", team["id"], "active")
    assert key["models"] == ["sim/*"]
    assert key["key"].startswith(f"sk-gw-{team['id']}-{key['id']}-")
    assert key["secrets"] == [
        {"sha256_prefix": key["secrets"][0]["sha256_prefix"], "until": None, "last_used_at": None}
    ]
    with gateway.http(key["key"]) as client:
        assert client.post("/v1/responses", json=ASK).status_code == 200
        own = client.get("/v1/key").json()
    shown = admin.get(f"{keys}/{key['id']}").json()
    assert "key" not in shown
    assert key["key"][30:] not in admin.get(keys).text
    assert shown["limits"]["rpm"]["remaining"] == own["limits"]["rpm"]["remaining"] == 4
    assert shown["secrets"][0]["last_used_at"] is not None
    assert admin.get(keys).json()["data"][0]["id"] == key["id"]


def test_a_key_is_changed_and_then_revoked_for_good(admin: httpx.Client, gateway: RunningGateway, keys: str) -> None:
    key = admin.post(keys, json={"name": "k"}).json()
    place = f"{keys}/{key['id']}"
    with gateway.http(key["key"]) as client:
        changes: list[tuple[dict[str, Any], int]] = [
            ({"name": "renamed"}, 200),
            ({"models": ["a/b"]}, 403),
            ({"models": []}, 200),
            ({"status": "disabled"}, 401),
            ({"status": "active"}, 200),
            ({"status": "revoked"}, 401),
        ]
        for change, status in changes:
            assert admin.patch(place, json=change).status_code == 200
            assert client.post("/v1/responses", json=ASK).status_code == status, change
    assert error(admin.patch(place, json={"status": "active"})) == (403, "not_allowed", "status")
    assert admin.patch(place, json={"name": "still mine"}).json()["status"] == "revoked"
    assert error(admin.patch(place, json={"name": "x"}, headers={"if-match": '"1"'}))[:2] == (412, "version_mismatch")


def test_a_repeated_creation_gets_the_same_key_though_no_secret_is_stored(
    admin: httpx.Client, gateway: RunningGateway, keys: str, new_name: Callable[[], str]
) -> None:
    once = {"idempotency-key": new_name()}
    first, second = (admin.post(keys, json={"name": "k"}, headers=once).json() for _ in range(2))
    assert first == second
    assert len(admin.get(keys).json()["data"]) == 1
    with gateway.http(second["key"]) as client:
        assert client.get("/v1/key").status_code == 200
    assert error(admin.post(keys, json={"name": "other"}, headers=once))[1] == "idempotency_mismatch"
    assert error(admin.post(keys, json={"name": "k"}, headers={"idempotency-key": "x" * 256}))[0] == 400
    other = admin.post(keys, json={"name": "k"}, headers={"idempotency-key": new_name()}).json()
    assert other["key"] != first["key"]


def test_keys_of_other_teams_are_not_found(admin: httpx.Client, new_name: Callable[[], str], keys: str) -> None:
    key = admin.post(keys, json={"name": "k"}).json()
    other = create(admin, new_name())
    assert error(admin.get(f"/teams/{other['id']}/keys/{key['id']}"))[:2] == (404, "key_not_found")
    assert error(admin.get("/teams/nobody/keys"))[:2] == (404, "team_not_found")


def test_keys_come_in_pages(admin: httpx.Client, keys: str) -> None:
    made = [admin.post(keys, json={"name": f"k{number}"}).json()["id"] for number in range(3)]
    first = admin.get(keys, params={"limit": 2}).json()
    second = admin.get(keys, params={"limit": 2, "after": first["next"]}).json()
    assert [key["id"] for key in first["data"] + second["data"]] == made
    assert second["next"] is None


def test_credits_are_granted_and_adjusted_once(admin: httpx.Client, team: Any, new_name: Callable[[], str]) -> None:
    place = f"/teams/{team['id']}/credits"
    once = {"idempotency-key": new_name()}
    grant = {"kind": "grant", "amount_usd": "2.5", "note": "November"}
    for _ in range(2):
        moved = admin.post(place, json=grant, headers=once).json()
        assert (moved["object"], moved["granted_usd"], moved["available_usd"]) == ("credits", "7.5", "7.5")
    assert error(admin.post(place, json={**grant, "amount_usd": "3"}, headers=once))[1] == "idempotency_mismatch"
    assert admin.post(place, json={"kind": "adjust", "amount_usd": "-7.5"}).json()["available_usd"] == "0"
    assert admin.get(place).json()["granted_usd"] == "0"
    refused: list[dict[str, Any]] = [
        {"kind": "grant", "amount_usd": "-1"},
        {"kind": "grant", "amount_usd": "0"},
        {"kind": "adjust", "amount_usd": "0"},
        {"kind": "grant", "amount_usd": "9007199.254740992"},
        {"kind": "grant", "amount_usd": 1},
    ]
    for body in refused:
        assert error(admin.post(place, json=body)) == (400, "invalid_field", "amount_usd")
    admin.post(place, json={"kind": "grant", "amount_usd": "9007199"})
    assert error(admin.post(place, json={"kind": "grant", "amount_usd": "1"})) == (400, "invalid_field", "amount_usd")
    assert error(admin.post(place, json={"kind": "gift", "amount_usd": "1"})) == (400, "invalid_field", "kind")


ROUTES = (
    ("GET", "/teams"),
    ("POST", "/teams"),
    ("PATCH", "/teams/x"),
    ("GET", "/teams/x/keys"),
    ("POST", "/teams/x/keys"),
    ("PATCH", "/teams/x/keys/y"),
    ("POST", "/teams/x/credits"),
    ("GET", "/teams/x/journal"),
    ("GET", "/requests/req_1"),
    ("GET", "/ledger/verify"),
)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "authorization", [None, "Bearer", "Bearer wrong", f"Basic {ADMIN_KEY}", f"Bearer {ADMIN_KEY}x", "Bearer \u00e9"]
)
def test_without_the_admin_key_nothing_is_read(
    gateway: RunningGateway, method: str, path: str, authorization: str | None
) -> None:
    headers = {b"authorization": authorization.encode()} if authorization else {}
    answer = httpx.request(method, f"{gateway.url}/admin/v1{path}", content=b"{" * 400_000, headers=headers)
    assert error(answer)[:2] == (401, "invalid_admin_key")


def test_without_a_configured_key_the_admin_api_is_off_and_says_so(tmp_path: Path) -> None:
    with (
        valkey_server() as store,
        simulator() as upstream,
        running_gateway(store.url, upstream, tmp_path, admin={"key": "env:UNSET_ADMIN_KEY"}) as gateway,
    ):
        for method, path in ROUTES:
            headers = {"authorization": "Bearer x"}
            answer = httpx.request(method, f"{gateway.url}/admin/v1{path}", headers=headers)
            assert error(answer)[:2] == (403, "admin_disabled")
            assert "admin.key" in answer.json()["error"]["message"]
