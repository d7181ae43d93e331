"""The operator scenario, with the API alone and with the command line alone."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.admins import admin_client, done
from tests.support.gateway import RunningGateway
from tests.support.operator_scenario import CreatedKey, run_operator_scenario
from tests.support.shell import Shell


def spent(rows: list[dict[str, Any]], by: str) -> dict[str, Decimal]:
    return {row[by]: Decimal(row["cost_usd"]) for row in rows}


def unused(key: dict[str, Any]) -> int:
    return sum(secret["last_used_at"] is None for secret in key["secrets"])


def reasons(requests: list[dict[str, Any]]) -> list[str]:
    return [f"{item['scope']} {item['limit']} {item['code']}" for item in requests]


class ByApi:
    """The admin API, called plainly."""

    def __init__(self, root: httpx.Client) -> None:
        self._root = root

    def new_team(self, name: str, credits_usd: str) -> None:
        done(self._root.post("/teams", json={"name": name, "credits_usd": credits_usd}))

    def new_key(self, team: str, name: str) -> CreatedKey:
        made = done(self._root.post(f"/teams/{team}/keys", json={"name": name}))
        return CreatedKey(made["id"], made["key"])

    def rotate(self, team: str, key_id: str) -> str:
        rotated: str = done(self._root.post(f"/teams/{team}/keys/{key_id}/rotate", json={"overlap_s": 3600}))["key"]
        return rotated

    def unused_secrets(self, team: str, key_id: str) -> int:
        return unused(done(self._root.get(f"/teams/{team}/keys/{key_id}")))

    def limit_key(self, team: str, key_id: str, rpm: int) -> None:
        done(self._root.patch(f"/teams/{team}/keys/{key_id}", json={"limits": {"rpm": rpm}}))

    def spend(self, by: str, team: str | None = None) -> dict[str, Decimal]:
        query = {"by": by, **({"team": team} if team else {})}
        return spent(done(self._root.get("/usage", params=query))["groups"], by)

    def why_refused(self, team: str) -> list[str]:
        return reasons(done(self._root.get("/requests", params={"team": team, "outcome": "refused"}))["data"])

    def grant(self, team: str, usd: str) -> None:
        done(self._root.post(f"/teams/{team}/credits", json={"kind": "grant", "amount_usd": usd}))

    def turn_upstream(self, name: str, *, on: bool) -> None:
        done(self._root.post(f"/upstreams/{name}/{'enable' if on else 'disable'}"))


class ByCommandLine:
    """`gateway ... --json`, as a script would."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def new_team(self, name: str, credits_usd: str) -> None:
        self._shell.json("teams", "create", name, "--credits", credits_usd)

    def new_key(self, team: str, name: str) -> CreatedKey:
        made = self._shell.json("keys", "create", team, "--name", name)
        return CreatedKey(made["id"], made["key"])

    def rotate(self, team: str, key_id: str) -> str:
        rotated: str = self._shell.json("keys", "rotate", f"{team}/{key_id}", "--overlap", "1h")["key"]
        return rotated

    def unused_secrets(self, team: str, key_id: str) -> int:
        return unused(self._shell.json("keys", "show", team, key_id))

    def limit_key(self, team: str, key_id: str, rpm: int) -> None:
        self._shell.json("keys", "limits", key_id, f"rpm={rpm}")

    def spend(self, by: str, team: str | None = None) -> dict[str, Decimal]:
        words = ("--team", team) if team else ()
        return spent(self._shell.json("usage", "--by", by, *words)["groups"], by)

    def why_refused(self, team: str) -> list[str]:
        return reasons(self._shell.json("requests", "list", "--team", team, "--outcome", "refused"))

    def grant(self, team: str, usd: str) -> None:
        self._shell.json("credits", "grant", team, usd)

    def turn_upstream(self, name: str, *, on: bool) -> None:
        self._shell.json("upstreams", *(("enable", name) if on else ("disable", name, "--yes")))


def test_the_operator_scenario_runs_with_the_api_alone(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        run_operator_scenario(ByApi(root), gateway)


def test_the_operator_scenario_runs_with_the_command_line_alone(
    gateway: RunningGateway, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_operator_scenario(ByCommandLine(Shell(gateway, capsys)), gateway)
