"""Names of teams: one owner each, however many changes come at once, and whatever an older version left behind."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest

from gateway.accounts.accounts import Accounts, Changes
from gateway.accounts.team_names import TeamNames
from gateway.errors import GatewayError
from gateway.store.keyspace import NAME_CHANGES, TEAM_NAMES, TEAMS
from tests.support.admins import code_of, done
from tests.support.gateway import RunningGateway
from tests.support.servers import Server

NewName = Callable[[], str]
TOO_LATE_S = -1.0
"""A reservation that has lapsed when it begins."""


def at_once(calls: Sequence[Callable[[], httpx.Response]]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: call(), calls))


def creation(admin: httpx.Client, body: dict[str, str], **headers: str) -> Callable[[], httpx.Response]:
    return partial(admin.post, "/teams", json=body, headers=headers)


def renaming(admin: httpx.Client, team: dict[str, Any], name: str, **headers: str) -> Callable[[], httpx.Response]:
    return partial(admin.patch, f"/teams/{team['id']}", json={"name": name}, headers=headers)


def test_of_many_creations_at_once_one_wins(admin: httpx.Client, new_name: NewName) -> None:
    for _ in range(5):
        body = {"name": new_name(), "credits_usd": "1"}
        answers = at_once([creation(admin, body)] * 6)
        assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 5}
        assert {code_of(answer) for answer in answers if answer.is_error} == {"already_exists"}


def test_repeats_of_one_creation_at_once_give_one_team(admin: httpx.Client, new_name: NewName) -> None:
    body, once = {"name": new_name(), "credits_usd": "1"}, {"idempotency-key": new_name()}
    answers = at_once([creation(admin, body, **once)] * 6)
    teams = [done(answer) for answer in answers]
    assert {team["id"] for team in teams} == {teams[0]["id"]}
    assert {team["balance"]["granted_usd"] for team in teams} == {"1"}


def test_however_a_team_is_renamed_at_once_it_has_one_name_and_the_others_are_free(
    admin: httpx.Client, new_name: NewName, store: Server
) -> None:
    for _ in range(5):
        team = done(admin.post("/teams", json={"name": new_name()}))
        names = [new_name() for _ in range(4)]
        assert all(answer.is_success for answer in at_once([renaming(admin, team, name) for name in names]))
        last = done(admin.get(f"/teams/{team['id']}"))
        assert done(admin.get(f"/teams/{last['name']}"))["id"] == team["id"]
        for name in {team["name"], *names} - {last["name"]}:
            assert store.run("HGET", TEAM_NAMES, name) is None
            done(admin.post("/teams", json={"name": name}))
    assert store.run("HLEN", NAME_CHANGES) == 0


def test_two_teams_that_want_one_name_at_once_do_not_both_get_it(admin: httpx.Client, new_name: NewName) -> None:
    for _ in range(5):
        teams = [done(admin.post("/teams", json={"name": new_name()})) for _ in range(4)]
        name = new_name()
        answers = at_once([renaming(admin, team, name) for team in teams])
        assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 3}
        for team, answer in zip(teams, answers, strict=True):
            called = name if answer.is_success else team["name"]
            assert done(admin.get(f"/teams/{team['id']}"))["name"] == called
            assert done(admin.get(f"/teams/{called}"))["id"] == team["id"]


def test_of_changes_of_one_version_at_once_one_holds_and_the_others_take_no_name(
    admin: httpx.Client, new_name: NewName
) -> None:
    for _ in range(5):
        team = done(admin.post("/teams", json={"name": new_name()}))
        names = [new_name() for _ in range(4)]
        seen = {"if-match": f'"{team["version"]}"'}
        answers = at_once([renaming(admin, team, name, **seen) for name in names])
        assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 3}
        for name, answer in zip(names, answers, strict=True):
            if answer.is_error:
                done(admin.post("/teams", json={"name": name}))


def test_names_swap_back_and_forth(admin: httpx.Client, new_name: NewName) -> None:
    one, other = new_name(), new_name()
    team = done(admin.post("/teams", json={"name": one}))
    assert all(answer.is_success for answer in at_once([renaming(admin, team, name) for name in (one, other)] * 5))
    name = done(admin.get(f"/teams/{team['id']}"))["name"]
    assert done(admin.get(f"/teams/{name}"))["id"] == team["id"]


def test_what_older_versions_left_behind_is_repaired(admin: httpx.Client, new_name: NewName, store: Server) -> None:
    nameless, unlisted, stale, taken = (new_name() for _ in range(4))
    for name in (nameless, unlisted):
        done(admin.post("/teams", json={"name": name}))
    lost = done(admin.get(f"/teams/{nameless}"))
    store.run("HDEL", TEAM_NAMES, nameless)
    store.run("HSET", TEAM_NAMES, stale, lost["id"])
    store.run("HSET", TEAM_NAMES, taken, "0000000000")
    assert code_of(admin.get(f"/teams/{nameless}")) == "team_not_found"
    for _page in _pages(admin):
        pass
    assert done(admin.get(f"/teams/{nameless}"))["id"] == lost["id"]
    for name in (stale, taken):
        assert code_of(admin.get(f"/teams/{name}")) == "team_not_found"
        done(admin.post("/teams", json={"name": name}))
    hidden = done(admin.get(f"/teams/{unlisted}"))
    store.run("ZREM", TEAMS, hidden["id"])
    done(admin.post(f"/teams/{hidden['id']}/keys", json={"name": "k"}))
    assert store.run("ZSCORE", TEAMS, hidden["id"]) is not None, "its holds must be found when they expire"


def _pages(admin: httpx.Client) -> list[str]:
    names, after = [], ""
    while True:
        page = done(admin.get(f"/teams?limit=1000{after}"))
        names += [team["name"] for team in page["data"]]
        if page["next"] is None:
            return names
        after = f"&after={page['next']}"


def test_a_change_that_waits_too_long_for_a_name_says_so_and_may_be_repeated(
    gateway: RunningGateway, new_name: NewName
) -> None:
    names, name = TeamNames(gateway.services.store, lease_s=0.1), new_name()

    async def wait_behind_another() -> GatewayError:
        async with TeamNames(gateway.services.store, lease_s=60).reserved("0123456789", name) as other:
            with pytest.raises(GatewayError) as refused:
                async with names.reserved("9876543210", name):
                    pass
            await other.release()
        return refused.value

    error = gateway.run(wait_behind_another())
    assert error.code == "request_in_progress"
    assert error.wait_ms is not None
    assert error.wait_ms > 0


def test_a_change_that_took_longer_than_its_reservation_changes_nothing(
    gateway: RunningGateway, admin: httpx.Client, new_name: NewName
) -> None:
    slow = Accounts(
        gateway.services.store, idempotency_ttl_s=60, journal_retention_s=60, burst=1.0, name_lease_s=TOO_LATE_S
    )
    name, other = new_name(), new_name()
    with pytest.raises(GatewayError, match="Nothing was changed"):
        gateway.run(slow.create_team(Changes(name=name)))
    team = done(admin.post("/teams", json={"name": name}))
    found = gateway.run(slow.team(team["id"]))
    with pytest.raises(GatewayError, match="Nothing was changed"):
        gateway.run(slow.update_team(found, Changes(name=other)))
    assert done(admin.get(f"/teams/{name}")) == team
    assert done(admin.post("/teams", json={"name": other}))["id"] != team["id"]
