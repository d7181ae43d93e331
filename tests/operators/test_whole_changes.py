"""Every change of an admin is whole: the store's connection is cut at each command of each call, before and after the
store has run it. Then either nothing has happened or everything, a repeat completes it, and nothing is left over.
"""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.accounts.accounts import Accounts
from gateway.store.keyspace import NAME_CHANGES, TEAM_NAMES
from tests.support.admins import admin_client, code_of, done, new_team
from tests.support.cutting import CuttingProxy, cutting_proxy
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.servers import Server, valkey_server
from tests.support.waiting import wait_until_sync

LEASE_S = 0.5
HASTY = {"breaker_open_s": 0.05}
UNAVAILABLE = 503
MAX_COMMANDS = 40
LATER = "2099-12-24T00:00:00Z"


@dataclass
class Bench:
    """A gateway whose store can be cut off, and clients of it."""

    server: Server
    proxy: CuttingProxy
    gateway: RunningGateway
    admin: httpx.Client
    mark: str = ""
    names: dict[str, str] = field(default_factory=dict)

    def name(self) -> str:
        return f"team {uuid.uuid4().hex[:12]}"

    def send(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        """Sends a call until the store is there again."""
        answers: list[httpx.Response] = []

        def served() -> bool:
            answers.append(call())
            return answers[-1].status_code != UNAVAILABLE

        wait_until_sync(served, every_s=0.02)
        return answers[-1]

    def get(self, path: str) -> dict[str, Any]:
        return done(self.send(lambda: self.admin.get(path)))

    def begin(self) -> None:
        """From here on, `new_teams` are those that come now: the rest was looked at when it was made."""
        self.mark = str(new_team(self.admin)["id"])
        self.names = self._names()

    def new_teams(self) -> list[dict[str, Any]]:
        assert self.get("/teams?limit=1"), "whoever reads the list from its beginning repairs it"
        return self._pages("/teams")

    def no_change_is_on_its_way(self) -> None:
        """Whoever reads the list repairs what has died, once its time is over."""

        def none() -> bool:
            if self.server.run("HLEN", NAME_CHANGES):
                self.get("/teams?limit=1")
            return not self.server.run("HLEN", NAME_CHANGES)

        wait_until_sync(none, every_s=0.05)

    def nothing_is_left_over(self) -> None:
        """Every name has the team that is called so, and every team is listed once."""
        teams = self.new_teams()
        assert self._names() == {**self.names, **{team["name"]: team["id"] for team in teams}}
        assert len({team["id"] for team in teams}) == len(teams)
        assert self.get("/ledger/verify?limit=1")["ok"], "no team is gone"
        assert all(one["ok"] for one in self._pages("/ledger/verify"))

    def _pages(self, path: str) -> list[dict[str, Any]]:
        """Everything of a list that is younger than the mark."""
        found: list[dict[str, Any]] = []
        after = self.mark
        while True:
            page = self.get(f"{path}?limit=100&after={after}")
            found += page["data"]
            if page["next"] is None:
                return found
            after = page["next"]

    def _names(self) -> dict[str, str]:
        return {name.decode(): owner.decode() for name, owner in self._hash(TEAM_NAMES).items()}

    def _hash(self, name: str) -> dict[bytes, bytes]:
        flat = self.server.run("HGETALL", name)
        return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))


