"""What Anthropic's clients, Claude Code among them, find beside /v1/messages: models, errors, a greeting."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from tests.fundamentals.raw import RawConnection, head
from tests.support.gateway import NewKey, RunningGateway, StartGateway

VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture
def sdk(gateway: RunningGateway, key: NewKey) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=key.text, max_retries=0) as client:
        yield client


@pytest.fixture
def bare(gateway: RunningGateway) -> Iterator[httpx.Client]:
    """A client without a key."""
    with gateway.http() as client:
        yield client


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_claude_code_is_greeted_without_a_key(bare: httpx.Client, method: str) -> None:
    answer = bare.request(method, "/api/hello")
    assert answer.status_code == 200
    assert answer.text == ("" if method == "HEAD" else '{"message":"hello"}')


def test_the_list_of_models_has_anthropics_form_and_its_pages(sdk: anthropic.Anthropic, http: httpx.Client) -> None:
    whole = {model["id"] for model in http.get("/v1/models").json()["data"]}
    page = sdk.models.list(limit=1000)
    assert ({model.id for model in page.data}, page.has_more) == (whole, False)
    assert all(model.display_name and model.created_at.year >= 1970 for model in page.data)
    by_threes = list(sdk.models.list(limit=3))
    assert [model.id for model in by_threes] == [model.id for model in page.data]
    before = sdk.models.list(limit=2, before_id=page.data[3].id)
    assert ([model.id for model in before.data], before.has_more) == ([page.data[1].id, page.data[2].id], True)


def test_one_model_has_it_too(sdk: anthropic.Anthropic) -> None:
    model = sdk.models.retrieve("openai/gpt-5.2")
    assert (model.id, model.type, model.display_name) == ("openai/gpt-5.2", "model", "openai/gpt-5.2")


@pytest.mark.parametrize(
    "headers", [{"x-api-key": "KEY"}, {"authorization": "Bearer KEY", **VERSION}], ids=["x-api-key", "version"]
)
def test_who_sends_what_anthropics_clients_send_gets_their_form(
    bare: httpx.Client, key: NewKey, headers: dict[str, str]
) -> None:
    sent = {name: value.replace("KEY", key.text) for name, value in headers.items()}
    assert "has_more" in bare.get("/v1/models?limit=1000", headers=sent).json()


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after_id=nobody", "before_id=nobody"])
def test_a_page_that_there_is_not_is_a_400(bare: httpx.Client, key: NewKey, query: str) -> None:
    answer = bare.get(f"/v1/models?{query}", headers={"x-api-key": key.text})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "kind"),
    [
        ("GET", "/v1/models", VERSION, 401, "authentication_error"),
        ("GET", "/v1/models/none", {"x-api-key": "KEY"}, 404, "not_found_error"),
        ("GET", "/v1/messages", {}, 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", {}, 405, "invalid_request_error"),
        ("GET", "/v1/messages/count_tokens", {}, 405, "invalid_request_error"),
        ("POST", "/v1/files", VERSION, 405, "invalid_request_error"),
        ("POST", "/v1/nowhere", VERSION, 404, "not_found_error"),
        ("POST", "/v1/messages", {}, 401, "authentication_error"),
        ("POST", "/v1/messages", {"x-api-key": "KEY", "content-length": "999999999"}, 413, "request_too_large"),
        ("POST", "/v1/messages", {"x-api-key": "KEY", "content-type": "text/plain"}, 415, "invalid_request_error"),
    ],
)
def test_errors_have_anthropics_form(
    gateway: RunningGateway,
    key: NewKey,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    kind: str,
) -> None:
    lines = [f"{name}: {value.replace('KEY', key.text)}" for name, value in headers.items()]
    if "content-length" not in headers:
        lines.append("content-length: 0")
    with RawConnection(gateway.url) as wire:
        wire.send(head(method, path, *lines))
        answer = wire.read()
    told = json.loads(answer.body)
    assert (answer.status, told["type"], told["error"]["type"]) == (status, "error", kind)
    assert told["request_id"] == answer.headers["x-request-id"]


def test_an_address_that_guesses_at_keys_is_told_so_in_anthropics_form(start: StartGateway) -> None:
    with start(server={"auth_failures_per_minute": 1}) as gateway, gateway.http() as http:
        answers = [http.post(path, json={}) for path in ("/v1/messages", "/v1/messages", "/v1/messages/count_tokens")]
        assert [answer.json()["error"]["type"] for answer in answers] == [
            "authentication_error",
            "rate_limit_error",
            "rate_limit_error",
        ]
        assert http.get("/v1/models", headers=VERSION).json()["error"]["type"] == "rate_limit_error"


def test_a_body_that_breaks_its_framing_is_refused_in_anthropics_form(gateway: RunningGateway, key: NewKey) -> None:
    with RawConnection(gateway.url) as wire:
        wire.send(head("POST", "/v1/messages", f"x-api-key: {key.text}", "transfer-encoding: chunked") + b"zz\r\n")
        answer = wire.read()
    told: dict[str, Any] = json.loads(answer.body)
    assert (answer.status, told["type"], told["error"]["type"]) == (400, "error", "invalid_request_error")


def test_other_callers_keep_openais_form(bare: httpx.Client, key: NewKey) -> None:
    for path in ("/v1/chat/completions", "/v1/messages-of-others", "/v1/files"):
        answer = bare.post(path, json={}, headers={"x-api-key": key.text})
        assert "type" not in answer.json()
        assert answer.json()["error"]["code"]
