"""`x-gateway-dry-run: true`: the decision and its reasons, without any trace of the question."""

from typing import Any

import httpx
import pytest

from gateway.store.keyspace import TeamKeys
from tests.support.gateway import NewKey, RunningGateway
from tests.support.servers import Server

ASK = {"model": "sim/echo", "input": "Hello", "max_output_tokens": 100}
DRY = {"x-gateway-dry-run": "true"}


def ask(gateway: RunningGateway, key: NewKey | str, headers: dict[str, str], **fields: Any) -> httpx.Response:
    with gateway.http(key) as client:
        return client.post("/v1/responses", json={**ASK, **fields}, headers=headers)


def everything(store: Server, key: NewKey) -> dict[bytes, Any]:
    """All that the store knows of a team."""
    keys = TeamKeys(key.team.id)
    return {
        name: store.run("DUMP", name)
        for name in store.run("KEYS", keys.team.replace("{", "\\{").removesuffix("team") + "*")
    }


def test_a_request_that_would_run_is_told_what_it_would_hold_and_what_is_left(gateway: RunningGateway) -> None:
    key = gateway.new_key(credits_usd="2", limits={"rpm": 60, "budget_usd_day": 10**9}, key_limits={"concurrency": 2})
    answer = ask(gateway, key, DRY)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-remaining-requests"] == "60"
    told = answer.json()
    assert (told["object"], told["admitted"], told["model"]) == ("dry_run", True, "sim/echo")
    assert told["request_id"] == answer.headers["x-request-id"]
    assert told["hold"] == {
        "amount_usd": f"{told['hold']['input_tokens'] / 10**6 + 0.001:.6f}".rstrip("0"),
        "input_tokens": told["hold"]["input_tokens"],
        "output_tokens": 100,
    }
    assert told["price"] == {"input_usd": "1", "cached_input_usd": "0.1", "output_usd": "10"}
    assert told["key"] == {
        "id": key.id,
        "limits": {"concurrency": {"limit": 2, "remaining": 2, "resets_at": None}},
    }
    assert told["team"]["balance"]["available_usd"] == "2"
    assert told["team"]["limits"]["rpm"] == {"limit": 60, "remaining": 60, "resets_at": None}
    assert told["team"]["limits"]["budget_usd_day"]["remaining_usd"] == "1"


def test_a_dry_run_leaves_no_trace(gateway: RunningGateway, store: Server) -> None:
    key = gateway.new_key(limits={"rpm": 1, "tpm": 1000, "concurrency": 1})
    before = everything(store, key)
    assert len(before) >= 4
    for _ in range(5):
        assert ask(gateway, key, {**DRY, "idempotency-key": "one"}).status_code == 200
    assert everything(store, key) == before
    assert ask(gateway, key, {"idempotency-key": "one"}).status_code == 200, "nor did it use the Idempotency-Key"


def test_a_dry_run_asks_no_upstream(gateway: RunningGateway) -> None:
    answer = ask(gateway, gateway.new_key(), DRY, model="sim/error-500")
    assert (answer.status_code, answer.json()["admitted"]) == (200, True)


REFUSED: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"limits": {"rpm": 0}}, {}),
    ({"limits": {"tpm": 10}}, {}),
    ({"key_limits": {"concurrency": 0}}, {}),
    ({"key_limits": {"budget_tokens_day": 1}}, {}),
    ({"key_limits": {"max_output_tokens": 5}}, {}),
    ({"key_models": ("other/*",)}, {}),
    ({"credits_usd": "0"}, {}),
    ({}, {"input": None}),
    ({}, {"max_output_tokens": -1}),
)


@pytest.mark.parametrize(("team", "fields"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_would_be_refused_gets_the_very_refusal(
    gateway: RunningGateway, team: dict[str, Any], fields: dict[str, Any], stream: bool
) -> None:
    key = gateway.new_key(**team)
    dry, real = (ask(gateway, key, headers, stream=stream, **fields) for headers in (DRY, {}))
    assert real.status_code >= 400
    assert (dry.status_code, dry.content) == (real.status_code, real.content)
    differing = {"x-request-id", "date"}
    assert {name: value for name, value in dry.headers.items() if name not in differing} == {
        name: value for name, value in real.headers.items() if name not in differing
    }


def test_a_repeat_is_told_in_a_dry_run_too(gateway: RunningGateway) -> None:
    key = gateway.new_key()
    once = {"idempotency-key": "one"}
    assert ask(gateway, key, once).status_code == 200
    gateway.wait_until_settled()
    assert ask(gateway, key, {**DRY, **once}).json()["error"]["code"] == "already_answered"


@pytest.mark.parametrize("value", ["1", "yes", ""])
def test_a_misspelt_dry_run_runs_nothing(gateway: RunningGateway, value: str) -> None:
    key = gateway.new_key()
    answer = ask(gateway, key, {"x-gateway-dry-run": value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-gateway-dry-run")
    assert gateway.balance(key).spent == 0


def test_false_is_no_dry_run(gateway: RunningGateway) -> None:
    assert ask(gateway, gateway.new_key(), {"x-gateway-dry-run": "false"}).json()["object"] == "response"


def test_a_strangers_dry_run_is_refused(gateway: RunningGateway) -> None:
    assert ask(gateway, "sk-gw-nobody", DRY).status_code == 401
