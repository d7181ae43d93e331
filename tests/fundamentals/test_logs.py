"""The log: one JSON line per request, with everything that an operator needs and nothing that is private."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import UPSTREAM_KEY, RunningGateway, running_gateway
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

PROMPT = "a-prompt-that-nobody-may-log"


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logging_gateway(
    log: io.StringIO, store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    with running_gateway(
        store.url, upstream, tmp_path_factory.mktemp("logs"), log_to=log, log={"level": "info"}
    ) as running:
        yield running


def requests(log: io.StringIO, count: int) -> list[dict[str, Any]]:
    """Returns the log lines of requests, once there are that many. Every line must be JSON."""

    def lines() -> list[dict[str, Any]]:
        read = [json.loads(line) for line in log.getvalue().splitlines()]
        return [line for line in read if line["event"] == "request"]

    wait_until_sync(lambda: len(lines()) == count, what=f"{count} lines")
    return lines()


def test_a_request_is_one_line(logging_gateway: RunningGateway, log: io.StringIO) -> None:
    key = logging_gateway.new_key()
    with logging_gateway.http(key) as http:
        answer = http.post("/v1/responses", json={"model": "o4-mini", "input": PROMPT})
    (line,) = requests(log, 1)
    usage = answer.json()["usage"]
    assert (
        line.items()
        >= {
            "level": "info",
            "request_id": answer.headers["x-request-id"],
            "upstream_request_id": answer.headers["x-upstream-request-id"],
            "response_id": answer.json()["id"],
            "method": "POST",
            "path": "/v1/responses",
            "status": 200,
            "outcome": "completed",
            "state": "settled",
            "team_id": key.team.id,
            "key_id": key.id,
            "model": "o4-mini",
            "stream": False,
            "upstream": "simulator",
            "upstream_status": 200,
            "settled_by": "usage",
            "input_tokens": usage["input_tokens"],
            "output_tokens": usage["output_tokens"],
            "bytes_in": len(answer.request.content),
            "bytes_out": len(answer.content),
        }.items()
    )
    assert float(line["cost_usd"]) > 0
    assert 0 < line["admit_ms"] <= line["open_ms"] <= line["first_byte_ms"] <= line["total_ms"]


def test_whatever_becomes_of_a_request_it_is_one_line(logging_gateway: RunningGateway, log: io.StringIO) -> None:
    body: dict[str, Any] = {"input": PROMPT}
    expected = [
        ("sk-gw-nobody", body | {"model": "o4-mini"}, 401, "refused", "invalid_api_key"),
        (None, body, 400, "refused", "missing_field"),
        (None, body | {"model": "sim/error-400"}, 400, "upstream_refused", None),
        (None, body | {"model": "sim/html"}, 502, "invalid_answer", "upstream_invalid_response"),
        (None, body | {"model": "sim/cut-3", "stream": True}, 200, "upstream_cut", "upstream_invalid_response"),
        (None, body | {"model": "sim/incomplete", "stream": True}, 200, "incomplete", None),
    ]
    own = logging_gateway.new_key().text
    for number, (key, fields, status, outcome, code) in enumerate(expected, 1):
        with logging_gateway.http(key or own) as http:
            assert http.post("/v1/responses", json=fields).status_code == status
        line = requests(log, number)[-1]
        assert (line["status"], line["outcome"], line.get("code")) == (status, outcome, code)


def test_nothing_private_is_logged(logging_gateway: RunningGateway, log: io.StringIO) -> None:
    key = logging_gateway.new_key()
    models = ["o4-mini", "sim/error-500", "sim/html", "sim/bad-json", "sim/cut-3", "sim/error-event"]
    with logging_gateway.http(key) as http:
        for model in models:
            for stream in (False, True):
                fields = {"model": model, "input": PROMPT, "stream": stream, "instructions": PROMPT}
                http.post("/v1/responses", json=fields, headers={"cookie": PROMPT})
        for broken in (b'{"input":"%b"' % PROMPT.encode(), b'{"%b":1}' % PROMPT.encode()):
            http.post("/v1/responses", content=broken, headers={"content-type": "application/json"})
    requests(log, 2 * len(models) + 2)
    written = log.getvalue()
    for private in (PROMPT, "You said", key.text, key.text.rpartition("-")[2], UPSTREAM_KEY):
        assert private not in written
    assert key.id in written
