"""What a hostile or broken client sends: refused early, with bounds in size and time, and never passed on.

Each test is on a raw socket, since no HTTP library would write most of this.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest

from gateway.identity.api_keys import new_id, new_secret
from tests.faults.conftest import Stages
from tests.faults.raw_requests import SERVER, exchange, head
from tests.support.scenario import (
    MODEL,
    Scenario,
    body_of,
    chunk,
    completed,
    created,
    end_of_body,
    more,
    stream,
    whole,
)
from tests.support.scripted_upstream import close, request, reset, send, wait_for
from tests.support.servers import valkey_server
from tests.support.waiting import wait_until

BODY = body_of()
STREAM = body_of(stream=True)


@pytest.fixture
async def scenario(stages: Stages) -> AsyncIterator[Scenario]:
    async with stages(server=SERVER, limits={}) as scenario:
        yield scenario


def unknown_key() -> str:
    """Of the right form, and nobody's."""
    return new_secret(new_id(), new_id())[0]


async def test_a_length_over_the_bound_is_refused_before_the_body_is_read(scenario: Scenario) -> None:
    client = await exchange(scenario, head(scenario, "content-length: 600001"))
    assert client.status == 413
    assert scenario.upstream.requests == []


async def test_a_chunked_body_over_the_bound_is_refused(scenario: Scenario) -> None:
    client = await scenario.connect()
    await client.send(head(scenario, "transfer-encoding: chunked"))
    await client.send((b"%x\r\n" % 100_000 + b" " * 100_000 + b"\r\n") * 7)
    await client.read_until(b"\r\n\r\n")
    assert client.status == 413


@pytest.mark.parametrize("framing", ["content-length: 300000", "transfer-encoding: chunked"])
async def test_a_large_body_is_not_awaited_for_a_key_that_is_unknown(scenario: Scenario, framing: str) -> None:
    client = await exchange(scenario, head(scenario, framing, key=unknown_key()))
    assert client.status == 401


async def test_a_large_body_of_a_good_key_is_served(scenario: Scenario) -> None:
    body = body_of(input="x" * 400_000)
    client = await exchange(scenario, head(scenario, f"content-length: {len(body)}") + body)
    assert client.status == 200


async def test_a_connection_serves_on_after_a_refused_body_was_sent_to_its_end(scenario: Scenario) -> None:
    client = await exchange(scenario, head(scenario, "content-length: 600001"))
    await client.read_until(b"}}")
    client.received.clear()
    await client.send(b" " * 600_001 + head(scenario, f"content-length: {len(BODY)}") + BODY)
    await client.read_until(b"\r\n\r\n")
    assert client.status == 200


async def test_a_slow_body_is_given_up(scenario: Scenario) -> None:
    client = await exchange(scenario, head(scenario, "content-length: 100") + b"{")
    assert client.status == 408
    await client.read_until(b"request_timeout")
    await client.read_all()  # and the connection ends


async def test_a_slow_head_is_given_up(scenario: Scenario) -> None:
    client = await exchange(scenario, b"POST /v1/responses HTTP/1.1\r\nhost: ga")
    assert client.status == 408
    await client.read_all()


async def test_a_silent_connection_is_closed(scenario: Scenario) -> None:
    client = await scenario.connect()
    assert await client.read_all() == b""


@pytest.mark.parametrize(
    "endless", [b"x-a: " + b"a" * 8000, b"x-" + b"a" * 8000, b"x-a: b\r\n" * 1200], ids=["value", "name", "many"]
)
async def test_an_endless_head_is_cut(scenario: Scenario, endless: bytes) -> None:
    client = await exchange(scenario, b"POST /v1/responses HTTP/1.1\r\n" + endless)
    assert client.status == 431
    assert json.loads(client.body or (await client.read_all()).partition(b"\r\n\r\n")[2])["error"]["code"] == (
        "headers_too_large"
    )


async def test_a_large_head_that_comes_whole_is_refused_too(scenario: Scenario) -> None:
    client = await exchange(scenario, head(scenario, f"content-length: {len(BODY)}", "x-a: " + "a" * 8000) + BODY)
    assert client.status == 431
    assert scenario.upstream.requests == []


@pytest.mark.parametrize(
    "lines",
    [
        (f"content-length: {len(BODY)}", "content-length: 5"),
        (f"content-length: {len(BODY)}, {len(BODY)}",),
        (f"content-length: {len(BODY)}", "transfer-encoding: chunked"),
        ("transfer-encoding: chunked", f"content-length: {len(BODY)}"),
        (f"content-length: {len(BODY)}", "transfer-encoding: xchunked"),
        ("transfer-encoding: chunked, identity",),
        ("content-length: -1",),
        ("content-length: +80",),
        (f"content-length : {len(BODY)}",),
        (f"content-length: {len(BODY)}", "x-a: b\rx-c: d"),
        (f"content-length: {len(BODY)}", "x-a: b\x00c"),
        (f"content-length: {len(BODY)}", " folded: line"),
        (f"content-length: {len(BODY)}", "host: other"),
        (f"content-length: {len(BODY)}", "authorization: Bearer other"),
        (f"content-length: {len(BODY)}", "idempotency-key: a", "Idempotency-Key: b"),
        ("transfer-encoding: identity", "transfer-encoding: chunked"),
        ("transfer-encoding: chunked", "transfer-encoding: chunked"),
        ("transfer-encoding: gzip",),
    ],
    ids=str,
)
async def test_what_two_servers_could_read_in_two_ways_is_refused(scenario: Scenario, lines: tuple[str, ...]) -> None:
    client = await exchange(scenario, head(scenario, *lines) + BODY + b"GET /smuggled HTTP/1.1\r\n\r\n")
    assert client.status == 400
    await client.read_all()
    assert json.loads(client.body)["error"]["code"] == "invalid_http"
    assert scenario.upstream.requests == []


