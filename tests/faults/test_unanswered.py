"""Work that was begun is not free: a request that was sent, and to which no head of an answer came.

| what happens                             | charged                                         | journalled too |
|------------------------------------------|-------------------------------------------------|----------------|
| the client leaves, drain (default)       | the usage, if it comes within `drain_timeout_s` | -              |
| the same, it does not come; or abort     | the input's estimate                            | -              |
| first-byte timeout, total timeout, reset | the input's estimate                            | -              |
| the gateway stops                        | the input's estimate                            | -              |
| the same, `charge_unanswered = "nothing"`| nothing                                         | the attempt    |
| the client leaves before it was sent     | nothing                                         | -              |
| another upstream answers after that      | what that one used                              | the attempt    |
| 504, 520, 524 in place of an answer      | nothing, or what the next one used              | the attempt    |
| 500, 503                                 | nothing, or what the next one used              | -              |

No estimate is more than the hold.
"""

import asyncio
import datetime as dt
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.billing.money import format_usd
from gateway.ledger.verification import verify
from tests.faults.conftest import Stages
from tests.faults.test_failover import two_upstreams
from tests.support.gateway import ADMIN_KEY
from tests.support.ports import free_port
from tests.support.program import run
from tests.support.scenario import (
    JSON,
    Scenario,
    completed,
    created,
    delta,
    end_of_body,
    estimate_nano_usd,
    more,
    stream,
    whole,
)
from tests.support.scripted_upstream import Step, answer, close, hang, request, reset, send, wait_for
from tests.support.waiting import wait_until

ABORT = {"on_client_leave": "abort"}
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}


def refusal(status: int) -> Step:
    return answer(b'{"error": {"message": "no"}}', status=b"%d No" % status, headers=JSON)


async def leave(scenario: Scenario, **asked: Any) -> None:
    """Asks, and leaves as soon as the upstream has the request."""
    client = await scenario.ask(**asked)
    await wait_until(lambda: bool(scenario.upstream.requests), what="the request was sent")
    client.leave()


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_a_client_that_leaves_before_the_answer_pays_what_it_used(stages: Stages, streamed: bool) -> None:
    left = asyncio.Event()
    reply = [stream(created(), delta("one"), completed()), end_of_body()] if streamed else [whole()]
    async with stages([request(), wait_for(left), *reply]) as scenario:
        await leave(scenario, stream=streamed)
        await scenario.drains()
        left.set()
        await scenario.ended(outcome="client_left", settled_by="usage", usage=(100, 7), status=0, bytes_out=0)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("upstream", [ABORT, {"drain_timeout_s": 0.2}], ids=["abort", "drain that ends"])
async def test_a_client_that_leaves_before_the_answer_pays_its_input(
    stages: Stages, upstream: dict[str, Any], streamed: bool
) -> None:
    async with stages([request(), hang()], upstream=upstream) as scenario:
        await leave(scenario, stream=streamed)
        await wait_until(lambda: scenario.upstream.gone == 1, what="the upstream is left, too")
        await scenario.ended(outcome="client_left", settled_by="estimate", output_tokens=0, state="settled")
        assert scenario.attempts() == []


async def test_a_client_that_leaves_before_the_request_was_sent_pays_nothing(stages: Stages) -> None:
    one = {"max_connections": 1, "connect_timeout_s": 20, **ABORT}
    async with stages([request(), hang()], upstream=one, limits={}) as scenario:
        await scenario.ask()
        await wait_until(lambda: len(scenario.upstream.requests) == 1)
        waiting = await scenario.ask()
        await wait_until(lambda: len(scenario.gateway.services.handler.running) == 2, what="it waits for a connection")
        waiting.leave()
        await wait_until(lambda: len(scenario.log_lines()) == 1)
        (line,) = scenario.log_lines()
        assert (line["outcome"], line["settled_by"], line["state"]) == ("client_left", "-", "voided")


TIMEOUTS: dict[str, Any] = {
    "first byte": {"upstream": {"first_byte_timeout_s": 0.3}},
    "total": {"server": {"port": 0, "total_timeout_s": 1}},
}


@pytest.mark.parametrize("name", TIMEOUTS)
async def test_a_request_that_is_not_answered_in_time_pays_its_input(stages: Stages, name: str) -> None:
    async with stages([request(), hang()], **TIMEOUTS[name]) as scenario:
        client = await scenario.ask()
        await client.read_all()
        assert client.status == 408
        outcome = "timed_out" if name == "total" else "upstream_timeout"
        await scenario.ended(outcome=outcome, settled_by="estimate", output_tokens=0)


@pytest.mark.parametrize("fault", [reset(), close(), send(b"HTTP/1.1 200")], ids=["resets", "closes", "half a head"])
async def test_a_connection_that_breaks_before_the_head_costs_the_input(stages: Stages, fault: Step) -> None:
    async with stages([request(), fault, close()]) as scenario:
        client = await scenario.ask()
        await client.read_all()
        assert client.status == 502
        await scenario.ended(outcome="upstream_unreachable", settled_by="estimate", output_tokens=0)


