"""Every status of the error table, as a program sees it: one format, a typed exception, and what would help."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.fundamentals.raw import RawConnection, bearer, head
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.ports import free_port
from tests.support.servers import Server

MAX_BODY_BYTES = 2_000


def settings(upstream: str) -> dict[str, Any]:
    """Small limits, no WebSocket, and providers that are not there."""
    dead = {"base_url": f"http://127.0.0.1:{free_port()}/v1", "api_keys": ["env:TEST_UPSTREAM_KEY"]}
    return {
        "server": {"max_body_bytes": MAX_BODY_BYTES, "body_timeout_s": 1},
        "websocket": {"enabled": False},
        "upstream": {"first_byte_timeout_s": 1, "breaker_failures": 1_000},
        "upstreams": {"dead": {**dead, "breaker_failures": 1_000}, "tripped": {**dead, "breaker_failures": 1}},
        "routes": [
            {"model": "*", "upstreams": ["simulator"]},
            {"model": "dead", "upstreams": ["dead"]},
            {"model": "tripped", "upstreams": ["tripped"]},
        ],
    }


@pytest.fixture(scope="module")
def strict(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(store.url, upstream, tmp_path_factory.mktemp("strict"), **settings(upstream)) as running:
        yield running


@pytest.fixture(scope="module")
def numeric(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    data = tmp_path_factory.mktemp("numeric")
    with running_gateway(store.url, upstream, data, errors={"numeric_codes": True}, **settings(upstream)) as running:
        yield running


JSON = {"content-type": "application/json"}


def body(model: str = "o4-mini", **fields: Any) -> bytes:
    return json.dumps({"model": model, "input": "Hello", **fields}).encode()


def provoke(gateway: RunningGateway, code: str) -> httpx.Response:
    """Sends a request that is refused with this code."""
    keys: dict[str, dict[str, Any]] = {
        "insufficient_quota": {"credits_usd": "0.000001"},
        "model_not_allowed": {"models": ("openai/*",)},
        "rate_limit_exceeded": {"limits": {"rpm": 1}},
        "concurrency_exceeded": {"limits": {"concurrency": 1}},
    }
    contents = {
        "invalid_json": b"{",
        "missing_field": b'{"model":"o4-mini"}',
        "invalid_field": body(stream="yes"),
        "duplicate_field": b'{"model":"o4-mini","input":"x","model":"o4-mini"}',
        "upstream_timeout": body("sim/stall-head"),
        "upstream_unreachable": body("dead"),
        "upstream_invalid_response": body("sim/html"),
        "no_available_provider": body("tripped"),
        "body_too_large": body(padding="x" * MAX_BODY_BYTES),
    }
    key = "sk-gw-nobody" if code == "invalid_api_key" else gateway.new_key(**keys.get(code, {})).text
    headers = {"content-type": "text/plain"} if code == "unsupported_media_type" else JSON
    path = "/v1/nothing" if code == "unknown_url" else "/v1/responses"
    with gateway.http(key) as http:
        if code in ("rate_limit_exceeded", "no_available_provider"):  # the second one is refused
            http.post(path, content=contents.get(code, body()), headers=headers)
        if code == "concurrency_exceeded":
            with http.stream("POST", path, content=body("sim/stall-1", stream=True), headers=headers):
                return http.post(path, content=body(), headers=headers)
        if code == "websocket_unsupported":
            return http.get(path, headers={"connection": "upgrade", "upgrade": "websocket"})
        return http.post(path, content=contents.get(code, body()), headers=headers)


TABLE = [
    (400, "invalid_request", "invalid_json", ""),
    (400, "invalid_request", "missing_field", "input"),
    (400, "invalid_request", "invalid_field", "stream"),
    (400, "invalid_request", "duplicate_field", "model"),
    (401, "authentication_error", "invalid_api_key", ""),
    (402, "insufficient_credits", "insufficient_quota", ""),
    (403, "permission_denied", "model_not_allowed", "model"),
    (404, "not_found", "unknown_url", ""),
    (408, "timeout", "upstream_timeout", ""),
    (413, "invalid_request", "body_too_large", ""),
    (415, "invalid_request", "unsupported_media_type", ""),
    (426, "invalid_request", "websocket_unsupported", ""),
    (429, "too_many_requests", "rate_limit_exceeded", ""),
    (429, "too_many_requests", "concurrency_exceeded", ""),
    (502, "model_error", "upstream_unreachable", ""),
    (502, "model_error", "upstream_invalid_response", ""),
    (503, "server_error", "no_available_provider", ""),
]
WAITING_HELPS = {"rate_limit_exceeded", "concurrency_exceeded", "no_available_provider"}
CLIENT_DECIDES = {"upstream_timeout", "upstream_unreachable", "upstream_invalid_response"}


@pytest.mark.parametrize(("status", "kind", "code", "param"), TABLE)
def test_a_refusal_has_the_error_format(strict: RunningGateway, status: int, kind: str, code: str, param: str) -> None:
    answer = provoke(strict, code)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"], error["param"]) == (status, kind, code, param)
    assert isinstance(error["message"], str)
    assert error["message"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(("status", "kind", "code", "param"), TABLE)
def test_a_refusal_says_whether_to_come_back(
    strict: RunningGateway, status: int, kind: str, code: str, param: str
) -> None:
    answer = provoke(strict, code)
    if code in WAITING_HELPS:
        assert 1 <= int(answer.headers["retry-after"]) == answer.json()["error"]["retry_after"]
        assert 1 <= int(answer.headers["retry-after-ms"]) <= int(answer.headers["retry-after"]) * 1000
    else:
        assert "retry-after" not in answer.headers
    permanent = code not in WAITING_HELPS | CLIENT_DECIDES
    assert answer.headers.get("x-should-retry") == ("false" if permanent else None)


@pytest.mark.parametrize(("status", "kind", "code", "param"), TABLE)
def test_codes_may_be_numbers(numeric: RunningGateway, status: int, kind: str, code: str, param: str) -> None:
    """`errors.numeric_codes`: the form that Siraya documents."""
    error = provoke(numeric, code).json()["error"]
    assert (error["code"], error["type"], error["param"]) == (status, kind, param)


@pytest.mark.parametrize(
    ("code", "exception"),
    [
        ("invalid_field", openai.BadRequestError),
        ("invalid_api_key", openai.AuthenticationError),
        ("insufficient_quota", openai.APIStatusError),
        ("model_not_allowed", openai.PermissionDeniedError),
        ("upstream_timeout", openai.APIStatusError),
        ("body_too_large", openai.APIStatusError),
        ("concurrency_exceeded", openai.RateLimitError),
        ("upstream_unreachable", openai.InternalServerError),
        ("no_available_provider", openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_sdk_raises_its_typed_exception(
    strict: RunningGateway, code: str, exception: type[openai.APIStatusError], stream: bool
) -> None:
    keys: dict[str, dict[str, Any]] = {
        "insufficient_quota": {"credits_usd": "0"},
        "model_not_allowed": {"key_models": ("openai/*",)},
        "concurrency_exceeded": {"key_limits": {"concurrency": 0}},
    }
    models = {
        "upstream_timeout": "sim/stall-head",
        "upstream_unreachable": "dead",
        "no_available_provider": "tripped",
        "invalid_field": "m" * 257,
    }
    key = "sk-gw-nobody" if code == "invalid_api_key" else strict.new_key(**keys.get(code, {}))
    text = "x" * MAX_BODY_BYTES if code == "body_too_large" else "Hello"
    if code == "no_available_provider":
        provoke(strict, code)
    with strict.sdk(key) as client, pytest.raises(exception) as caught:
        client.responses.create(model=models.get(code, "o4-mini"), input=text, stream=stream)
    assert type(caught.value) is exception
    assert caught.value.code == code
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("req_")


def test_an_error_of_the_providers_is_told_as_it_told_it(strict: RunningGateway) -> None:
    with strict.sdk(strict.new_key()) as client:
        for status, exception in [(429, openai.RateLimitError), (404, openai.NotFoundError)]:
            with pytest.raises(exception) as caught:
                client.responses.create(model=f"sim/error-{status}", input="Hello")
            assert caught.value.code == "simulated_error"
            assert caught.value.response.headers["x-gateway-limit-source"] == "upstream"
            for upstream in strict.services.handler.snapshot.upstreams.values():
                for key in upstream.keys.keys:
                    key.rests_until_s = 0.0  # a limited key rests: not in the next test


@pytest.mark.parametrize("encoding", ["compress", "deflate, br", "zstd-x"])
def test_a_body_in_an_unknown_coding_is_refused(strict: RunningGateway, encoding: str) -> None:
    with strict.http(strict.new_key()) as http:
        answer = http.post("/v1/responses", content=body(), headers={**JSON, "content-encoding": encoding})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_a_body_of_the_allowed_size_is_read_and_one_byte_more_is_not(strict: RunningGateway) -> None:
    with strict.http(strict.new_key()) as http:
        for size, status in [(MAX_BODY_BYTES, 200), (MAX_BODY_BYTES + 1, 413)]:
            content = body() + b" " * (size - len(body()))
            assert http.post("/v1/responses", content=content, headers=JSON).status_code == status
            in_chunks = iter([content[:100], content[100:]])
            answer = http.post("/v1/responses", content=in_chunks, headers=JSON)
            assert "content-length" not in answer.request.headers
            assert answer.status_code == status


@pytest.mark.parametrize("started", [b"", b'{"model":'])
def test_a_body_that_does_not_arrive_in_time_is_refused_and_the_connection_ended(
    strict: RunningGateway, key: NewKey, started: bytes
) -> None:
    with RawConnection(strict.url) as wire:
        wire.send(head("POST", "/v1/responses", bearer(strict.new_key().text), "Content-Length: 50") + started)
        answer = wire.read()
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (408, "request_timeout")
        assert wire.closed
