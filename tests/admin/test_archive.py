"""`gateway ledger archive`: what leaves the journal is on disk first, and the books still add up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from gateway.store.keyspace import TeamKeys
from tests.admin.test_ledger_api import ledger
from tests.admin.test_teams import ASK, create, error
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.servers import Server, valkey_server
from tests.support.waiting import wait_until_sync

DAY_MS: Final = 86_400_000
REQUESTS: Final = 3
OLD_DAYS: Final = 20


def verified(admin: httpx.Client, team: Any) -> tuple[bool, int, bool]:
    (found,) = admin.get("/ledger/verify", params={"team": team["id"]}).json()["data"]
    return found["ok"], found["entries"], found["complete"]


def age(store: Server, team: Any, days: int) -> None:
    """Lets every entry of a journal be some days older, each request on a day of its own."""
    journal = TeamKeys(team["id"]).journal
    rows = store.run("XRANGE", journal, "-", "+")
    store.run("DEL", journal)
    for number, (entry_id, fields) in enumerate(rows):
        ms, _, sequence = entry_id.decode().partition("-")
        old_ms = int(ms) - (days - number) * DAY_MS
        store.run("XADD", journal, f"{old_ms}-{sequence}", *[word for pair in fields.items() for word in pair])


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    """A store of these tests' own: requests of weeks ago would be among others' figures."""
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(store.url, upstream, tmp_path_factory.mktemp("archive")) as gateway:
        yield gateway


@pytest.fixture
def team(admin: httpx.Client, gateway: RunningGateway, store: Server, new_name: Callable[[], str]) -> Any:
    """A team with a grant of 20 days ago and a request on each of the three days behind it; and one of today."""
    team = create(admin, new_name(), credits_usd="5")
    key = admin.post(f"/teams/{team['id']}/keys", json={"name": "k"}).json()["key"]

    def ask(times: int) -> None:
        before = store.run("XLEN", TeamKeys(team["id"]).journal)
        with gateway.http(key) as client:
            for _ in range(times):
                assert client.post("/v1/responses", json=ASK).status_code == 200
        wait_until_sync(lambda: store.run("XLEN", TeamKeys(team["id"]).journal) == before + times)

    ask(REQUESTS)
    age(store, team, OLD_DAYS)
    ask(1)
    return team


def archive(gateway: RunningGateway, tmp_path: Path, team: Any, *words: str) -> Any:
    return ledger(gateway, tmp_path, "archive", "files", "--team", team["name"], *words)


def before(team: Any, store: Server, days: int) -> tuple[str, str]:
    (entry_id, _), *_ = store.run("XRANGE", TeamKeys(team["id"]).journal, "-", "+", "COUNT", "1")
    day = datetime.fromtimestamp(int(entry_id.partition(b"-")[0]) / 1000 + days * 86_400, UTC).date()
    return "--before", day.isoformat()


def test_days_leave_for_files_and_the_books_still_add_up(
    admin: httpx.Client, gateway: RunningGateway, store: Server, team: Any, tmp_path: Path
) -> None:
    place = f"/teams/{team['id']}/journal"
    every = admin.get(place).json()["data"]
    assert verified(admin, team) == (True, REQUESTS + 2, True)
    first = archive(gateway, tmp_path, team, *before(team, store, 2))
    assert (first.code, first.err) == (0, "")
    assert "2 entries of 2 days" in first.out
    assert verified(admin, team) == (True, REQUESTS, True)
    second = archive(gateway, tmp_path, team, *before(team, store, 5))
    assert (second.code, second.err) == (0, "")
    assert admin.get(place).json()["data"] == every[-1:]
    assert verified(admin, team) == (True, 1, True)
    files = sorted((tmp_path / "files" / team["id"]).iterdir())
    assert len(files) == REQUESTS + 1
    assert [json.loads(line) for file in files for line in file.read_text().splitlines()] == every[:-1]
    names = TeamKeys(team["id"])
    store.run("HINCRBY", names.archived, "balance", "1")
    try:
        assert verified(admin, team)[0] is False, "what was carried forward is compared"
    finally:
        store.run("HINCRBY", names.archived, "balance", "-1")


def test_a_file_that_differs_keeps_the_journal(
    admin: httpx.Client, gateway: RunningGateway, store: Server, team: Any, tmp_path: Path
) -> None:
    """A file from an archive that was interrupted is compared, and not written again."""
    words = before(team, store, 1)
    (entry, *_) = admin.get(f"/teams/{team['id']}/journal").json()["data"]
    file = tmp_path / "files" / team["id"] / f"{entry['at'][:10]}.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({**entry, "amount_usd": "6"}) + "\n")
    refused = archive(gateway, tmp_path, team, *words)
    assert (refused.code, "differ" in refused.err) == (1, True)
    assert verified(admin, team) == (True, REQUESTS + 2, True)
    whole = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    file.write_text(whole + "\n")
    assert archive(gateway, tmp_path, team, *words).code == 0
    assert file.read_text() == whole + "\n"
    assert verified(admin, team) == (True, REQUESTS + 1, True)


def test_what_is_still_needed_stays(admin: httpx.Client, gateway: RunningGateway, team: Any, tmp_path: Path) -> None:
    last = admin.get(f"/teams/{team['id']}/journal").json()["data"][-1]
    part = {"through": last["id"], "entries": REQUESTS + 2, "digest": "0" * 64}
    refused = admin.post(f"/teams/{team['id']}/journal/archived", json=part)
    assert error(refused)[:2] == (400, "invalid_field")
    told = archive(gateway, tmp_path, team)
    assert (told.code, told.out.split(" ")[0]) == (0, "0"), "the last 30 days stay"
    assert archive(gateway, tmp_path, team, "--before", "soon").code == 1
