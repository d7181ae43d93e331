"""What each limit answers, for key and team: exactly at the limit, in a form that a program can act on.

A limit refuses the first request beyond it and none before. `Retry-After` and `retry-after-ms` are present where
waiting helps, and waiting exactly that long succeeds. `x-should-retry: false` is present where it does not help.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from gateway.billing.money import parse_usd
from gateway.store.keyspace import TeamKeys
from tests.support.counters import set_counters
from tests.support.gateway import NewKey, RunningGateway, StartGateway
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

SCOPES = pytest.mark.parametrize("scope", ["key", "team"])
ASK = {"model": "sim/tokens-10", "input": "Hello", "max_output_tokens": 100}
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def limited(gateway: RunningGateway, scope: str, limits: dict[str, int], **options: Any) -> NewKey:
    if scope == "key":
        return gateway.new_key(key_limits=limits, **options)
    return gateway.new_key(limits=limits, **options)


def ask(gateway: RunningGateway, key: NewKey, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    with gateway.http(key) as client:
        return client.post("/v1/responses", json={**ASK, **fields}, headers=headers)


def counted(gateway: RunningGateway, key: NewKey, name: str, scope: str = "team") -> int:
    """A counter as it stands now."""

    async def look() -> int:
        view = await gateway.services.accounts.view(key.team, key.id)
        return (view.key if scope == "key" else view.team)[f"used_{name}"]

    return gateway.run(look())


def settled(gateway: RunningGateway, key: NewKey) -> None:
    wait_until_sync(lambda: counted(gateway, key, "open") == 0, what="the request is settled")


def refused(answer: httpx.Response, status: int, code: str, limit: str, scope: str) -> dict[str, Any]:
    """Returns the error's body, after checking what every refusal by a limit says."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert (error["code"], error["limit"], error["scope"], error["limit_source"]) == (code, limit, scope, "gateway")
    return error


