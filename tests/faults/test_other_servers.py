"""The gateway is an ASGI application too: behind a server that is not its own, a client sees the same."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from gateway.app import Gateway
from gateway.config.settings import Settings
from gateway.server import server_config
from tests.faults.conftest import Stages
from tests.support import gateway as support
from tests.support.scenario import RawClient, Scenario, body_of, completed, created, delta, end_of_body, more, stream
from tests.support.scripted_upstream import hang, request
from tests.support.waiting import wait_until

SERVER = {"port": 0, "body_timeout_s": 0.5, "max_body_bytes": 600_000}


@pytest.fixture(params=["h11", "httptools"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are uvicorn's own."""
    http: Any = request.param

    def config_of(settings: Settings, app: Gateway) -> uvicorn.Config:
        config = server_config(settings, app)
        config.http = http
        return config

    monkeypatch.setattr(support, "server_config", config_of)


@pytest.fixture
async def scenario(server: None, stages: Stages) -> AsyncIterator[Scenario]:
    async with stages(server=SERVER) as scenario:
        yield scenario


async def test_a_json_answer_and_a_long_body_arrive_whole(scenario: Scenario) -> None:
    body = body_of(input="x" * 400_000)
    client = await scenario.ask(body)
    assert json.loads((await client.read_all()).partition(b"\r\n\r\n")[2])["object"] == "response"
    assert scenario.upstream.requests[-1].partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_over_the_bound_is_refused(scenario: Scenario, framing: str) -> None:
    body = body_of(input="x" * 700_000)
    client = await scenario.connect()
    line = f"content-length: {len(body)}" if framing == "length" else "transfer-encoding: chunked"
    head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {scenario.key.text}\r\n{line}\r\n\r\n"
    client.writer.write(head.encode() + (body if framing == "length" else b"%x\r\n%b\r\n" % (len(body), body)))
    await client.read_until(b"body_too_large")
    assert client.status == 413


@pytest.mark.parametrize("control", ["%0A", "%0d", "%00", "%7F", "%1b", "%C2%85", "%09"])
@pytest.mark.parametrize("path", ["/metrics", "/admin/teams", "/healthz", "/v1/models", "/v1/responses/resp_1"])
async def test_a_control_character_in_a_path_is_refused(scenario: Scenario, path: str, control: str) -> None:
    client = await scenario.connect()
    await client.send(f"GET {path}{control} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n".encode())
    await client.read_all()
    assert client.status == 400
    assert b"invalid_http" in client.body


async def test_a_slow_body_is_given_up(scenario: Scenario) -> None:
    client: RawClient = await scenario.connect()
    head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {scenario.key.text}\r\n"
    await client.send(head.encode() + b"content-length: 100\r\n\r\n{")
    await client.read_until(b"request_timeout")
    assert client.status == 408


async def test_a_stream_passes_and_is_settled(server: None, stages: Stages) -> None:
    answer = (request(), stream(created(), delta("a")), more(completed()), end_of_body())
    async with stages(answer, server=SERVER) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_all()
        assert client.body == created() + delta("a") + completed()
        await scenario.ended(outcome="completed", settled_by="usage", usage=(100, 7))


async def test_a_client_that_leaves_ends_its_request(server: None, stages: Stages) -> None:
    answer = (request(), stream(created(), delta("a")), hang())
    async with stages(answer, server=SERVER, upstream={"on_client_leave": "abort"}) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_until(delta("a"))
        client.leave()
        await scenario.upstream_left()
        await wait_until(lambda: bool(scenario.log_lines()), what="the request has ended")
        assert scenario.log_lines()[0]["outcome"] == "client_left"
