"""Teams through the admin API: created once, shown as enforced, changed from the next request on."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.gateway import RunningGateway

ASK = {"model": "sim/echo", "input": "Hello"}


def create(admin: httpx.Client, name: str, **fields: Any) -> Any:
    answer = admin.post("/teams", json={"name": name, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


def error(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()["error"]
    return answer.status_code, body["code"], body["param"]


def test_a_team_is_shown_as_it_was_asked_for(admin: httpx.Client, new_name: Callable[[], str]) -> None:
    name = new_name()
    team = create(
        admin,
        name,
        credits_usd="10.5",
        metered=True,
        models=["openai/*", "sim/echo"],
        expires_at="2099-01-02T03:04:05+01:00",
        limits={
            "rpm": 60,
            "concurrency": 3,
            "max_output_tokens": 100,
            "budget_usd_day": "5.00",
            "budget_tokens_total": 9,
        },
    )
    assert team["object"] == "team"
    assert (team["name"], team["status"], team["metered"], team["version"]) == (name, "active", True, 1)
    assert team["models"] == ["openai/*", "sim/echo"]
    assert team["expires_at"] == "2099-01-02T02:04:05.000Z"
    sums = {"granted_usd": "10.5", "available_usd": "10.5", "held_usd": "0", "spent_usd": "0"}
    assert team["balance"] == {**sums, "expiring": []}
    limits = team["limits"]
    assert set(limits) == {"rpm", "concurrency", "max_output_tokens", "budget_usd_day", "budget_tokens_total"}
    assert (limits["rpm"]["limit"], limits["rpm"]["remaining"]) == (60, 60)
    assert limits["max_output_tokens"] == {"limit": 100}
    assert limits["budget_usd_day"] | {"resets_at": None} == {
        "limit_usd": "5",
        "used_usd": "0",
        "remaining_usd": "5",
        "resets_at": None,
    }
    assert limits["budget_usd_day"]["resets_at"].endswith("T00:00:00.000Z")
    assert limits["budget_tokens_total"] == {"limit": 9, "used": 0, "remaining": 9, "resets_at": None}
    for place in (team["id"], name):
        assert admin.get(f"/teams/{place}").json() == team


def test_a_name_is_taken_once(admin: httpx.Client, new_name: Callable[[], str]) -> None:
    name = new_name()
    create(admin, name)
    assert error(admin.post("/teams", json={"name": name})) == (409, "already_exists", "name")


def test_a_repeated_creation_gets_the_same_team_and_no_more_credits(
    admin: httpx.Client, new_name: Callable[[], str]
) -> None:
    name, key = new_name(), {"idempotency-key": new_name()}
    body = {"name": name, "credits_usd": "2"}
    first, second = (admin.post("/teams", json=body, headers=key) for _ in range(2))
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert second.json()["balance"]["granted_usd"] == "2"
    other = admin.post("/teams", json={**body, "credits_usd": "3"}, headers=key)
    assert error(other) == (409, "idempotency_mismatch", "Idempotency-Key")


async def test_parallel_repeats_of_a_creation_make_one_team(
    admin: httpx.Client, gateway: RunningGateway, new_name: Callable[[], str]
) -> None:
    body, key = {"name": new_name(), "credits_usd": "2"}, new_name()
    async with httpx.AsyncClient(base_url=admin.base_url, headers={**admin.headers, "idempotency-key": key}) as client:
        answers = await asyncio.gather(*(client.post("/teams", json=body) for _ in range(8)))
        made = await client.get(f"/teams/{body['name']}")
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert made.json()["balance"]["granted_usd"] == "2"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": " a"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": 5}, "name"),
        ({"colour": "red"}, "colour"),
        ({"credits_usd": 1.5}, "credits_usd"),
        ({"credits_usd": "-1"}, "credits_usd"),
        ({"credits_usd": "0.0000000001"}, "credits_usd"),
        ({"credits_usd": "99999999"}, "credits_usd"),
        ({"metered": "yes"}, "metered"),
        ({"models": ["a b"]}, "models.0"),
        ({"models": "sim/echo"}, "models"),
        ({"expires_at": "2099-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "1950-01-01T00:00:00Z"}, "expires_at"),
        ({"limits": {"rpm": -1}}, "limits.rpm"),
        ({"limits": {"rpm": 10**9 + 1}}, "limits.rpm"),
        ({"limits": {"rpm": "60"}}, "limits.rpm"),
        ({"limits": {"tpm": 10**11 + 1}}, "limits.tpm"),
        ({"limits": {"concurrency": True}}, "limits.concurrency"),
        ({"limits": {"budget_usd_day": "-5"}}, "limits.budget_usd_day"),
        ({"limits": {"budget_usd_day": 5}}, "limits.budget_usd_day"),
        ({"limits": {"budget_tokens_day": 10**15 + 1}}, "limits.budget_tokens_day"),
        ({"limits": {"requests": 1}}, "limits.requests"),
    ],
)
def test_what_no_team_can_have_is_refused_by_its_place(admin: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = admin.post("/teams", json={"name": "refused", **fields})
    assert error(answer) == (400, "invalid_field", param)
    assert admin.get("/teams/refused").status_code == 404


def test_the_largest_limits_can_be_set_and_are_shown_exactly(admin: httpx.Client, new_name: Callable[[], str]) -> None:
    largest = {"rpm": 10**9, "tpm": 10**11, "concurrency": 10**9, "budget_tokens_total": 10**15}
    limits = create(admin, new_name(), limits={**largest, "budget_usd_total": "9007199.254740991"})["limits"]
    assert {name: limits[name]["remaining"] for name in largest} == largest
    assert limits["budget_usd_total"]["remaining_usd"] == "9007199.254740991"


def test_bodies_that_are_no_objects_are_refused(admin: httpx.Client) -> None:
    json = {"content-type": "application/json"}
    assert error(admin.post("/teams", content=b"{", headers=json))[:2] == (400, "invalid_json")
    assert error(admin.post("/teams", json=[1]))[:2] == (400, "invalid_field")
    assert error(admin.post("/teams", json={})) == (400, "missing_field", "name")
    assert error(admin.post("/teams", content=b" " * 300_000, headers=json))[:2] == (413, "body_too_large")


def test_a_change_is_in_force_with_the_next_request(
    admin: httpx.Client, gateway: RunningGateway, new_name: Callable[[], str]
) -> None:
    team = create(admin, new_name(), credits_usd="5")
    key = admin.post(f"/teams/{team['id']}/keys", json={"name": "k"}).json()["key"]
    with gateway.http(key) as client:
        assert client.post("/v1/responses", json=ASK).status_code == 200
        changes: list[tuple[dict[str, Any], int]] = [
            ({"models": ["other/*"]}, 403),
            ({"models": []}, 200),
            ({"status": "disabled"}, 401),
            ({"status": "active"}, 200),
        ]
        for number, (change, status) in enumerate(changes):
            changed = admin.patch(f"/teams/{team['id']}", json=change)
            assert changed.json()["version"] == number + 2
            assert client.post("/v1/responses", json=ASK).status_code == status, change


def test_an_unmetered_team_runs_without_credits(
    admin: httpx.Client, gateway: RunningGateway, new_name: Callable[[], str]
) -> None:
    team = create(admin, new_name(), metered=False)
    key = admin.post(f"/teams/{team['id']}/keys", json={"name": "k"}).json()["key"]
    with gateway.http(key) as client:
        assert client.post("/v1/responses", json=ASK).status_code == 200
        admin.patch(f"/teams/{team['id']}", json={"metered": True})
        assert client.post("/v1/responses", json=ASK).status_code == 402


def test_a_change_of_another_version_is_refused(admin: httpx.Client, new_name: Callable[[], str]) -> None:
    team = create(admin, new_name())
    shown = admin.get(f"/teams/{team['id']}")
    assert shown.headers["etag"] == '"1"'
    first = admin.patch(
        f"/teams/{team['id']}", json={"limits": {"rpm": 1}}, headers={"if-match": shown.headers["etag"]}
    )
    assert first.status_code == 200
    late = admin.patch(f"/teams/{team['id']}", json={"limits": {"rpm": 2}}, headers={"if-match": "1"})
    assert error(late)[:2] == (412, "version_mismatch")
    assert admin.get(f"/teams/{team['id']}").json()["limits"]["rpm"]["limit"] == 1
    assert error(admin.patch(f"/teams/{team['id']}", json={}, headers={"if-match": "x"})) == (
        400,
        "invalid_field",
        "If-Match",
    )


def test_a_team_is_renamed_and_its_old_name_is_free(admin: httpx.Client, new_name: Callable[[], str]) -> None:
    old, new, third = new_name(), new_name(), new_name()
    team = create(admin, old)
    assert admin.patch(f"/teams/{old}", json={"name": new}).json()["name"] == new
    assert admin.get(f"/teams/{new}").json()["id"] == team["id"]
    assert error(admin.get(f"/teams/{old}"))[:2] == (404, "team_not_found")
    assert create(admin, old)["id"] != team["id"]
    assert error(admin.patch(f"/teams/{new}", json={"name": old})) == (409, "already_exists", "name")
    refused = admin.patch(f"/teams/{new}", json={"name": third}, headers={"if-match": "99"})
    assert refused.status_code == 412
    create(admin, third)


def test_lists_come_in_pages(admin: httpx.Client, new_name: Callable[[], str]) -> None:
    made = [create(admin, new_name())["id"] for _ in range(5)]
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = admin.get("/teams", params={"limit": 2, **after}).json()
        assert page["object"] == "list"
        assert len(page["data"]) <= 2
        seen += [team["id"] for team in page["data"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert len(seen) == len(set(seen))
    # Those of one millisecond are listed by their ids.
    whole = [team["id"] for team in admin.get("/teams", params={"limit": 1000}).json()["data"]]
    assert seen == whole[: len(seen)]
    assert set(made) <= set(seen)
    times = {team: admin.get(f"/teams/{team}").json()["created_at"] for team in made}
    assert [team for team in seen if team in made] == sorted(made, key=lambda team: (times[team], team))
    assert error(admin.get("/teams", params={"after": "nobody"})) == (400, "invalid_field", "after")
    for limit in ("0", "1001", "x"):
        assert error(admin.get("/teams", params={"limit": limit})) == (400, "invalid_field", "limit")