def waiting_helps(answer: httpx.Response) -> int:
    """Returns the ms to wait according to the headers, which must agree with the body."""
    wait_ms = int(answer.headers["retry-after-ms"])
    assert wait_ms > 0
    assert int(answer.headers["retry-after"]) == -(-wait_ms // 1000) == answer.json()["error"]["retry_after"]
    assert "x-should-retry" not in answer.headers
    return wait_ms


def waiting_does_not_help(answer: httpx.Response) -> None:
    assert answer.headers["x-should-retry"] == "false"
    assert not {"retry-after", "retry-after-ms"} & set(answer.headers)
    assert not {"resets_at", "retry_after"} & set(answer.json()["error"])


# rates


@SCOPES
@pytest.mark.parametrize(
    ("limit", "bucket", "most", "cost", "max_wait_ms"),
    [("rpm", "rq", 60, 1, 1000), ("tpm", "tk", 6_000, 110, 1200)],  # one per second; one per 10 ms
)
def test_a_full_rate_refuses_and_exactly_the_wait_that_it_names_lets_the_next_through(
    gateway: RunningGateway, store: Server, scope: str, limit: str, bucket: str, most: int, cost: int, max_wait_ms: int
) -> None:
    key = limited(gateway, scope, {limit: most})
    assert ask(gateway, key).status_code == 200
    settled(gateway, key)
    set_counters(store, key.team.id, key.id, scope, **{bucket: most * 60_000})
    over = ask(gateway, key, max_output_tokens=100)
    error = refused(over, 429, "rate_limit_exceeded", limit, scope)
    assert (error["type"], error["limit_value"]) == ("too_many_requests", most)
    wait_ms = waiting_helps(over)
    assert wait_ms <= max_wait_ms
    unit = "requests" if limit == "rpm" else "tokens"
    assert over.headers[f"x-ratelimit-limit-{unit}"] == str(most)
    assert int(over.headers[f"x-ratelimit-remaining-{unit}"]) < cost
    time.sleep(wait_ms / 1000)  # exactly that long: only this can show that the stated time is true
    assert ask(gateway, key).status_code == 200


@SCOPES
def test_requests_left_are_counted_down_on_every_answer(gateway: RunningGateway, scope: str) -> None:
    key = limited(gateway, scope, {"rpm": 3})
    answers = [ask(gateway, key) for _ in range(4)]
    left = [(answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) for answer in answers]
    assert left == [(200, "2"), (200, "1"), (200, "0"), (429, "0")]
    assert all(answer.headers["x-ratelimit-reset-requests"].endswith("s") for answer in answers)


@SCOPES
def test_tokens_per_minute_hold_the_estimate_and_keep_what_was_used(gateway: RunningGateway, scope: str) -> None:
    key = limited(gateway, scope, {"tpm": 240, "rpm": 10})
    first = ask(gateway, key, model="sim/tokens-100", max_output_tokens=200)
    assert first.status_code == 200
    settled(gateway, key)
    usage = first.json()["usage"]
    level = counted(gateway, key, "tk", scope) / 60_000
    assert 0 < level <= usage["input_tokens"] + usage["output_tokens"], "what was used, in place of the reservation"
    hold = ask(gateway, gateway.new_key(), {"x-gateway-dry-run": "true"}).json()["hold"]
    over = ask(gateway, key, max_output_tokens=239 - hold["input_tokens"])
    error = refused(over, 429, "rate_limit_exceeded", "tpm", scope)
    assert error["limit_value"] == 240
    waiting_helps(over)
    assert over.headers["x-ratelimit-limit-tokens"] == "240"
    # Requests and tokens are counted separately: the refused one used no request.
    assert over.headers["x-ratelimit-remaining-requests"] == "9"
    assert ask(gateway, key, max_output_tokens=10).headers["x-ratelimit-remaining-requests"] == "8"


@SCOPES
def test_a_request_over_the_whole_token_limit_is_told_that_waiting_does_not_help(
    gateway: RunningGateway, scope: str
) -> None:
    key = limited(gateway, scope, {"tpm": 50})
    over = ask(gateway, key)
    error = refused(over, 429, "rate_limit_exceeded", "tpm", scope)
    assert "max_output_tokens" in error["message"]
    waiting_does_not_help(over)


@SCOPES
@pytest.mark.parametrize("limit", ["rpm", "tpm", "concurrency", "budget_usd_day", "budget_tokens_total"])
def test_a_limit_of_zero_refuses_every_request(gateway: RunningGateway, scope: str, limit: str) -> None:
    key = limited(gateway, scope, {limit: 0})
    over = ask(gateway, key)
    assert over.json()["error"]["limit"] == limit
    waiting_does_not_help(over)


# concurrency


@SCOPES
async def test_concurrent_requests_are_refused_at_the_limit_and_admitted_when_one_has_ended(
    start: StartGateway, scope: str
) -> None:
    started = start(upstream={"on_client_leave": "abort"})
    gateway = await asyncio.to_thread(started.__enter__)
    try:
        await concurrent_requests_are_refused(gateway, scope)
    finally:
        await asyncio.to_thread(started.__exit__, None, None, None)


async def concurrent_requests_are_refused(gateway: RunningGateway, scope: str) -> None:
    key = limited(gateway, scope, {"concurrency": 2})
    async with gateway.async_sdk(key) as sdk:
        streams = [
            await sdk.responses.create(model="sim/slow-20", input="Hello", max_output_tokens=1000, stream=True)
            for _ in range(2)
        ]
        over = await asyncio.to_thread(ask, gateway, key)
        error = refused(over, 429, "concurrency_exceeded", "concurrency", scope)
        assert error["limit_value"] == 2
        assert waiting_helps(over) == 1000
        assert "resets_at" not in error, "nobody knows when a slot is free"
        await streams[0].close()
        await asyncio.to_thread(wait_until_sync, lambda: counted(gateway, key, "open") == 1, what="a slot is free")
        assert (await asyncio.to_thread(ask, gateway, key)).status_code == 200
        await streams[1].close()


# budgets


@SCOPES
@pytest.mark.parametrize("period", ["hour", "day", "month", "total"])
@pytest.mark.parametrize("unit", ["usd", "tokens"])
def test_a_budget_admits_up_to_its_last_unit_and_refuses_the_next(
    gateway: RunningGateway, store: Server, scope: str, period: str, unit: str
) -> None:
    probe = ask(gateway, gateway.new_key(), {"x-gateway-dry-run": "true"}).json()["hold"]
    tokens = probe["input_tokens"] + probe["output_tokens"]
    need = tokens if unit == "tokens" else parse_usd(probe["amount_usd"])
    limit = f"budget_{unit}_{period}"
    exact = limited(gateway, scope, {limit: need})
    assert ask(gateway, exact).status_code == 200
    short = limited(gateway, scope, {limit: need - 1})
    over = ask(gateway, short)
    error = refused(over, 402, "insufficient_quota", limit, scope)
    assert error["type"] == "insufficient_credits"
    waiting_does_not_help(over)  # not even an empty period has room for it
    assert error["affordable_output_tokens"] == 99
    assert ask(gateway, short, max_output_tokens=99).status_code == 200
    settled(gateway, exact)
    again = ask(gateway, exact)  # some of it is spent now
    error = refused(again, 402, "insufficient_quota", limit, scope)
    assert 0 < error["affordable_output_tokens"] < 100
    assert ask(gateway, exact, max_output_tokens=error["affordable_output_tokens"]).status_code == 200
    if period == "total":
        waiting_does_not_help(again)
    else:
        ends = datetime.fromisoformat(error["resets_at"])
        assert (ends.minute, ends.second, ends.microsecond) == (0, 0, 0)
        assert period == "hour" or ends.hour == 0
        assert period != "month" or ends.day == 1
        left_ms = (ends - datetime.now(UTC)).total_seconds() * 1000
        assert left_ms <= waiting_helps(again) <= left_ms + 10_000


@SCOPES
@pytest.mark.parametrize(("period", "length_ms"), [("hour", HOUR_MS), ("day", DAY_MS)])
def test_a_budget_is_whole_again_when_its_period_is_over(
    gateway: RunningGateway, store: Server, scope: str, period: str, length_ms: int
) -> None:
    key = limited(gateway, scope, {f"budget_tokens_{period}": 500})
    now = int(time.time() * 1000) // length_ms
    for index, status in ((now, 402), (now - 1, 200)):
        set_counters(store, key.team.id, key.id, scope, **{period: index, f"{period}_tokens": 500})
        assert ask(gateway, key).status_code == status


# permitted requests


@SCOPES
def test_models_outside_the_allowed_ones_are_refused(gateway: RunningGateway, scope: str) -> None:
    names = {"key_models" if scope == "key" else "models": ("sim/tokens-10", "other/*")}
    key = limited(gateway, scope, {"rpm": 9}, **names)
    assert ask(gateway, key).status_code == 200
    over = ask(gateway, key, model="sim/echo")
    error = refused(over, 403, "model_not_allowed", "models", scope)
    assert (error["type"], error["param"]) == ("permission_denied", "model")
    waiting_does_not_help(over)
    assert over.headers["x-ratelimit-remaining-requests"] == "8", "also on this refusal, which took no request"


@SCOPES
def test_more_output_than_allowed_is_refused_and_a_default_hold_is_lowered(
    gateway: RunningGateway, store: Server, scope: str
) -> None:
    key = limited(gateway, scope, {"max_output_tokens": 50})
    assert ask(gateway, key, max_output_tokens=50).status_code == 200
    over = ask(gateway, key, max_output_tokens=51)
    error = refused(over, 400, "invalid_field", "max_output_tokens", scope)
    assert (error["param"], error["limit_value"]) == ("max_output_tokens", 50)
    waiting_does_not_help(over)
    asked = ask(gateway, key, {"x-gateway-dry-run": "true"}, max_output_tokens=50).json()["hold"]
    unsaid = ask(gateway, key, {"x-gateway-dry-run": "true"}, max_output_tokens=None).json()["hold"]
    assert unsaid["output_tokens"] == 50
    free = ask(gateway, gateway.new_key(), {"x-gateway-dry-run": "true"}, max_output_tokens=None).json()["hold"]
    assert free["output_tokens"] == 4096
    for hold in (asked, unsaid):
        nano_usd = hold["input_tokens"] * 1_000 + 50 * 10_000
        assert nano_usd <= parse_usd(hold["amount_usd"]) <= nano_usd + 1
    assert ask(gateway, key, max_output_tokens=None).status_code == 200
    settled(gateway, key)
    assert gateway.balance(key).held == 0


# credits


def test_credits_that_do_not_cover_the_worst_case_are_told_with_what_would(gateway: RunningGateway) -> None:
    key = gateway.new_key(credits_usd="0.0005")
    over = ask(gateway, key)
    error = refused(over, 402, "insufficient_quota", "credits", "team")
    waiting_does_not_help(over)
    affordable = error["affordable_output_tokens"]
    assert 0 < affordable < 100
    assert error["available_usd"] == "0.0005"
    assert ask(gateway, key, max_output_tokens=affordable + 1).status_code == 402
    assert ask(gateway, key, max_output_tokens=affordable).status_code == 200


@pytest.mark.parametrize("said", [{}, {"max_output_tokens": 1000}], ids=["nothing said", "1000 said"])
@pytest.mark.parametrize(
    ("team", "key"),
    [
        ({}, {}),
        ({"budget_tokens_day": 80}, {}),
        ({"budget_tokens_month": 90}, {"budget_usd_total": 400_000}),
        ({"budget_usd_hour": 300_000}, {"budget_tokens_total": 60}),
    ],
)
def test_the_same_request_with_what_is_said_to_be_affordable_passes_all_credits_and_budgets(
    gateway: RunningGateway, team: dict[str, int], key: dict[str, int], said: dict[str, int]
) -> None:
    """Also for a request that stated no output before, and whose body grows by stating it."""
    caller = gateway.new_key(credits_usd="0.0005", limits=team, key_limits=key)
    body = {"model": "sim/tokens-10", "input": "Hello", **said}
    with gateway.http(caller) as client:
        over = client.post("/v1/responses", json=body)
        assert over.status_code == 402
        affordable = over.json()["error"]["affordable_output_tokens"]
        assert affordable > 0
        again = client.post("/v1/responses", json={**body, "max_output_tokens": affordable})
    assert again.status_code == 200, again.text


# several at once


def test_of_several_limits_the_one_that_lasts_longest_refuses(gateway: RunningGateway) -> None:
    key = gateway.new_key(limits={"rpm": 1}, key_limits={"rpm": 2})
    assert ask(gateway, key).status_code == 200
    refused(ask(gateway, key), 429, "rate_limit_exceeded", "rpm", "team")
    poor = gateway.new_key(credits_usd="0", key_limits={"rpm": 0})
    refused(ask(gateway, poor), 429, "rate_limit_exceeded", "rpm", "key")
    poor = gateway.new_key(credits_usd="0.000001", limits={"concurrency": 1}, key_limits={"rpm": 1})
    refused(ask(gateway, poor), 402, "insufficient_quota", "credits", "team")


def test_what_is_left_is_on_upstream_errors_and_the_gateways_own(gateway: RunningGateway) -> None:
    key = gateway.new_key(limits={"rpm": 10}, key_limits={"tpm": 1_000_000})
    for model, status in (("sim/error-500", 500), ("sim/error-400", 400), ("sim/html", 502)):
        answer = ask(gateway, key, model=model)
        assert answer.status_code == status
        assert {"x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"} <= set(answer.headers), model


def test_what_key_and_admin_are_shown_is_what_is_enforced(gateway: RunningGateway, store: Server) -> None:
    limits = {"rpm": 5, "tpm": 100_000, "concurrency": 7, "budget_usd_day": 10**9, "budget_tokens_month": 10_000}
    key = gateway.new_key(limits=limits, key_limits=limits)
    assert ask(gateway, key).status_code == 200
    settled(gateway, key)
    with gateway.http(key) as client:
        shown = client.get("/v1/key").json()
    usage_tokens = counted(gateway, key, "total_tokens")
    for own in (shown["limits"], shown["team"]["limits"]):
        assert own["rpm"]["remaining"] == 4
        assert own["concurrency"]["remaining"] == 7
        assert own["budget_tokens_month"]["remaining"] == 10_000 - usage_tokens
        assert own["budget_usd_day"]["used_usd"] == shown["team"]["balance"]["spent_usd"]
    need = 10_000 - usage_tokens
    hold = ask(gateway, key, {"x-gateway-dry-run": "true"}).json()["hold"]
    most = need - hold["input_tokens"]
    assert ask(gateway, key, {"x-gateway-dry-run": "true"}, max_output_tokens=most - 2).status_code == 200
    assert ask(gateway, key, {"x-gateway-dry-run": "true"}, max_output_tokens=most + 2).status_code == 402


# a client's Idempotency-Key


async def test_a_repeat_while_the_first_runs_or_after_it_was_charged_runs_nothing(
    gateway: RunningGateway, store: Server
) -> None:
    key = gateway.new_key(limits={"rpm": 100})
    once = {"idempotency-key": "one"}
    async with httpx.AsyncClient(
        base_url=gateway.url, headers={"authorization": f"Bearer {key.text}"}, timeout=20
    ) as client:
        answers = await asyncio.gather(
            *(client.post("/v1/responses", json={**ASK, "model": "sim/slow-5"}, headers=once) for _ in range(6))
        )
        assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
        first = next(answer for answer in answers if answer.status_code == 200)
        for answer in answers:
            if answer is not first:
                error = answer.json()["error"]
                assert error["code"] in ("request_in_progress", "already_answered")
                assert error["request_id"] == first.headers["x-request-id"]
                assert ("retry-after" in answer.headers) == (error["code"] == "request_in_progress")
                assert "x-ratelimit-remaining-requests" in answer.headers
        await asyncio.to_thread(gateway.wait_until_settled)
        later = await client.post("/v1/responses", json=ASK, headers=once)
    assert (later.status_code, later.json()["error"]["code"]) == (409, "already_answered")
    assert later.headers["x-should-retry"] == "false"
    journal = store.run("XRANGE", TeamKeys(key.team.id).journal, "-", "+")
    assert len(journal) == 2, "the grant, and one settlement"
    other = gateway.new_key()
    assert ask(gateway, other, once).status_code == 200, "each API key has its own"


def test_a_request_that_was_not_charged_may_run_again(gateway: RunningGateway) -> None:
    key = gateway.new_key()
    once = {"idempotency-key": "again"}
    assert ask(gateway, key, once, model="sim/error-500").status_code == 500
    gateway.wait_until_settled()
    assert ask(gateway, key, once).status_code == 200
    assert ask(gateway, key, once).status_code == 409


@pytest.mark.parametrize("value", ["", "x" * 256])
def test_an_idempotency_key_is_bounded(gateway: RunningGateway, value: str) -> None:
    answer = ask(gateway, gateway.new_key(), {"idempotency-key": value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")
