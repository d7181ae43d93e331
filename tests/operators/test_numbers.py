"""Usage and recent requests: the ledger's own figures, and the reasons of refusals."""

from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest

from tests.support.admins import admin_client, code_of, done, new_team
from tests.support.gateway import RunningGateway
from tests.support.waiting import wait_until_sync


def new_key(root: httpx.Client, team: dict[str, Any], **fields: Any) -> tuple[str, str]:
    made = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k", **fields}))
    return made["id"], made["key"]


def send(gateway: RunningGateway, key: str, model: str = "a/model", times: int = 1) -> None:
    with gateway.sdk(key) as client:
        for _ in range(times):
            client.responses.create(model=model, input="hello")
    gateway.wait_until_settled()


def recent(root: httpx.Client, team: dict[str, Any], **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = done(root.get("/requests", params={"team": team["id"], **query}))["data"]
    return found


def test_usage_is_what_was_charged_by_model_key_and_team(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        (one, one_text), (two, two_text) = new_key(root, team), new_key(root, team)
        send(gateway, one_text, "a/model", 2)
        send(gateway, two_text, "b/model|odd")
        spent = Decimal(done(root.get(f"/teams/{team['id']}"))["balance"]["spent_usd"])

        def usage(by: str) -> dict[str, Any]:
            return done(root.get("/usage", params={"team": team["id"], "by": by}))

        models, keys, teams = usage("model"), usage("key"), usage("team")
        assert spent > 0
        for found in (models, keys, teams):
            assert Decimal(found["total"]["cost_usd"]) == spent
            assert sum(Decimal(group["cost_usd"]) for group in found["groups"]) == spent
            assert sum(Decimal(row["cost_usd"]) for row in found["data"]) == spent
        assert {(group["model"], group["requests"]) for group in models["groups"]} == {
            ("a/model", 2),
            ("b/model|odd", 1),
        }
        assert {(group["key_id"], group["key"], group["requests"]) for group in keys["groups"]} == {
            (one, "k", 2),
            (two, "k", 1),
        }
        assert [group["team"] for group in teams["groups"]] == [team["name"]]
        everybody = done(root.get("/usage", params={"by": "team", "step": "day"}))
        assert team["id"] in {group["team_id"] for group in everybody["groups"]}


def test_usage_outside_the_asked_time_is_not_shown(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        _, text = new_key(root, team)
        send(gateway, text)
        past = done(root.get("/usage", params={"team": team["id"], "from": "2026-01-01", "to": "2026-01-03"}))
        assert (past["from"], past["to"]) == ("2026-01-01T00:00:00.000Z", "2026-01-03T00:00:00.000Z")
        assert past["data"] == []
        assert past["total"]["requests"] == 0


@pytest.mark.parametrize(
    "query", [{"from": "soon"}, {"from": "2026-02-01", "to": "2026-01-01"}, {"by": "colour"}, {"from": "1970-01-01"}]
)
def test_a_question_about_usage_that_cannot_be_answered_says_why(
    gateway: RunningGateway, query: dict[str, str]
) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        assert code_of(root.get("/usage", params={"team": team["id"], **query})) == "invalid_field"


def test_recent_requests_show_settled_and_refused_ones_with_the_reason(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        key_id, text = new_key(root, team, limits={"rpm": 1})
        send(gateway, text)
        with gateway.sdk(text) as client, pytest.raises(openai.RateLimitError):
            client.responses.create(model="a/model", input="again")
        wait_until_sync(lambda: len(recent(root, team)) == 2, what="the refusal is stored")
        refused, settled = recent(root, team)
        assert (refused["outcome"], refused["code"], refused["status"]) == ("refused", "rate_limit_exceeded", 429)
        assert (refused["limit"], refused["scope"]) == ("rpm", "key")
        assert refused["key_id"] == settled["key_id"] == key_id
        assert refused["message"]
        assert settled["outcome"] == "completed"
        assert Decimal(settled["cost_usd"]) > 0
        assert recent(root, team, outcome="refused") == [refused]
        assert recent(root, team, outcome="completed") == [settled]


def test_a_revoked_key_is_refused_and_its_team_sees_that(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        key_id, text = new_key(root, team)
        done(root.patch(f"/teams/{team['id']}/keys/{key_id}", json={"status": "revoked"}))
        with gateway.sdk(text) as client, pytest.raises(openai.AuthenticationError):
            client.responses.create(model="a/model", input="x")
        wait_until_sync(lambda: bool(recent(root, team, outcome="refused")), what="the refusal is stored")
        assert recent(root, team)[0]["code"] == "invalid_api_key"


def test_a_stranger_with_a_well_formed_key_writes_nothing(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        _, text = new_key(root, team)
        key_id, other = new_key(root, team)
        done(root.patch(f"/teams/{team['id']}/keys/{key_id}", json={"status": "revoked"}))
        forged = gateway.run(_forged(team["id"], key_id))
        for key in (forged, other):
            with gateway.sdk(key) as client, pytest.raises(openai.AuthenticationError):
                client.responses.create(model="a/model", input="x")
        wait_until_sync(lambda: bool(recent(root, team)), what="the refusal of the real one is stored")
        assert len(recent(root, team)) == 1
        send(gateway, text)


async def _forged(team_id: str, key_id: str) -> str:
    from gateway.identity.api_keys import new_secret  # noqa: PLC0415 - used by this helper alone

    return new_secret(team_id, key_id)[0]


def test_recent_requests_come_in_pages_that_lose_and_double_nothing(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team, other = new_team(root), new_team(root)
        _, text = new_key(root, team, limits={"rpm": 7})
        _, other_text = new_key(root, other)
        send(gateway, text, times=7)
        send(gateway, other_text, times=3)
        with gateway.sdk(text) as client:
            for _ in range(3):
                with pytest.raises(openai.RateLimitError):
                    client.responses.create(model="a/model", input="x")
        wait_until_sync(lambda: len(recent(root, team)) == 10, what="all are there")
        for query in ({"team": team["id"]}, {}):
            whole = [item["id"] for item in done(root.get("/requests", params={**query, "limit": 1000}))["data"]]
            paged: list[str] = []
            after: str | None = None
            while True:
                params = {**query, "limit": 2, **({"after": after} if after else {})}
                page = done(root.get("/requests", params=params))
                paged += [item["id"] for item in page["data"]]
                after = page["next"]
                if after is None:
                    break
            assert paged == whole
            assert len(set(whole)) == len(whole) >= 10
        assert code_of(root.get("/requests", params={"after": "x"})) == "invalid_field"


def test_one_request_is_found_by_its_id_with_why_it_was_refused_or_what_it_took(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        _, text = new_key(root, team, limits={"rpm": 1})
        send(gateway, text)
        with gateway.sdk(text) as client, pytest.raises(openai.RateLimitError) as error:
            client.responses.create(model="a/model", input="again")
        refused_id = error.value.response.headers["x-request-id"]
        wait_until_sync(lambda: len(recent(root, team)) == 2, what="the refusal is stored")
        settled_id = recent(root, team)[1]["id"]
        for query in ({}, {"team": team["id"]}):
            refused = done(root.get(f"/requests/{refused_id}", params=query))
            assert (refused["state"], refused["code"], refused["limit"]) == ("refused", "rate_limit_exceeded", "rpm")
            assert refused["message"]
            settled = done(root.get(f"/requests/{settled_id}", params=query))
            assert (settled["state"], settled["settled_by"]) == ("settled", "usage")
            assert settled["timings"]["total_ms"] >= settled["timings"]["open_ms"] > 0
            assert [tried["upstream"] for tried in settled["tried"]] == ["simulator"]
        other = new_team(root)
        assert code_of(root.get(f"/requests/{refused_id}", params={"team": other["id"]})) == "request_not_found"


def test_a_journal_is_read_from_either_end_and_by_type(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        _, text = new_key(root, team)
        send(gateway, text, times=3)
        for usd in ("1", "2"):
            done(root.post(f"/teams/{team['id']}/credits", json={"kind": "grant", "amount_usd": usd}))

        def journal(**query: str) -> list[str]:
            ids: list[str] = []
            after: str | None = None
            while True:
                params = {**query, "limit": "2", **({"after": after} if after else {})}
                page = done(root.get(f"/teams/{team['id']}/journal", params=params))
                ids += [entry["id"] for entry in page["data"]]
                after = page["next"]
                if after is None:
                    return ids

        whole = journal()
        assert len(whole) == 6
        assert journal(order="newest") == whole[::-1]
        assert journal(type="settle") == whole[1:4]
        assert journal(type="grant", order="newest") == [whole[5], whole[4], whole[0]]
        assert journal(type="expire") == []
        assert code_of(root.get(f"/teams/{team['id']}/journal", params={"type": "theft"})) == "invalid_field"
