"""Usage and the journal as Parquet: another implementation reads the figures of the API, each in its type."""

import os
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.reporting.parquet import ParquetWriter
from tests.support.admins import done, new_team
from tests.support.gateway import ADMIN_KEY, RunningGateway
from tests.support.program import run
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync

ROOT = Path(__file__).parents[2]
TEXT, COUNT, MOMENT = "string", "int64", "timestamp[ms, tz=UTC]"
FIGURES = {
    "requests": COUNT,
    "input_tokens": COUNT,
    "cached_input_tokens": COUNT,
    "output_tokens": COUNT,
    "cost_nano_usd": COUNT,
}
DURATIONS = {"refused": COUNT, "median_ms": COUNT, "p95_ms": COUNT}
OF_TEAM = {"team": TEXT, "team_id": TEXT}
USAGE: dict[str, dict[str, str]] = {
    "model": {"model": TEXT, **FIGURES, **DURATIONS},
    "key": {**OF_TEAM, "key": TEXT, "key_id": TEXT, **FIGURES},
    "team": {**OF_TEAM, **FIGURES, **DURATIONS},
    "time": {"start": MOMENT, **FIGURES, **DURATIONS},
    "user": {**OF_TEAM, "kind": TEXT, "value": TEXT, **FIGURES},
    "tag:project": {**OF_TEAM, "tag": TEXT, "kind": TEXT, "value": TEXT, **FIGURES},
    "tags": {"name": TEXT, "values": COUNT, **FIGURES},
}