@pytest.fixture(scope="module")
def bench(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(valkey_server(tcp=True))
        proxy = stack.enter_context(cutting_proxy(server.port))
        directory: Path = tmp_path_factory.mktemp("gateway")
        gateway = stack.enter_context(running_gateway(proxy.url, upstream, directory, store=HASTY))
        gateway.services.accounts = Accounts(
            gateway.services.store, idempotency_ttl_s=60, journal_retention_s=60, burst=1.0, name_lease_s=LEASE_S
        )
        admin = stack.enter_context(admin_client(gateway))
        new_team(admin)
        yield Bench(server, proxy, gateway, admin)


Call = Callable[[], httpx.Response]
Check = Callable[[httpx.Response], None]
Change = Callable[[Bench], tuple[Call, Check]]
"""Prepares a change. Returns what sends it, and what must hold once a repeat has been answered."""


def _once() -> dict[str, str]:
    return {"idempotency-key": uuid.uuid4().hex}


def creates_a_team(bench: Bench) -> tuple[Call, Check]:
    body, headers = {"name": bench.name(), "credits_usd": "2", "limits": {"rpm": 7}}, _once()

    def check(answer: httpx.Response) -> None:
        team = done(answer)
        assert (team["name"], team["limits"]["rpm"]["limit"]) == (body["name"], 7)
        assert team["balance"]["granted_usd"] == "2"
        assert [found["id"] for found in bench.new_teams() if found["name"] == body["name"]] == [team["id"]]

    return lambda: bench.admin.post("/teams", json=body, headers=headers), check


def creates_a_team_without_an_idempotency_key(bench: Bench) -> tuple[Call, Check]:
    body = {"name": bench.name(), "credits_usd": "2"}

    def check(answer: httpx.Response) -> None:
        if answer.is_error:
            assert code_of(answer) == "already_exists", "the creation that was cut has created it"
        assert bench.get(f"/teams/{body['name']}")["balance"]["granted_usd"] == "2"

    return lambda: bench.admin.post("/teams", json=body), check


def renames_a_team(bench: Bench) -> tuple[Call, Check]:
    team, name = new_team(bench.admin), bench.name()
    headers = {"if-match": f'"{team["version"]}"'}

    def check(answer: httpx.Response) -> None:
        if answer.is_error:
            assert code_of(answer) == "version_mismatch", "the change that was cut has been made"
        changed = bench.get(f"/teams/{name}")
        assert (changed["id"], changed["limits"]["rpm"]["limit"]) == (team["id"], 7)
        assert changed["version"] == team["version"] + 1
        again = done(bench.send(lambda: bench.admin.post("/teams", json={"name": team["name"]})))
        assert again["id"] != team["id"], "the name is free"

    body = {"name": name, "limits": {"rpm": 7}}
    return lambda: bench.admin.patch(f"/teams/{team['id']}", json=body, headers=headers), check


def changes_a_team(bench: Bench) -> tuple[Call, Check]:
    team = new_team(bench.admin)

    def check(answer: httpx.Response) -> None:
        changed = done(answer)
        assert (changed["limits"]["rpm"]["limit"], changed["limits"]["tpm"]["limit"]) == (7, 8)

    return lambda: bench.admin.patch(f"/teams/{team['id']}", json={"limits": {"rpm": 7, "tpm": 8}}), check


def sets_limits_for_a_while(bench: Bench) -> tuple[Call, Check]:
    team = new_team(bench.admin, limits={"rpm": 7})
    ended = {"budget_usd_7d": {"limit": "9", "until": LATER}, "tpm": {"limit": 5, "until": LATER}}
    done(bench.admin.patch(f"/teams/{team['id']}", json={"overrides": ended}))

    def check(answer: httpx.Response) -> None:
        limits = done(answer)["limits"]
        assert limits.keys() == {"rpm", "concurrency@sim/*", "tpm"}
        assert {name: (one["limit"], one["override"]["otherwise"]) for name, one in limits.items()} == {
            "rpm": (700, 7),
            "concurrency@sim/*": (8, None),
            "tpm": (9, None),
        }

    overrides = {
        "rpm": {"limit": 700, "until": LATER},
        "concurrency@sim/*": {"limit": 8, "until": LATER},
        "budget_usd_7d": None,
        "tpm": {"limit": 9, "until": LATER},
    }
    return lambda: bench.admin.patch(f"/teams/{team['id']}", json={"overrides": overrides}), check


def creates_a_key(bench: Bench) -> tuple[Call, Check]:
    team, headers = new_team(bench.admin), _once()

    def check(answer: httpx.Response) -> None:
        key = done(answer)
        assert bench.get(f"/keys/{key['id']}")["team_id"] == team["id"]
        assert [one["id"] for one in bench.get(f"/teams/{team['id']}/keys")["data"]] == [key["id"]]
        with bench.gateway.http(key["key"]) as client:
            assert client.get("/v1/key").is_success

    return lambda: bench.admin.post(f"/teams/{team['id']}/keys", json={"name": "k"}, headers=headers), check


def changes_a_key(bench: Bench) -> tuple[Call, Check]:
    team = new_team(bench.admin)
    path = f"/teams/{team['id']}/keys"
    key = done(bench.admin.post(path, json={"name": "k"}))

    def check(answer: httpx.Response) -> None:
        changed = done(answer)
        assert (changed["status"], changed["limits"]["rpm"]["limit"]) == ("disabled", 7)

    body = {"status": "disabled", "limits": {"rpm": 7}}
    return lambda: bench.admin.patch(f"{path}/{key['id']}", json=body), check


def rotates_a_key(bench: Bench) -> tuple[Call, Check]:
    team, headers = new_team(bench.admin), _once()
    path = f"/teams/{team['id']}/keys"
    key = done(bench.admin.post(path, json={"name": "k"}))

    def check(answer: httpx.Response) -> None:
        rotated = done(answer)
        assert len(rotated["secrets"]) == 2
        with bench.gateway.http(rotated["key"]) as client:
            assert client.get("/v1/key").is_success

    return lambda: bench.admin.post(f"{path}/{key['id']}/rotate", json={"overlap_s": 60}, headers=headers), check


def moves_credits(bench: Bench) -> tuple[Call, Check]:
    team, headers = new_team(bench.admin), _once()

    def check(answer: httpx.Response) -> None:
        assert done(answer)["granted_usd"] == "15"

    body = {"kind": "grant", "amount_usd": "5"}
    return lambda: bench.admin.post(f"/teams/{team['id']}/credits", json=body, headers=headers), check


def grants_credits_that_expire(bench: Bench) -> tuple[Call, Check]:
    team, headers = new_team(bench.admin), _once()
    body = {"kind": "grant", "amount_usd": "5", "expires_at": LATER}
    done(bench.admin.post(f"/teams/{team['id']}/credits", json=body))

    return (
        lambda: bench.admin.post(f"/teams/{team['id']}/credits", json=body, headers=headers),
        _leaves(bench, team["id"], granted_usd="20", expiring_usd="10"),
    )


def corrects_credits_that_expire(bench: Bench) -> tuple[Call, Check]:
    team, headers = new_team(bench.admin), _once()
    granted = {"kind": "grant", "amount_usd": "5", "expires_at": LATER}
    done(bench.admin.post(f"/teams/{team['id']}/credits", json=granted))

    body = {"kind": "adjust", "amount_usd": "-4", "expires_at": LATER}
    return (
        lambda: bench.admin.post(f"/teams/{team['id']}/credits", json=body, headers=headers),
        _leaves(bench, team["id"], granted_usd="11", expiring_usd="1"),
    )


def _leaves(bench: Bench, team_id: str, *, granted_usd: str, expiring_usd: str) -> Check:
    """Checks what was granted, and what is left of the credits that expire."""

    def check(answer: httpx.Response) -> None:
        assert done(answer)["granted_usd"] == granted_usd
        [lot] = bench.get(f"/teams/{team_id}/credits")["expiring"]
        assert lot["available_usd"] == expiring_usd

    return check


def deletes_a_team(bench: Bench) -> tuple[Call, Check]:
    team = new_team(bench.admin)
    key = done(bench.admin.post(f"/teams/{team['id']}/keys", json={"name": "k"}))

    def check(answer: httpx.Response) -> None:
        assert done(answer)["status"] == "archived"
        with bench.gateway.http(key["key"]) as client:
            assert code_of(client.get("/v1/key")) == "invalid_api_key"
        assert team["id"] not in [one["id"] for one in bench.new_teams()]
        again = done(bench.send(lambda: bench.admin.post("/teams", json={"name": team["name"]})))
        assert again["id"] != team["id"], "the name is free"

    return lambda: bench.admin.delete(f"/teams/{team['id']}"), check


def deletes_a_key(bench: Bench) -> tuple[Call, Check]:
    team = new_team(bench.admin)
    path = f"/teams/{team['id']}/keys"
    key = done(bench.admin.post(path, json={"name": "k"}))

    def check(answer: httpx.Response) -> None:
        assert done(answer)["status"] == "archived"
        assert bench.get(path)["data"] == []
        assert [one["id"] for one in bench.get(f"{path}?all=true")["data"]] == [key["id"]]

    return lambda: bench.admin.delete(f"{path}/{key['id']}"), check


def creates_an_admin_key(bench: Bench) -> tuple[Call, Check]:
    body, headers = {"name": "a", "scope": "read"}, _once()

    def check(answer: httpx.Response) -> None:
        created = done(answer)
        with admin_client(bench.gateway, created["key"]) as client:
            assert done(client.get("/whoami"))["id"] == created["id"]
        assert created["id"] in [one["id"] for one in bench.get("/admin-keys")["data"]]

    return lambda: bench.admin.post("/admin-keys", json=body, headers=headers), check


def deletes_an_admin_key(bench: Bench) -> tuple[Call, Check]:
    created = done(bench.admin.post("/admin-keys", json={"name": "a", "scope": "read"}))

    def check(answer: httpx.Response) -> None:
        assert answer.is_success or code_of(answer) == "admin_key_not_found"
        with admin_client(bench.gateway, created["key"]) as client:
            assert code_of(client.get("/whoami")) == "invalid_admin_key"
        assert created["id"] not in [one["id"] for one in bench.get("/admin-keys")["data"]]

    return lambda: bench.admin.delete(f"/admin-keys/{created['id']}"), check


def rotates_an_admin_key(bench: Bench) -> tuple[Call, Check]:
    created = done(bench.admin.post("/admin-keys", json={"name": "a", "scope": "read"}))
    path, headers = f"/admin-keys/{created['id']}/rotate", _once()

    def check(answer: httpx.Response) -> None:
        for key in (created["key"], done(answer)["key"]):
            with admin_client(bench.gateway, key) as client:
                assert done(client.get("/whoami"))["id"] == created["id"]
        (listed,) = [one for one in bench.get("/admin-keys")["data"] if one["id"] == created["id"]]
        assert len(listed["ending_secrets"]) == 1

    return lambda: bench.admin.post(path, json={"overlap_s": 3600}, headers=headers), check


def disables_an_upstream(bench: Bench) -> tuple[Call, Check]:
    assert done(bench.admin.post("/upstreams/simulator/enable"))["enabled"]

    def check(answer: httpx.Response) -> None:
        assert not done(answer)["enabled"]

    return lambda: bench.admin.post("/upstreams/simulator/disable"), check


CHANGES: tuple[Change, ...] = (
    creates_a_team,
    creates_a_team_without_an_idempotency_key,
    renames_a_team,
    changes_a_team,
    sets_limits_for_a_while,
    creates_a_key,
    changes_a_key,
    rotates_a_key,
    moves_credits,
    grants_credits_that_expire,
    corrects_credits_that_expire,
    deletes_a_team,
    deletes_a_key,
    creates_an_admin_key,
    deletes_an_admin_key,
    rotates_an_admin_key,
    disables_an_upstream,
)


@pytest.mark.parametrize("ran", [False, True], ids=["before a command", "after it"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_that_is_cut_anywhere_is_whole_and_leaves_nothing_over(
    bench: Bench, change: Change, ran: bool
) -> None:
    bench.begin()
    cuts = 0
    for at in range(1, MAX_COMMANDS):
        call, check = change(bench)
        bench.proxy.arm(at, ran=ran)
        with contextlib.suppress(httpx.HTTPError):
            call()
        if bench.proxy.disarm() < at:
            break
        cuts += 1
        check(bench.send(call))
        bench.no_change_is_on_its_way()
    bench.nothing_is_left_over()
    assert 0 < cuts < MAX_COMMANDS - 1, "the call's commands were counted"
