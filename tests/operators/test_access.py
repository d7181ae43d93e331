"""Authorisation: every route of the application has a row in the table, and the table is what is enforced."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gateway.api.admin.access import RULES
from gateway.api.admin.guard import GuardedRoute
from gateway.api.admin.sign_in import OPEN
from gateway.app import build_app
from tests.support.admins import admin_client, code_of, done, new_admin, new_team
from tests.support.gateway import RunningGateway, gateway_settings
from tests.support.routes import routes_below
from tests.support.waiting import wait_until_sync

PREFIX = "/admin/v1"


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    settings = gateway_settings("redis://127.0.0.1:1", "http://127.0.0.1:1", tmp_path_factory.mktemp("data"))
    return build_app(settings).app


def admin_actions(application: FastAPI) -> set[str]:
    guarded = [route for route in routes_below(application.routes) if isinstance(route, GuardedRoute)]
    return {f"{method} {route.path}" for route in guarded for method in route.methods or ()}


def test_every_route_of_the_admin_api_has_a_row_and_every_row_a_route(application: FastAPI) -> None:
    assert admin_actions(application) == set(RULES)


def test_every_path_below_admin_is_guarded(application: FastAPI) -> None:
    paths = application.openapi()["paths"]
    below = {
        f"{method.upper()} {path[len(PREFIX) :]}"
        for path in paths
        if path.startswith("/admin")
        for method in paths[path]
    }
    assert below == {*admin_actions(application), *OPEN}


@dataclass
class Cast:
    """Two teams with a key each, and an admin key of each scope."""

    own: dict[str, Any]
    other: dict[str, Any]
    own_key: str
    other_key: str
    texts: dict[str, str]


@pytest.fixture(scope="module")
def cast(gateway: RunningGateway) -> Cast:
    return new_cast(gateway)


def new_cast(gateway: RunningGateway) -> Cast:
    with admin_client(gateway) as root:
        own, other = new_team(root, limits={"rpm": 100, "budget_usd_day": "5"}), new_team(root)
        keys = [done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["id"] for team in (own, other)]
        texts = {scope: new_admin(root, scope) for scope in ("all", "read")}
        texts["team"] = new_admin(root, "team", own["id"])
        return Cast(own, other, keys[0], keys[1], texts)


def ask(client: httpx.Client, action: str, team: str, key: str, admin_key: str = "0123456789") -> httpx.Response:
    """Performs any action on a team and a key, without a body, because access is decided before a body is read."""
    method, path = action.split(" ", 1)
    names = {"team": team, "key": key, "request_id": "req_1", "admin_key": admin_key, "upstream": "none"}
    with client.stream(method, path.format(**names)) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return httpx.Response(answer.status_code, text="")
        answer.read()
        return answer


@pytest.mark.parametrize("scope", ["all", "read", "team"])
@pytest.mark.parametrize("action", sorted(RULES))
def test_a_scope_may_what_the_table_says(gateway: RunningGateway, cast: Cast, action: str, scope: str) -> None:
    if action.startswith("DELETE"):
        cast = new_cast(gateway)  # the others' stays whole
    with admin_client(gateway, cast.texts[scope]) as client:
        answer = ask(client, action, cast.own["id"], cast.own_key)
    if scope in RULES[action].scopes:
        assert answer.status_code not in (401, 403), answer.text
    else:
        assert (answer.status_code, code_of(answer)) == (403, "not_allowed")


@pytest.mark.parametrize("action", sorted(action for action in RULES if "{team}" in action))
def test_a_lead_does_not_reach_another_team_by_path(gateway: RunningGateway, cast: Cast, action: str) -> None:
    with admin_client(gateway, cast.texts["team"]) as client:
        for named in (cast.other["id"], cast.other["name"], "no such team"):
            answer = ask(client, action, named, cast.other_key)
            assert (answer.status_code, code_of(answer)) == (403, "not_allowed")


@pytest.mark.parametrize("path", ["/usage", "/requests", "/requests/req_1", "/events", "/audit", "/teams", "/whoami"])
def test_a_lead_does_not_reach_another_team_by_query(gateway: RunningGateway, cast: Cast, path: str) -> None:
    with admin_client(gateway, cast.texts["team"]) as client:
        for query in ({"team": cast.other["id"]}, [("team", cast.own["id"]), ("team", cast.other["id"])]):
            assert code_of(client.get(path, params=query)) == "not_allowed"


def test_a_lead_does_not_find_a_key_of_another_team(gateway: RunningGateway, cast: Cast) -> None:
    with admin_client(gateway, cast.texts["team"]) as client:
        assert code_of(client.get(f"/keys/{cast.other_key}")) == "not_allowed"
        assert done(client.get(f"/keys/{cast.own_key}"))["team_id"] == cast.own["id"]


def test_a_lead_sees_its_own_team_alone(gateway: RunningGateway, cast: Cast) -> None:
    with admin_client(gateway, cast.texts["team"]) as client:
        assert [team["id"] for team in done(client.get("/teams"))["data"]] == [cast.own["id"]]
        me = done(client.get("/whoami"))
        assert (me["scope"], me["team_id"], me["team_name"]) == ("team", cast.own["id"], cast.own["name"])


def test_a_lead_makes_rotates_and_limits_keys_within_the_teams_quotas(gateway: RunningGateway, cast: Cast) -> None:
    keys = f"/teams/{cast.own['id']}/keys"
    with admin_client(gateway, cast.texts["team"]) as client:
        key = done(client.post(keys, json={"name": "mine", "limits": {"rpm": 100, "budget_usd_day": "5"}}))
        assert done(client.post(f"{keys}/{key['id']}/rotate", json={}))["key"] != key["key"]
        assert done(client.patch(f"{keys}/{key['id']}", json={"limits": {"rpm": 10, "tpm": 10**6}}))
        for limits in ({"rpm": 101}, {"budget_usd_day": "5.01"}):
            for answer in (
                client.patch(f"{keys}/{key['id']}", json={"limits": limits}),
                client.post(keys, json={"name": "too much", "limits": limits}),
            ):
                assert (answer.status_code, code_of(answer)) == (403, "not_allowed")
                assert answer.json()["error"]["param"] == f"limits.{next(iter(limits))}"


def test_a_deleted_or_expired_admin_key_ends_with_its_next_request(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        made = done(root.post("/admin-keys", json={"name": "a", "scope": "read"}))
        with admin_client(gateway, made["key"]) as client:
            assert client.get("/teams").is_success
            done(root.delete(f"/admin-keys/{made['id']}"))
            assert code_of(client.get("/teams")) == "invalid_admin_key"
        soon = datetime.now(UTC) + timedelta(seconds=3)
        expiring = new_admin(root, "read", expires_at=soon.isoformat())
    with admin_client(gateway, expiring) as client:
        wait_until_sync(lambda: client.get("/teams").is_error, what="it has expired")
        assert code_of(client.get("/teams")) == "invalid_admin_key"


def test_a_repeated_creation_gives_the_same_admin_key(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        body, headers = {"name": "twice", "scope": "read"}, {"idempotency-key": "admin-twice"}
        first, again = (done(root.post("/admin-keys", json=body, headers=headers)) for _ in range(2))
        assert first == again
        assert code_of(root.post("/admin-keys", json={**body, "name": "x"}, headers=headers)) == "idempotency_mismatch"
        listed = done(root.get("/admin-keys"))["data"]
        assert [admin["name"] for admin in listed].count("twice") == 1
        assert "key" not in listed[0]


def test_an_admin_key_is_stored_as_a_hash_alone(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        made = done(root.post("/admin-keys", json={"name": "a", "scope": "read"}))
    secret = made["key"].removeprefix(f"sk-gwa-{made['id']}-")[:-8]
    stored = gateway.run(_stored(gateway, made["id"]))
    assert secret.encode() not in b" ".join(stored)


async def _stored(gateway: RunningGateway, admin_id: str) -> list[bytes]:
    fields: list[bytes] = await gateway.services.store.run("HGETALL", f"gw:admin:{admin_id}")
    return fields


@pytest.mark.parametrize("body", [{"scope": "team"}, {"scope": "read", "team": "x"}, {"scope": "root"}, {}])
def test_a_scope_that_does_not_fit_is_refused(gateway: RunningGateway, body: dict[str, str]) -> None:
    with admin_client(gateway) as root:
        assert root.post("/admin-keys", json={"name": "a", **body}).status_code == 400
