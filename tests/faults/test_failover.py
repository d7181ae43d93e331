"""Before the first byte another candidate may be asked, but never twice for work that may have been done already.

The upstreams are "simulator" and "second", in this order. Each test scripts both.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Stages
from tests.support.gateway import ADMIN_KEY
from tests.support.ports import free_port
from tests.support.scenario import GOOD, JSON, RawClient, Scenario, whole
from tests.support.scripted_upstream import Step, Upstream, answer, close, hang, request, reset, send, serve
from tests.support.waiting import wait_until

LIMITED = answer(b'{"error": {"message": "slow down"}}', status=b"429 Too Many Requests", headers=JSON)
BROKEN = answer(b'{"error": {"message": "broken"}}', status=b"503 Service Unavailable", headers=JSON)
UNAUTHORIZED = answer(b'{"error": {"message": "bad key"}}', status=b"401 Unauthorized", headers=JSON)
UNPAID = answer(b'{"error": {"message": "no credits"}}', status=b"402 Payment Required", headers=JSON)


@contextlib.asynccontextmanager
async def two_upstreams(
    stages: Stages,
    first: Sequence[Step],
    second: Sequence[Step] = (),
    *,
    route: dict[str, Any] | None = None,
    **sections: Any,
) -> AsyncIterator[tuple[Scenario, Upstream]]:
    async with serve((*second, *GOOD), GOOD) as other:
        upstreams = {"second": {"base_url": f"{other.url}/v1", "api_keys": ["env:TEST_UPSTREAM_KEY"]}}
        routed = {"upstreams": ["simulator", "second"], **(route or {})}
        async with stages(first, upstreams=upstreams, route=routed, **sections) as scenario:
            yield scenario, other


async def ask(scenario: Scenario, **options: Any) -> RawClient:
    """Sends a request. Returns the answer after it was logged."""
    before = len(scenario.log_lines())
    client = await scenario.ask(**options)
    await client.read_all()
    await wait_until(lambda: len(scenario.log_lines()) > before)
    return client


def tried(scenario: Scenario) -> str:
    """Which keys of which upstreams were asked in the last request."""
    return ", ".join(scenario.log_lines()[-1]["tried"])


async def asked(scenario: Scenario) -> str:
    """Asks; gives what was tried for it."""
    await ask(scenario)
    return tried(scenario)


def error_code(client: RawClient) -> str:
    code: str = json.loads(client.body)["error"]["code"]
    return code


@pytest.mark.parametrize("refusal", [LIMITED, BROKEN, UNAUTHORIZED, UNPAID], ids=["429", "503", "401", "402"])
async def test_the_next_upstream_answers_where_one_refuses(stages: Stages, refusal: Step) -> None:
    async with two_upstreams(stages, [request(), refusal]) as (scenario, second):
        client = await ask(scenario)
        assert client.status == 200
        assert tried(scenario) == "simulator#0, second#0"
        assert len(second.requests) == 1
        line = scenario.log_lines()[0]
        assert (line["upstream"], line["tried"]) == ("second", ["simulator#0", "second#0"])


async def test_the_next_upstream_answers_where_one_cannot_be_reached(stages: Stages) -> None:
    nobody = {"base_url": f"http://127.0.0.1:{free_port()}/v1"}
    async with two_upstreams(stages, [], upstream=nobody) as (scenario, _):
        assert await asked(scenario) == "simulator#0, second#0"


@pytest.mark.parametrize("fault", [reset(), close(), hang()], ids=["resets", "closes", "stalls"])
@pytest.mark.parametrize("repeats", [False, True])
async def test_what_may_have_begun_is_repeated_only_where_the_route_says_so(
    stages: Stages, fault: Step, repeats: bool
) -> None:
    route, short = {"repeat_started": repeats}, {"first_byte_timeout_s": 0.5}
    async with two_upstreams(stages, [request(), fault], route=route, upstream=short) as (scenario, second):
        client = await ask(scenario)
        assert len(second.requests) == int(repeats)
        assert (client.status == 200) is repeats


async def test_any_other_refusal_is_the_answer(stages: Stages) -> None:
    refusal = answer(b'{"error": {"message": "no"}}', status=b"400 Bad Request", headers=JSON)
    async with two_upstreams(stages, [request(), refusal]) as (scenario, second):
        assert (await ask(scenario)).status == 400
        assert second.requests == []


async def test_the_last_refusal_is_the_answer_where_all_refuse(stages: Stages) -> None:
    async with two_upstreams(stages, [request(), BROKEN], [request(), LIMITED]) as (scenario, _):
        client = await ask(scenario)
        assert client.status == 429
        assert client.header("x-gateway-limit-source") == "upstream"
        assert scenario.log_lines()[0]["settled_by"] == "-"


async def test_all_down_is_503(stages: Stages) -> None:
    nobody = {"base_url": f"http://127.0.0.1:{free_port()}/v1", "api_keys": ["env:TEST_UPSTREAM_KEY"]}
    upstreams = {"simulator": nobody, "second": nobody}
    async with stages(upstreams=upstreams, route={"upstreams": ["simulator", "second"]}) as scenario:
        client = await ask(scenario)
        assert (client.status, error_code(client)) == (503, "no_available_provider")
        assert client.header("retry-after") is not None
        assert tried(scenario) == "simulator#0, second#0"


@pytest.mark.parametrize("key", [ADMIN_KEY, "a guess"])
async def test_no_answer_tells_a_right_guess_of_the_root_key_from_a_wrong_one(stages: Stages, key: str) -> None:
    async with stages() as scenario:
        client = await scenario.ask(headers=f"x-gateway-admin-key: {key}\r\n")
        await client.read_all()
        assert client.status == 200
        assert client.header("x-gateway-tried") is None


async def test_a_breaker_opens_and_lets_one_probe_through(stages: Stages) -> None:
    breaker = {"breaker_failures": 2, "breaker_open_s": 1}
    steps = [step for refusal in (BROKEN, BROKEN, whole()) for step in (request(), refusal)]
    async with two_upstreams(stages, steps, upstream=breaker) as (scenario, _):
        for _ in range(2):
            assert await asked(scenario) == "simulator#0, second#0"
        assert await asked(scenario) == "second#0"
        asked_so_far: list[str] = []
        while "simulator#0" not in asked_so_far:  # bounded by the test's own timeout
            asked_so_far.append(await asked(scenario))
        assert set(asked_so_far[:-1]) <= {"second#0"}
        assert await asked(scenario) == "simulator#0"


async def test_a_refused_key_rests_and_another_is_used(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_SECOND_KEY", "another-key")
    keys = {"api_keys": ["env:TEST_UPSTREAM_KEY", "env:TEST_SECOND_KEY"]}
    async with stages([request(), UNAUTHORIZED], upstream=keys) as scenario:
        assert await asked(scenario) == "simulator#0, simulator#1"
        assert b"Bearer another-key" in scenario.upstream.requests[1]
        for _ in range(3):
            assert await asked(scenario) == "simulator#1"


@pytest.mark.parametrize("refusal", [LIMITED, UNAUTHORIZED, UNPAID], ids=["429", "401", "402"])
async def test_where_all_keys_rest_the_provider_is_asked_all_the_same(stages: Stages, refusal: Step) -> None:
    """A limit often concerns one model, and an account may have been paid since: the new answer is passed on."""
    async with stages([request(), refusal, request(), refusal]) as scenario:
        first, second, third = [await ask(scenario) for _ in range(3)]
        assert first.status in (429, 502)
        assert (second.status, second.body) == (first.status, first.body)
        assert third.status == 200


async def test_of_resting_keys_the_one_that_rests_shortest_is_asked(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SECOND_KEY", "another-key")
    keys = {"api_keys": ["env:TEST_UPSTREAM_KEY", "env:TEST_SECOND_KEY"]}
    refusals = [
        answer(b"{}", status=b"429 Too Many Requests", headers=JSON + b"retry-after: %d\r\n" % seconds)
        for seconds in (40, 20)
    ]
    async with stages([request(), refusals[0], request(), refusals[1]], upstream=keys) as scenario:
        assert await asked(scenario) == "simulator#0, simulator#1"
        assert await asked(scenario) == "simulator#1"


async def test_an_upstream_key_is_rotated_by_changing_its_file(stages: Stages, tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("old-key\n")
    async with stages(
        [request(), UNAUTHORIZED, request(), whole(), request(), UNAUTHORIZED],
        upstream={"api_keys": [f"file:{secret}"]},
    ) as scenario:
        first = await ask(scenario)
        assert (first.status, error_code(first)) == (502, "upstream_rejected_gateway")
        secret.write_text("new-key\n")
        statuses = []
        while 200 not in statuses:  # a resting key's file is looked at once per second
            statuses.append((await ask(scenario)).status)
        assert b"Bearer new-key" in scenario.upstream.requests[-1]


async def test_the_search_ends_with_its_time(stages: Stages) -> None:
    short = {"first_byte_timeout_s": 0.5}
    server = {"port": 0, "failover_s": 0.1}
    route = {"repeat_started": True}
    async with two_upstreams(stages, [request(), hang()], route=route, upstream=short, server=server) as (
        scenario,
        second,
    ):
        assert (await ask(scenario)).status == 408
        assert second.requests == []


async def test_an_upstreams_answer_that_is_no_http_is_not_repeated(stages: Stages) -> None:
    async with two_upstreams(stages, [request(), send(b"nonsense\r\n\r\n")]) as (scenario, second):
        client = await ask(scenario)
        assert (client.status, error_code(client)) == (502, "upstream_invalid_response")
        assert second.requests == []


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 520, 529])
async def test_every_status_of_a_broken_server_leads_to_the_next(stages: Stages, status: int) -> None:
    broken = answer(b'{"error": {"message": "no"}}', status=b"%d Broken" % status, headers=JSON)
    async with two_upstreams(stages, [request(), broken]) as (scenario, _):
        assert await asked(scenario) == "simulator#0, second#0"


@pytest.mark.parametrize(
    ("told", "rests"),
    [
        (b"", True),
        (b"retry-after: 30\r\n", True),
        (b"retry-after: 1.5\r\nretry-after-ms: 0\r\n", False),
        (b"retry-after: 0\r\n", False),
        (b"retry-after: Fri, 31 Dec 2094 23:59:59 GMT\r\n", True),
        (b"retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n", False),
        (b"retry-after: soon\r\n", True),
    ],
)
async def test_a_limited_key_rests_as_long_as_its_provider_says(
    stages: Stages, monkeypatch: pytest.MonkeyPatch, told: bytes, rests: bool
) -> None:
    monkeypatch.setenv("TEST_SECOND_KEY", "another-key")
    keys = {"api_keys": ["env:TEST_UPSTREAM_KEY", "env:TEST_SECOND_KEY"]}
    refusal = answer(b"{}", status=b"429 Too Many Requests", headers=JSON + told)
    async with stages([request(), refusal], upstream=keys) as scenario:
        assert await asked(scenario) == "simulator#0, simulator#1"
        assert await asked(scenario) == "simulator#1"  # whose turn it is
        assert await asked(scenario) == ("simulator#1" if rests else "simulator#0")


async def test_all_connections_in_use_is_503_and_no_failure_of_the_upstream(stages: Stages) -> None:
    one = {"max_connections": 1, "connect_timeout_s": 0.5, "breaker_failures": 1, "on_client_leave": "abort"}
    async with stages([request(), hang()], upstream=one, limits={}) as scenario:
        busy = await scenario.ask()
        await wait_until(lambda: len(scenario.upstream.requests) == 1)
        for _ in range(2):
            client = await ask(scenario)
            assert (client.status, error_code(client)) == (503, "no_available_provider")
            assert client.header("retry-after") == "1"
            assert tried(scenario) == "simulator#0"
        busy.leave()
        await wait_until(lambda: scenario.upstream.gone == 1)
        assert (await ask(scenario)).status == 200