async def test_a_gateway_that_stops_charges_the_input_of_what_was_sent(stages: Stages) -> None:
    async with stages([request(), hang()]) as scenario:
        await scenario.ask()
        await wait_until(lambda: bool(scenario.upstream.requests))
        handler = scenario.gateway.services.handler
        scenario.gateway.loop.call_soon_threadsafe(handler.drain, 0)
        await wait_until(lambda: bool(scenario.log_lines()))
        (entry,) = scenario.journal()
        assert (entry["outcome"], entry["by"]) == ("shut_down", "estimate")
        assert int(entry["amount"]) == -estimate_nano_usd(scenario.last_body, 0)


@pytest.mark.parametrize("route", [None, "nothing"])
@pytest.mark.parametrize("everywhere", ["input", "nothing"])
async def test_an_operator_may_charge_nothing_for_it(stages: Stages, everywhere: str, route: str | None) -> None:
    """What it may have cost is journalled all the same."""
    sections: dict[str, Any] = {"assumed": {"charge_unanswered": everywhere}, "upstream": ABORT}
    if route is not None:
        sections["route"] = {"charge_unanswered": route}
    async with stages([request(), hang()], **sections) as scenario:
        await leave(scenario)
        if route is None and everywhere == "input":
            await scenario.ended(outcome="client_left", settled_by="estimate", output_tokens=0)
            return
        cost = format_usd(estimate_nano_usd(scenario.last_body, 0))
        await scenario.ended(outcome="client_left")
        (attempt,) = scenario.attempts()
        assert (attempt["upstream"], attempt["reason"]) == ("simulator", "client_left")
        assert (attempt["settled_by"], attempt["estimate_usd"]) == ("attempt", cost)


async def test_a_route_may_charge_what_the_others_do_not(stages: Stages) -> None:
    sections: dict[str, Any] = {"assumed": {"charge_unanswered": "nothing"}, "upstream": ABORT}
    async with stages([request(), hang()], route={"charge_unanswered": "input"}, **sections) as scenario:
        await leave(scenario)
        await scenario.ended(outcome="client_left", settled_by="estimate", output_tokens=0)


async def test_an_estimate_of_the_input_is_at_most_the_hold(stages: Stages) -> None:
    async with stages([request(), hang()], upstream=ABORT) as scenario:
        await leave(scenario, input="x" * 2000, max_output_tokens=1)
        await scenario.settled()
        (entry,) = scenario.journal()
        assert 0 < -int(entry["amount"]) <= int(entry["hold"])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(reset(), "reset"), (hang(), "first_byte_timeout"), (refusal(504), "504"), (refusal(524), "524")],
    ids=["resets", "stalls", "504", "524"],
)
async def test_an_attempt_that_may_have_begun_is_journalled_beside_the_answer(
    stages: Stages, fault: Step, reason: str
) -> None:
    route, short = {"repeat_started": True}, {"first_byte_timeout_s": 0.5}
    async with two_upstreams(stages, [request(), fault], route=route, upstream=short) as (scenario, second):
        client = await scenario.ask()
        await client.read_all()
        assert (client.status, len(second.requests)) == (200, 1)
        cost = format_usd(estimate_nano_usd(scenario.last_body, 0))
        await scenario.settled()
        (entry,) = scenario.journal()
        assert (entry["by"], entry["upstream"], int(entry["amount"])) == ("usage", "second", -(100_000 + 70_000))
        (attempt,) = scenario.attempts()
        assert (attempt["upstream"], attempt["reason"], attempt["estimate_usd"]) == ("simulator", reason, cost)
        store = scenario.gateway.services.store
        checked = await asyncio.to_thread(scenario.gateway.run, verify(store, scenario.key.team.id))
        assert checked.differences == ()


@pytest.mark.parametrize("status", [500, 502, 503, 429, 401])
async def test_a_refusal_is_no_attempt_that_may_have_begun(stages: Stages, status: int) -> None:
    async with two_upstreams(stages, [request(), refusal(status)]) as (scenario, _):
        await (await scenario.ask()).read_all()
        await scenario.settled()
        assert scenario.attempts() == []


@pytest.mark.parametrize("status", [504, 520, 524])
async def test_a_timeout_that_somebody_in_front_of_the_provider_tells_of_is_journalled(
    stages: Stages, status: int
) -> None:
    async with stages([request(), refusal(status)]) as scenario:
        client = await scenario.ask()
        await client.read_all()
        assert client.status == status
        await scenario.ended(outcome="upstream_refused", status=status)
        assert [attempt["reason"] for attempt in scenario.attempts()] == [str(status)]


async def test_of_several_attempts_that_may_have_begun_one_is_charged(stages: Stages) -> None:
    route = {"repeat_started": True}
    async with two_upstreams(stages, [request(), reset()], [request(), reset()], route=route) as (scenario, _):
        client = await scenario.ask()
        await client.read_all()
        assert client.status == 503
        await scenario.ended(outcome="upstream_unreachable", settled_by="estimate", output_tokens=0)
        assert [attempt["upstream"] for attempt in scenario.attempts()] == ["simulator"]
        assert scenario.journal()[0]["upstream"] == "second"


