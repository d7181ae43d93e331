"""Where a model goes and what the provider is told: the most specific route wins, and only the model's name changes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import RunningGateway, running_gateway, simulator
from tests.support.sent import Sent
from tests.support.servers import Server


@pytest.fixture(scope="module")
def other() -> Iterator[str]:
    with simulator() as url:
        yield url


@pytest.fixture(scope="module")
def routed(
    store: Server, upstream: str, other: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    with running_gateway(
        store.url,
        upstream,
        tmp_path_factory.mktemp("routes"),
        upstreams={"other": {"base_url": other, "api_keys": ["env:TEST_UPSTREAM_KEY"]}},
        routes=[
            {"model": "*", "upstreams": ["simulator"]},
            {"model": "acme/*", "upstreams": ["other"], "strip_prefix": "acme/"},
            {"model": "acme/big/*", "upstreams": ["simulator"], "strip_prefix": "acme/"},
            {"model": "acme/big/one", "upstreams": ["other"], "rename": "o4-mini"},
        ],
        aliases={"fast": "acme/quick", "same": "o4-mini"},
    ) as running:
        yield running


BODY = b'{ "input": [{"role":"user","content":"\\u0048ello"}],\n"metadata":{"model":"%b"}, "model" :"%b" }'


@pytest.mark.parametrize(
    ("model", "provider", "told"),
    [
        ("o4-mini", "simulator", "o4-mini"),
        ("openai/gpt-5.2", "simulator", "openai/gpt-5.2"),
        ("acme/small", "other", "small"),
        ("acme/a/b", "other", "a/b"),
        ("acme/big/two", "simulator", "big/two"),
        ("acme/big/one", "other", "o4-mini"),
        ("acme", "simulator", "acme"),
        ("fast", "other", "quick"),
        ("same", "simulator", "o4-mini"),
    ],
)
def test_the_most_specific_route_wins_and_only_the_models_name_changes(
    routed: RunningGateway, upstream: str, other: str, model: str, provider: str, told: str
) -> None:
    with routed.http(routed.new_key()) as http:
        content = BODY % (model.encode(), model.encode())
        answer = http.post("/v1/responses", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    seen = Sent({"simulator": upstream, "other": other}[provider]).of(answer.headers["x-request-id"])
    assert seen.body == BODY % (model.encode(), told.encode())


def test_an_escaped_spelling_does_not_get_round_a_rename(routed: RunningGateway, other: str) -> None:
    with routed.http(routed.new_key()) as http:
        content = b'{"x":{"model":"acme/big/one"},"mod\\u0065l":"acme/big/one","input":"Hello"}'
        answer = http.post("/v1/responses", content=content, headers={"content-type": "application/json"})
    fields: dict[str, Any] = json.loads(Sent(other).of(answer.headers["x-request-id"]).body)
    assert fields["model"] == "o4-mini"
    assert fields["x"] == {"model": "acme/big/one"}


def test_the_answers_model_is_the_providers_word(routed: RunningGateway) -> None:
    with routed.sdk(routed.new_key()) as client:
        assert client.responses.create(model="acme/big/one", input="Hello").model == "o4-mini"
