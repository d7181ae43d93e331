"""`gateway reconcile`: the journal of real requests against an export of them, and what is wrong with an export."""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.admin.test_teams import ASK, create
from tests.support.gateway import ADMIN_KEY, RunningGateway, running_gateway
from tests.support.program import Ended, run
from tests.support.servers import valkey_server
from tests.support.waiting import wait_until_sync

TODAY: Final = dt.datetime.now(dt.UTC).date()
PERIOD: Final = ("--from", str(TODAY - dt.timedelta(days=1)), "--to", str(TODAY + dt.timedelta(days=2)))
UPSTREAM: Final = "simulator"

Charges = list[dict[str, Any]]


@pytest.fixture(scope="module")
def gateway(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway whose journals have only what these tests ask for."""
    directory = tmp_path_factory.mktemp("gateway")
    with valkey_server() as store, running_gateway(store.url, upstream, directory) as running:
        yield running


@pytest.fixture
def charges(admin: httpx.Client, gateway: RunningGateway, new_name: Callable[[], str]) -> Charges:
    """What the journals of all teams say of one upstream, with the requests of a new team."""
    team = create(admin, new_name(), credits_usd="5")
    key = admin.post(f"/teams/{team['id']}/keys", json={"name": "k"}).json()["key"]
    with gateway.http(key) as client:
        shown = [client.post("/v1/responses", json=ASK).json()["id"] for _ in range(2)]
        client.post("/v1/responses", json={**ASK, "stream": True})
    place = f"/teams/{team['id']}/journal"
    settled = {"type": "settle", "limit": "1000"}
    wait_until_sync(lambda: len(admin.get(place, params=settled).json()["data"]) == 3, what="all are settled")
    assert [entry["response_id"] for entry in admin.get(place, params=settled).json()["data"]][:2] == shown
    found = []
    for one in admin.get("/teams", params={"limit": "1000"}).json()["data"]:
        found += admin.get(f"/teams/{one['id']}/journal", params=settled).json()["data"]
    return [entry for entry in found if entry["upstream"] == UPSTREAM]


def rows_of(charges: Charges) -> list[list[str]]:
    return [[one["response_id"] or "", one["at"], one["model"], str(-Decimal(one["amount_usd"]))] for one in charges]


def written(path: Path, rows: Iterable[list[str]], headings: str = "id,timestamp,model,cost") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([headings.split(","), *rows])
    return path


def reconcile(gateway: RunningGateway, file: Path, *words: str, upstream: str = UPSTREAM) -> Ended:
    env = {"GATEWAY_URL": gateway.url, "GATEWAY_ADMIN_KEY": ADMIN_KEY}
    return run("reconcile", "--upstream", upstream, *PERIOD, str(file), *words, cwd=file.parent, env=env)


def test_a_journal_against_its_own_export_agrees(gateway: RunningGateway, tmp_path: Path, charges: Charges) -> None:
    file = written(tmp_path / "bill.csv", rows_of(charges))
    told = reconcile(gateway, file, "--tolerance", "0")
    assert (told.code, told.err) == (0, "")
    assert "The journal and the export agree." in told.out
    found = json.loads(reconcile(gateway, file, "--json").out)
    assert (found["ok"], found["findings"], found["difference_usd"]) == (True, [], "0")
    assert found["journal"]["rows"] == found["export"]["rows"] == len(charges)


def test_what_was_changed_is_found_with_its_sum(gateway: RunningGateway, tmp_path: Path, charges: Charges) -> None:
    rows = rows_of(charges)
    (lost_id, *_, lost), (dear_id, *_), *_ = [row for row in rows if row[0] and Decimal(row[3])]
    rows = [row for row in rows if row[0] != lost_id] + [["=1+1", str(TODAY), "sim/unheard-of", "2"]]
    for row in rows:
        row[3] = str(Decimal(row[3]) + 1) if row[0] == dear_id else row[3]
    file = written(tmp_path / "bill.csv", rows, "Ref,When,Engine,Paid")
    columns = ("--columns", "id=Ref,time=When,model=Engine,cost=Paid")
    told = reconcile(gateway, file, *columns, "--json")
    assert (told.code, told.err) == (1, "")
    found = json.loads(told.out)
    assert {(one["kind"], one["response_id"]): Decimal(one["difference_usd"]) for one in found["findings"]} == {
        ("missing in the journal", "=1+1"): Decimal(2),
        ("differs", dear_id): Decimal(1),
        ("missing in the export", lost_id): -Decimal(lost),
    }
    assert Decimal(found["difference_usd"]) == 3 - Decimal(lost)
    people = reconcile(gateway, file, *columns)
    assert people.code == 1
    assert all(text in people.out for text in ("missing in the journal", "=1+1", lost_id, dear_id))
    assert reconcile(gateway, file, *columns, "--tolerance", "4").code == 0


def test_costs_and_usage_as_openai_writes_them(gateway: RunningGateway, tmp_path: Path, charges: Charges) -> None:
    costs, usage = tmp_path / "costs.json", tmp_path / "usage.jsonl"
    costs.write_text(json.dumps({"data": [bucket({"amount": amount(one)}, one) for one in charges]}, indent=1))
    told = reconcile(gateway, costs, "--tolerance", "0")
    assert (told.code, told.err) == (0, "")
    pages = ({"data": [bucket({**one["usage"]}, one)]} for one in charges)
    usage.write_text("".join(f"{json.dumps(page)}\n" for page in pages))
    assert reconcile(gateway, usage).code == 0
    found = json.loads(reconcile(gateway, usage, "--json").out)
    assert (found["unit"], found["difference_usd"], found["findings"]) == ("tokens", None, [])
    with usage.open("a") as file:
        file.write(json.dumps({"data": [bucket({"input_tokens": 1, "output_tokens": 0}, charges[0])]}))
    assert reconcile(gateway, usage).code == 1


def bucket(result: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    start_s = int(dt.datetime.fromisoformat(entry["at"][:10]).replace(tzinfo=dt.UTC).timestamp())
    return {"object": "bucket", "start_time": start_s, "results": [{"line_item": f"{entry['model']}, input", **result}]}


def amount(entry: dict[str, Any]) -> dict[str, Any]:
    return {"value": str(-Decimal(entry["amount_usd"])), "currency": "usd"}


@pytest.mark.parametrize(
    ("text", "words", "why"),
    [
        ("when,what\n", (), "no column is known as the time; name it with --columns time=HEADING"),
        ("id,time,cost\nr,x,1\n", (), "line 2: 'x' is not a time"),
        ('{"data":\n', (), "it is no JSON"),
        ('{"data": []}\n{"data"\n', (), "a line is no JSON"),
        ("", ("--columns", "price=x"), "--columns knows no price"),
        ("", ("--columns", "price"), "--columns is NAME=VALUE"),
        ("", ("--tolerance", "-1"), "--tolerance is not negative"),
        ("", ("--tolerance", "few"), "'few' is not a decimal amount"),
        ("", ("--to", "soon"), "--to 'soon' is no time or day"),
        ("", ("--to", "2020-01-01"), "--from must be before --to"),
        ("", ("--upstream", "nobody"), "there is no upstream 'nobody'; there are"),
        ("time,cost\n2026-11-01,1\n", ("--max-keys", "1"), "more than 1 ids, days and models"),
        ("\0", (), "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_wrong_usage(
    gateway: RunningGateway, tmp_path: Path, charges: Charges, text: str, words: tuple[str, ...], why: str
) -> None:
    file = tmp_path / "bill"
    file.write_bytes(b"\xff\xfe" if text == "\0" else text.encode())
    told = reconcile(gateway, file, *words)
    assert (told.code, why in told.err) == (2, True), told.err


def test_rows_outside_the_period_are_ignored_and_counted(
    gateway: RunningGateway, tmp_path: Path, charges: Charges
) -> None:
    file = written(tmp_path / "bill.csv", [*rows_of(charges), ["other", "2020-01-01", "sim/echo", "9"]])
    told = reconcile(gateway, file)
    assert (told.code, "1 rows of the export" in told.out) == (0, True)
