"""Settings that can never work are refused with the reason, and nothing is changed."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.admins import admin_client, done, new_team
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.servers import Server
from tests.support.shell import Shell

ROUTES = [
    {"model": "a/*", "upstreams": ["simulator"]},
    {"model": "b/one", "upstreams": ["simulator"]},
    {"model": "free/*", "upstreams": ["simulator"]},
]
PRICES = {
    "a/*": {"input": "1", "output": "500000", "max_output_tokens": 100},
    "b/one": {"input": "1", "output": "1000000", "max_output_tokens": 100},
    "free/*": {"input": "0", "output": "0"},
}
PAST = "2020-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def strict(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory: Path = tmp_path_factory.mktemp("strict")
    aliases = {"fast": "b/one"}
    with running_gateway(store.url, upstream, directory, routes=ROUTES, prices=PRICES, aliases=aliases) as running:
        yield running


@pytest.fixture
def admin(strict: RunningGateway) -> Iterator[httpx.Client]:
    with admin_client(strict) as client:
        yield client


IMPOSSIBLE: list[tuple[dict[str, Any], str, str]] = [
    ({"expires_at": PAST}, "expires_at", "has passed"),
    ({"models": ["c/one"]}, "models", "no route"),
    ({"models": ["a/one", "slow"]}, "models", "'slow' has no route, and no alias"),
    ({"models": ["c/*"]}, "models", "no route fits"),
    ({"limits": {"rpm": 0}}, "limits.rpm", "disable the team or the key"),
    ({"limits": {"tpm": 0}}, "limits.tpm", "disable the team or the key"),
    ({"limits": {"concurrency": 0}}, "limits.concurrency", "disable the team or the key"),
    ({"limits": {"rpm@*": 0}}, "limits.rpm@*", "disable the team or the key"),
    ({"limits": {"tpm": 1}}, "limits.tpm", "smallest"),
    ({"limits": {"budget_tokens_day": 1}}, "limits.budget_tokens_day", "smallest"),
    ({"models": ["a/*"], "limits": {"budget_usd_day": "0.25"}}, "limits.budget_usd_day", "'a/*'"),
    ({"models": ["b/one"], "limits": {"budget_usd_total": "0.9"}}, "limits.budget_usd_total", "'b/one'"),
]


@pytest.mark.parametrize(("fields", "param", "why"), IMPOSSIBLE, ids=str)
def test_what_can_never_work_is_refused_with_its_reason(
    admin: httpx.Client, fields: dict[str, Any], param: str, why: str
) -> None:
    team = new_team(admin)
    keys = f"/teams/{team['id']}/keys"
    key = done(admin.post(keys, json={"name": "k"}))
    answers = [
        admin.post("/teams", json={"name": "never", **fields}),
        admin.patch(f"/teams/{team['id']}", json=fields),
        admin.post(keys, json={"name": "never", **fields}),
        admin.patch(f"{keys}/{key['id']}", json=fields),
    ]
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_field", param)
        assert why in error["message"], error["message"]
    assert admin.get("/teams/never").status_code == 404
    assert done(admin.get(f"/teams/{team['id']}"))["version"] == team["version"]
    assert [one["version"] for one in done(admin.get(keys))["data"]] == [key["version"]]


POSSIBLE: list[dict[str, Any]] = [
    {"expires_at": "2099-01-01T00:00:00Z"},
    {"models": ["a/*", "a/one", "b/*", "b/one", "*", "free/x"]},
    {"limits": {"rpm": 1, "tpm": 1000, "concurrency": 1}},
    {"limits": {"budget_usd_day": "0"}},  # a free model is left
    {"models": ["a/*"], "limits": {"budget_usd_day": "0.6"}},
    {"models": ["b/one", "a/*"], "limits": {"budget_usd_day": "0.6"}},
]


@pytest.mark.parametrize("fields", POSSIBLE, ids=str)
def test_what_can_work_is_set(admin: httpx.Client, fields: dict[str, Any]) -> None:
    team = new_team(admin)
    keys = f"/teams/{team['id']}/keys"
    key = done(admin.post(keys, json={"name": "k", **fields}))
    assert done(admin.patch(f"{keys}/{key['id']}", json=fields))["version"] == key["version"] + 1
    assert done(admin.patch(f"/teams/{team['id']}", json=fields))["version"] == team["version"] + 1


IDLE_QUEUES: list[tuple[dict[str, Any], str, str]] = [
    ({"queue_s": 30}, "queue_s", "without queue_length, which says how many"),
    ({"queue_length": 9}, "queue_length", "without queue_s, which says for how long"),
    ({"queue_s": 30, "queue_length": 0}, "queue_s", "because queue_length is 0"),
    ({"queue_s": 0, "queue_length": 9}, "queue_length", "because queue_s is 0"),
]


@pytest.mark.parametrize(("limits", "name", "why"), IDLE_QUEUES, ids=str)
def test_a_queue_in_which_nobody_could_wait_is_refused(
    admin: httpx.Client, limits: dict[str, Any], name: str, why: str
) -> None:
    team = new_team(admin)
    paths = [f"/teams/{team['id']}", f"/teams/{team['id']}/keys"]
    key = done(admin.post(paths[1], json={"name": "k"}))
    paths.append(f"{paths[1]}/{key['id']}")
    until = {one: {"limit": value, "until": "2099-01-01"} for one, value in limits.items()}
    answers = {
        "limits": [
            admin.post("/teams", json={"name": "never", "limits": limits}),
            admin.post(paths[1], json={"name": "never", "limits": limits}),
            *(admin.patch(paths[at], json={"limits": limits}) for at in (0, 2)),
        ],
        "overrides": [admin.patch(paths[at], json={"overrides": until}) for at in (0, 2)],
    }
    for field, some in answers.items():
        for answer in some:
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, f"{field}.{name}"), error
            assert why in error["message"]


def test_a_key_shares_the_queue_of_its_team(admin: httpx.Client) -> None:
    """What a key lacks of a queue, it has from its team; a length of 0 at either lets no request wait."""
    team = f"/teams/{new_team(admin, limits={'queue_s': 30, 'queue_length': 9})['id']}"
    keys = f"{team}/keys"
    for limits in ({"queue_s": 5}, {"queue_length": 2}, {"queue_s": 0}, {"queue_length": 0}):
        done(admin.post(keys, json={"name": "k", "limits": limits}))
    done(admin.patch(team, json={"limits": {"queue_length": 0, "queue_s": None}}))
    answer = admin.post(keys, json={"name": "k", "limits": {"queue_s": 5, "queue_length": 2}})
    assert "because the team's queue_length is 0" in answer.json()["error"]["message"]


def test_half_of_a_queue_cannot_be_removed(admin: httpx.Client) -> None:
    team = f"/teams/{new_team(admin, limits={'queue_s': 30, 'queue_length': 9})['id']}"
    answer = admin.patch(team, json={"limits": {"queue_length": None}})
    assert answer.json()["error"]["param"] == "limits.queue_s"
    assert "queue_s" not in done(admin.patch(team, json={"limits": {"queue_s": None, "queue_length": None}}))["limits"]


def test_a_keys_budget_is_checked_against_the_models_that_its_team_may_use(admin: httpx.Client) -> None:
    team = new_team(admin, models=["b/one"])
    answer = admin.post(f"/teams/{team['id']}/keys", json={"name": "k", "limits": {"budget_usd_day": "0.9"}})
    assert "'b/one'" in answer.json()["error"]["message"]


def test_an_alias_becomes_the_model_that_it_stands_for(strict: RunningGateway, admin: httpx.Client) -> None:
    team = new_team(admin)
    key = done(admin.post(f"/teams/{team['id']}/keys", json={"name": "k", "models": ["fast", "b/one"]}))
    assert key["models"] == ["b/one"]
    with strict.http(key["key"]) as client:
        for model, status in (("fast", 200), ("b/one", 200), ("a/one", 403)):
            body = {"model": model, "input": "x", "max_output_tokens": 1}
            assert client.post("/v1/responses", json=body).status_code == status, model


def test_what_is_set_already_may_be_sent_again(strict: RunningGateway, admin: httpx.Client) -> None:
    """Forms send every field; what was set before the check existed must not stand in the way of another change."""
    key = strict.new_key(key_limits={"rpm": 0, "budget_usd_day": 1, "queue_s": 9}, key_models=("gone/x",))
    limits = {"rpm": 0, "budget_usd_day": "0.000000001", "queue_s": 9, "queue_length": None, "tpm": 900}
    body = {"name": "renamed", "models": ["gone/x"], "limits": limits}
    assert done(admin.patch(f"/teams/{key.team.id}/keys/{key.id}", json=body))["name"] == "renamed"


def test_an_admin_key_does_not_expire_in_the_past(admin: httpx.Client) -> None:
    answer = admin.post("/admin-keys", json={"name": "a", "scope": "read", "expires_at": PAST})
    assert answer.json()["error"]["param"] == "expires_at"
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert done(admin.post("/admin-keys", json={"name": "a", "scope": "read", "expires_at": soon}))["expires_at"]


def test_the_command_line_says_why(
    strict: RunningGateway, admin: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    shell, team = Shell(strict, capsys), new_team(admin)["name"]
    assert "no route" in shell("keys", "create", team, "--name", "k", "--models", "c/one").err
    assert "has passed" in shell("teams", "expire", team, PAST).err
    assert "disable the team" in shell("limits", "set", team, "rpm=0").err
    assert "set both" in shell("limits", "set", team, "queue_s=30").err