def read(path: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The columns of a file with their types, and its rows."""
    table = import_module("pyarrow.parquet").read_table(path)
    return {field.name: str(field.type) for field in table.schema}, table.to_pylist()


def nano(usd: str) -> int:
    return int(Decimal(usd) * 10**9)


@pytest.fixture
def team(gateway: RunningGateway, root: httpx.Client) -> dict[str, Any]:
    """A team with two settled requests."""
    made = new_team(root, timezone="Asia/Kolkata")
    key = done(root.post(f"/teams/{made['id']}/keys", json={"name": "=1+1"}))["key"]
    with gateway.http(key) as client:
        for model in ("a/one", "b/two"):
            body = {"model": model, "input": "hello", "user": "ada", "metadata": {"project": "alpha"}}
            assert client.post("/v1/responses", json=body).status_code == 200
    wait_until_sync(lambda: len(journal(root, made)) == 3, what="both requests are settled")
    return made


def journal(root: httpx.Client, team: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = done(root.get(f"/teams/{team['id']}/journal"))["data"]
    return found


@pytest.mark.parametrize("by", USAGE)
def test_usage_has_the_types_of_its_columns_and_the_figures_of_the_api(
    shell: Shell, team: dict[str, Any], tmp_path: Path, by: str
) -> None:
    path = tmp_path / "usage.parquet"
    assert shell("usage", "--team", team["id"], "--by", by, "--parquet", str(path)).code == 0
    columns, rows = read(path)
    assert columns == USAGE[by]
    said = shell.json("usage", "--team", team["id"], "--by", by)
    groups = said["data"] if by in ("time", "tags") else said["groups"]
    assert [row["cost_nano_usd"] for row in rows] == [nano(group["cost_usd"]) for group in groups]
    assert [row["requests"] for row in rows] == [group["requests"] for group in groups]
    assert sum(row["cost_nano_usd"] for row in rows) > 0
    if by == "time":
        assert [row["start"] for row in rows] == [datetime.fromisoformat(group["start"]) for group in groups]
    if by == "key":
        assert rows[0]["key"] == "=1+1", "no spreadsheet runs it"
    assert [each.name for each in tmp_path.iterdir()] == ["usage.parquet"]


@pytest.mark.parametrize("by", USAGE)
def test_a_file_without_rows_has_the_same_columns(shell: Shell, team: dict[str, Any], tmp_path: Path, by: str) -> None:
    path = tmp_path / "nothing.parquet"
    period = ("--from", "2026-01-01", "--to", "2026-01-02")
    assert shell("usage", "--team", team["id"], "--by", by, *period, "--parquet", str(path)).code == 0
    assert read(path) == (USAGE[by], [])


def test_the_journal_is_exported_as_parquet(
    shell: Shell, root: httpx.Client, team: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "journal.parquet"
    export = ("ledger", "export", team["id"], "--format", "parquet")
    assert shell(*export, "--output", str(path)).code == 0
    columns, rows = read(path)
    expected = journal(root, team)
    assert {name for name, kind in columns.items() if kind == COUNT} == {
        *("amount_nano_usd", "balance_nano_usd", "hold_nano_usd"),
        *("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"),
    }
    assert {name for name, kind in columns.items() if kind == MOMENT} == {"at", "expires_at"}
    assert [(row["id"], row["team"]) for row in rows] == [(entry["id"], team["name"]) for entry in expected]
    assert [row["at"] for row in rows] == [datetime.fromisoformat(entry["at"]) for entry in expected]
    for column in ("amount", "balance"):
        assert [row[f"{column}_nano_usd"] for row in rows] == [nano(entry[f"{column}_usd"]) for entry in expected]
    assert rows[0]["output_tokens"] is None
    assert rows[1]["output_tokens"] == expected[1]["usage"]["output_tokens"]
    unnamed = shell(*export)
    assert (unnamed.code, "--output" in unnamed.err) == (2, True)


def test_a_file_is_whole_or_absent(tmp_path: Path, shell: Shell, team: dict[str, Any]) -> None:
    unwritable = shell("usage", "--team", team["id"], "--parquet", str(tmp_path / "nowhere" / "usage.parquet"))
    assert (unwritable.code, "cannot be written" in unwritable.err) == (1, True)
    both = shell("usage", "--csv", "--parquet", str(tmp_path / "usage.parquet"))
    assert (both.code, "exclude one another" in both.err) == (2, True)

    def rows() -> Iterator[dict[str, Any]]:
        yield from ({"requests": number} for number in range(25_000))
        raise ConnectionAbortedError("the gateway has gone")

    with pytest.raises(ConnectionAbortedError, match="has gone"):
        ParquetWriter().write(tmp_path / "cut.parquet", ["requests"], rows())


def test_long_files_are_written_as_their_rows_come(tmp_path: Path) -> None:
    """Rows are taken in batches, each of them before the next is asked for."""
    path, open_file = tmp_path / "long.parquet", []

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(25_000):
            open_file.append(path.exists())
            yield {"id": f"{number}", "total_ms": number, "cost_usd": "0.000000001", "at": "2026-11-29T06:00:00.001Z"}

    ParquetWriter().write(path, ["id", "total_ms", "cost_usd", "at"], rows())
    assert all(open_file)
    columns, found = read(path)
    assert columns == {"id": TEXT, "total_ms": COUNT, "cost_nano_usd": COUNT, "at": MOMENT}
    assert [row["total_ms"] for row in found] == list(range(25_000))
    assert {(row["cost_nano_usd"], row["at"].isoformat()) for row in found} == {(1, "2026-11-29T06:00:00.001000+00:00")}


@pytest.mark.parametrize(
    "command",
    [
        ("usage", "--parquet", "out.parquet"),
        ("ledger", "export", "--format", "parquet", "--output", "out.parquet"),
    ],
    ids=" ".join,
)
def test_without_the_package_one_line_says_how_to_install_it(
    gateway: RunningGateway, tmp_path: Path, command: tuple[str, ...]
) -> None:
    shadow = tmp_path / "without" / "arro3"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise ModuleNotFoundError\n", encoding="utf-8")
    found = os.pathsep.join((str(shadow.parent), str(ROOT)))
    env = {"PYTHONPATH": found, "GATEWAY_URL": gateway.url, "GATEWAY_ADMIN_KEY": ADMIN_KEY}
    refused = run(*command, cwd=tmp_path, env=env)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == 'gateway: Parquet needs an extra: pip install "openresponses-gateway[parquet]"\n'
    assert not (tmp_path / "out.parquet").exists()