@pytest.mark.parametrize(
    "first",
    [
        b"GET /healthz\r\n\r\n",
        b"GET /healthz\r\nhost: gateway\r\n\r\n",
        b"GET /healthz HTTP/0.9\r\nhost: gateway\r\n\r\n",
        b"GET /healthz HTTP/2.0\r\nhost: gateway\r\n\r\n",
        b"GET /healthz HTTP/1.2\r\nhost: gateway\r\n\r\n",
        b"GET /healthz RTSP/1.0\r\nhost: gateway\r\n\r\n",
        b"OPTIONS /healthz RTSP/1.0\r\nhost: gateway\r\n\r\n",
        b"SOURCE /healthz ICE/1.0\r\nhost: gateway\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nx: y\r\n\r\n",
        b"GET /healthz HTTP/1.1\nhost: gateway\n\n",
        b"POST /healthz HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=str,
)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
async def test_what_is_neither_http_1_1_nor_http_1_0_is_refused(scenario: Scenario, first: bytes, cut: bool) -> None:
    client = await scenario.connect()
    for piece in [first[at : at + 1] for at in range(len(first))] if cut else [first]:
        client.writer.write(piece)
        await asyncio.sleep(0.001 if cut else 0)  # apart on the wire
    await client.read_all()
    assert client.status == 400
    assert json.loads(client.body)["error"]["code"] == "invalid_http"


@pytest.mark.parametrize("control", ["%0A", "%0d", "%00", "%7F", "%1b", "%C2%85", "%09"])
@pytest.mark.parametrize("path", ["/metrics", "/dashboard", "/admin/teams", "/healthz"])
async def test_a_control_character_in_a_path_is_refused(scenario: Scenario, path: str, control: str) -> None:
    """A front's rules for operators' paths may not see that such a path is one of them."""
    client = await exchange(scenario, f"GET {path}{control} HTTP/1.1\r\nhost: gateway\r\n\r\n".encode())
    assert client.status == 400
    assert b"invalid_http" in await client.read_all()


async def test_an_http_1_0_request_needs_no_host(scenario: Scenario) -> None:
    client = await exchange(scenario, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert client.status == 200


async def test_a_body_behind_another_transfer_coding_is_refused(scenario: Scenario) -> None:
    client = await exchange(scenario, head(scenario, "transfer-encoding: gzip, chunked") + b"5\r\n{}   \r\n0\r\n\r\n")
    assert client.status == 415


async def test_what_is_no_http_is_told_so(scenario: Scenario) -> None:
    client = await exchange(scenario, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    await client.read_all()
    assert (client.status, json.loads(client.body)["error"]["code"]) == (400, "invalid_http")


@pytest.mark.parametrize(
    ("behind", "statuses"),
    [
        (b"no request\r\n\r\n", [200, 400]),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 5000, [200, 431]),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 500_000, [200, 431]),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nno request\r\n\r\n", [200, 200, 400]),
        (b"GET /healthz HTTP/1.1\r\nhost: x", [200, 408]),
    ],
    ids=["none", "large", "very large", "behind one that waits", "half a head"],
)
async def test_what_is_refused_behind_a_running_request_is_refused_after_its_answer(
    stages: Stages, behind: bytes, statuses: list[int]
) -> None:
    goes_on = asyncio.Event()
    answer = (request(), stream(created()), wait_for(goes_on), more(completed()), end_of_body())
    async with stages(answer, server=SERVER) as scenario:
        client = await exchange(scenario, head(scenario, f"content-length: {len(STREAM)}") + STREAM)
        await client.read_until(created())
        client.writer.write(behind)
        await asyncio.sleep(2 * SERVER["head_timeout_s"])  # an answer that runs is no late head
        goes_on.set()
        received = await client.read_all()
        assert [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)] == statuses
        assert chunk(completed()) + b"0\r\n\r\nHTTP/1.1 " in received