async def test_the_one_that_may_have_begun_is_charged_though_the_last_could_not_be_reached(stages: Stages) -> None:
    nobody = {"second": {"base_url": f"http://127.0.0.1:{free_port()}/v1", "api_keys": ["env:TEST_UPSTREAM_KEY"]}}
    route = {"upstreams": ["simulator", "second"], "repeat_started": True}
    async with stages([request(), reset()], upstreams=nobody, route=route) as scenario:
        await (await scenario.ask()).read_all()
        await scenario.settled()
        (entry,) = scenario.journal()
        assert (entry["by"], entry["upstream"]) == ("estimate", "simulator")
        assert int(entry["amount"]) == -estimate_nano_usd(scenario.last_body, 0)
        assert scenario.attempts() == []


async def test_a_refusal_after_an_attempt_that_may_have_begun_is_free_and_the_attempt_is_journalled(
    stages: Stages,
) -> None:
    route = {"repeat_started": True}
    async with two_upstreams(stages, [request(), reset()], [request(), refusal(400)], route=route) as (scenario, _):
        client = await scenario.ask()
        await client.read_all()
        assert client.status == 400
        await scenario.ended(outcome="upstream_refused")
        assert [attempt["upstream"] for attempt in scenario.attempts()] == ["simulator"]


async def test_nobody_else_is_asked_for_a_client_that_has_left(stages: Stages) -> None:
    left = asyncio.Event()
    async with two_upstreams(stages, [request(), wait_for(left), refusal(503)]) as (scenario, second):
        await leave(scenario)
        await scenario.drains()
        left.set()
        await scenario.ended(outcome="client_left")
        assert second.requests == []


async def test_an_attempt_is_found_in_the_journal_of_the_admin_api(stages: Stages) -> None:
    async with stages([request(), refusal(504)]) as scenario:
        await (await scenario.ask()).read_all()
        await scenario.settled()
        async with httpx.AsyncClient(base_url=scenario.gateway.url, headers=ADMIN) as http:
            page = await http.get(f"/admin/v1/teams/{scenario.key.team.id}/journal", params={"type": "attempt"})
        (entry,) = page.json()["data"]
        assert (entry["settled_by"], entry["amount_usd"], entry["attempt"]["reason"]) == ("attempt", "0", "504")
        assert entry["request_id"] == scenario.log_lines()[0]["request_id"]


async def test_a_reconciliation_counts_what_was_not_charged_too(stages: Stages, tmp_path: Path) -> None:
    today = dt.datetime.now(dt.UTC).date()
    period = ("--from", str(today - dt.timedelta(days=1)), "--to", str(today + dt.timedelta(days=2)))
    bill = tmp_path / "bill.csv"
    bill.write_text("id,time,model,cost\n")
    async with stages([request(), refusal(504)]) as scenario:
        await (await scenario.ask()).read_all()
        await scenario.settled()
        expected = 0
        async with httpx.AsyncClient(base_url=f"{scenario.gateway.url}/admin/v1", headers=ADMIN) as http:
            for team in (await http.get("/teams", params={"limit": "1000"})).json()["data"]:
                found = await http.get(f"/teams/{team['id']}/journal", params={"type": "attempt", "limit": "1000"})
                expected += sum(one["attempt"]["upstream"] == "simulator" for one in found.json()["data"])
        words = ("reconcile", "--upstream", "simulator", *period, "--json", "--tolerance", "0", str(bill))
        env = {"GATEWAY_URL": scenario.gateway.url, "GATEWAY_ADMIN_KEY": ADMIN_KEY}
        told = await asyncio.to_thread(run, *words, cwd=tmp_path, env=env)
    assert (told.code, told.err) == (1, "")
    report = json.loads(told.out)
    assert report["journal"]["attempts"] == expected > 0
    kinds = {(one["kind"], one["model"]) for one in report["findings"] if one["journal"]["attempts"]}
    assert ("missing in the export", "test/model") in kinds
    assert (report["unit"], report["difference_usd"][0]) == ("usd", "-")


@pytest.mark.parametrize("idle", [True, False], ids=["a reused connection", "a new connection"])
async def test_a_client_that_leaves_while_a_stream_opens_on_any_connection(stages: Stages, idle: bool) -> None:
    left = asyncio.Event()
    script: list[Step] = [request(), whole()] if idle else []
    script += [request(), wait_for(left), stream(created(), delta("one")), more(completed()), end_of_body()]
    async with stages(script, limits={}) as scenario:
        if idle:
            await (await scenario.ask()).read_all()
        before = len(scenario.upstream.requests)
        client = await scenario.ask(stream=True)
        await wait_until(lambda: len(scenario.upstream.requests) > before)
        client.leave()
        await scenario.drains()
        left.set()
        await wait_until(lambda: len(scenario.log_lines()) > before)
        line = scenario.log_lines()[-1]
        assert (line["outcome"], line["settled_by"], line["output_tokens"]) == ("client_left", "usage", 7)
