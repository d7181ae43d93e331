"""Numbers are the ledger's: after mixed traffic every place shows the same ones."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.admins import admin_client, done, new_team
from tests.support.dashboard_client import signed_in
from tests.support.gateway import RunningGateway
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync

MODELS = ("a/whole", "sim/no-usage", "sim/cut-5", "sim/error-500")


def traffic(gateway: RunningGateway, key: str) -> None:
    """Sends requests that are answered, streamed, without usage, cut, abandoned, refused by provider or limit."""
    with gateway.sdk(key) as client:
        for model in MODELS:
            for stream in (False, True):
                try:
                    answer = client.responses.create(model=model, input="hello " * 20, stream=stream)
                    _ = [event for event in answer] if stream else answer  # noqa: C416 - read to its end
                except (openai.OpenAIError, httpx.HTTPError):
                    pass
        stream_left = client.responses.create(model="sim/slow-20+tokens-200", input="hello", stream=True)
        next(iter(stream_left))
        stream_left.close()
        with pytest.raises(openai.RateLimitError):
            too_often(client)


def too_often(client: openai.OpenAI) -> None:
    for _ in range(50):  # a slow machine's bucket drains meanwhile
        client.responses.create(model="a/whole", input="hello")


def test_every_place_shows_the_same_numbers(
    gateway: RunningGateway, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = Shell(gateway, capsys)
    with admin_client(gateway) as root, signed_in(gateway) as dashboard:
        team = new_team(root, credits_usd="5", limits={"budget_usd_day": "1"})
        key = done(root.post(f"/teams/{team['id']}/keys", json={"name": "mixed", "limits": {"rpm": 11}}))
        traffic(gateway, key["key"])

        def balance() -> dict[str, Any]:
            return done(root.get(f"/teams/{team['id']}/credits"))

        wait_until_sync(lambda: balance()["held_usd"] == "0", what="all is settled")
        spent = balance()["spent_usd"]
        assert Decimal(spent) > 0

        journal = done(root.get(f"/teams/{team['id']}/journal", params={"limit": 1000}))["data"]
        charged = [entry for entry in journal if entry["type"] == "settle"]
        assert -sum(Decimal(entry["amount_usd"]) for entry in charged) == Decimal(spent)
        assert sum(Decimal(entry["amount_usd"]) for entry in journal) == Decimal(balance()["available_usd"])
        assert done(root.get("/ledger/verify", params={"team": team["id"]}))["ok"]

        def usage(**query: str) -> dict[str, Any]:
            return done(root.get("/usage", params={"team": team["id"], **query}))

        # A correction of what was estimated, asked for later, is no request.
        requests = [entry for entry in journal if not (entry["request_id"] or "").startswith("usage_")]
        ended = len([entry for entry in requests if entry["type"] in ("settle", "void")])
        count = len([entry for entry in requests if entry["type"] == "settle"])
        wait_until_sync(lambda: sum(usage()["total"]["outcomes"].values()) == ended, what="all is counted")
        for query in ({}, {"step": "day"}, {"by": "model"}, {"by": "key"}, {"by": "team", "step": "day"}):
            total = usage(**query)["total"]
            assert (total["cost_usd"], total["requests"]) == (spent, count)
            for figure in ("input_tokens", "output_tokens"):
                assert total[figure] == sum(entry["usage"][figure] for entry in charged)
        wait_until_sync(lambda: usage()["total"]["refused"] >= 1, what="the refusal is counted")

        said = shell.json("usage", "--team", team["name"], "--by", "model")["total"]
        assert (said["cost_usd"], said["requests"]) == (spent, count)
        assert f"{count} requests, {spent} USD" in shell("usage", "--team", team["name"]).out
        assert shell.json("credits", "show", team["name"])["spent_usd"] == spent

        with httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {key['key']}"}) as caller:
            seen = caller.get("/v1/key").json()
        assert seen["team"]["balance"]["spent_usd"] == spent
        assert seen["team"]["limits"]["budget_usd_day"]["used_usd"] == spent

        for path in (f"?team={team['id']}&days=1", f"?team={team['id']}", f"/teams/{team['id']}"):
            assert f'<data value="{spent}"' in dashboard.get(path).text
        available = balance()["available_usd"]
        assert f'<data value="{available}"' in dashboard.get(f"/teams/{team['id']}").text
        assert f'<td class="number">{available}' in dashboard.get(f"/teams/{team['id']}/journal").text