async def test_more_than_one_heads_bound_of_requests_in_one_write_is_answered(scenario: Scenario) -> None:
    client = await scenario.connect()
    client.writer.write(b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n" * 3000 + b"GET /healthz HTTP/1.1\r\nho")
    while client.received.count(b"HTTP/1.1 200") < 3000:
        client.received += await client.reader.read(65536)
        assert b"HTTP/1.1 4" not in client.received


async def test_only_listed_headers_reach_the_upstream(scenario: Scenario) -> None:
    lines = [
        f"content-length: {len(BODY)}",
        "cookie: a=b",
        "x-forwarded-for: 192.0.2.1",
        "proxy-authorization: Basic eA==",
        "connection: keep-alive, x-hop",
        "x-hop: 1",
        "x-gateway-admin-key: guess",
        f"sec-websocket-protocol: realtime, openai-insecure-api-key.{scenario.key.text}",
        "openai-organization: org",
        "user-agent: test/1",
        "traceparent: 00-a-b-01",
    ]
    client = await exchange(scenario, head(scenario, *lines) + BODY)
    assert client.status == 200
    (sent,) = scenario.upstream.requests
    names = {line.partition(b":")[0].lower() for line in sent.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]}
    assert names == {
        b"host", b"content-type", b"accept-encoding", b"x-request-id", b"user-agent", b"traceparent", b"authorization",
        b"content-length",
    }  # fmt: skip
    assert scenario.key.text.encode() not in sent


async def test_a_field_behind_a_body_is_none_of_the_requests(scenario: Scenario) -> None:
    body = b"%x\r\n%b\r\n0\r\nuser-agent: late/1\r\n\r\n" % (len(BODY), BODY)
    client = await exchange(scenario, head(scenario, "transfer-encoding: chunked") + body)
    assert client.status == 200
    assert b"late/1" not in scenario.upstream.requests[0]


async def test_a_control_character_in_a_forwarded_header_is_refused(scenario: Scenario) -> None:
    client = await exchange(scenario, head(scenario, f"content-length: {len(BODY)}", "user-agent: a\x01b") + BODY)
    assert client.status == 400
    assert scenario.upstream.requests == []


@pytest.mark.parametrize("on_failure", ["closed", "open"])
async def test_a_large_body_without_a_store_is_treated_as_any_other(stages: Stages, on_failure: str) -> None:
    with valkey_server() as own_store:
        async with stages(
            server=SERVER, store={"url": own_store.url, "on_failure": on_failure, "timeout_s": 0.3}
        ) as scenario:
            own_store.kill()
            body = body_of(input="x" * 400_000)
            client = await exchange(scenario, head(scenario, f"content-length: {len(body)}") + body)
            assert client.status == (200 if on_failure == "open" else 503)


async def test_a_query_goes_on_to_the_upstream(scenario: Scenario) -> None:
    await scenario.sdk().responses.create(model=MODEL, input="hello", extra_query={"api-version": "1", "a b": "ü"})
    (sent,) = scenario.upstream.requests
    assert sent.startswith(b"POST /v1/responses?api-version=1&a+b=%C3%BC HTTP/1.1\r\n")


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upgrade_that_is_not_taken_up_loses_no_byte_wherever_it_is_cut(
    scenario: Scenario, framing: str
) -> None:
    length = f"content-length: {len(BODY)}" if framing == "length" else "transfer-encoding: chunked"
    sent = head(scenario, "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABk", length)
    sent += BODY if framing == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    cuts = [*range(1, len(sent), 23), len(sent) - 1]
    client = await scenario.connect()
    for number, cut in enumerate(cuts, 1):
        await client.send(sent[:cut])
        await asyncio.sleep(0)
        await client.send(sent[cut:])
        await wait_until(lambda: len(scenario.upstream.requests) == number)  # noqa: B023 - awaited here
        assert scenario.upstream.requests[-1].partition(b"\r\n\r\n")[2] == BODY
        assert b"upgrade" not in scenario.upstream.requests[-1].lower()


async def test_upgrades_without_end_are_answered_one_after_another(scenario: Scenario) -> None:
    client = await scenario.connect()
    await client.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: a\r\n\r\n" * 2000)
    while client.received.count(b"HTTP/1.1 200") < 2000:
        await client.read_until(b"\r\n\r\n")
        client.received += await client.reader.read(65536)


CUT_SHORT = send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"), close()


async def test_a_repeat_with_the_same_idempotency_key_runs_again_where_no_answer_came(stages: Stages) -> None:
    """What was done may have been charged, but it was not answered."""
    once = "idempotency-key: one\r\n"
    async with stages([request(), *CUT_SHORT]) as scenario:
        for status in (502, 200, 409):
            before = len(scenario.log_lines())
            client = await scenario.ask(headers=once)
            await client.read_all()
            assert client.status == status, client.received
            await scenario.logged(before + 1)
        assert [entry["by"] for entry in scenario.journal()] == ["estimate", "usage"]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_post_that_runs_when_its_connection_dies_is_not_run_twice(stages: Stages, *, streams: bool) -> None:
    dies = asyncio.Event()
    async with stages([request(), whole(), request(), wait_for(dies), reset()]) as scenario:
        await (await scenario.ask()).read_all()
        await wait_until(lambda: len(scenario.log_lines()) == 1)
        client = await scenario.ask(stream=streams)
        await wait_until(lambda: len(scenario.upstream.requests) == 2)
        await asyncio.sleep(0.4)  # it works for longer than any race for a kept connection takes
        dies.set()
        await client.read_all()
        assert client.status == 502
        assert len(scenario.upstream.requests) == 2
