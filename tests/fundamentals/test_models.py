"""What a key may use and what remains of it: GET /v1/models, /v1/models/{id} and /v1/key. Free, and never blocked."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from gateway.upstream import model_list
from gateway.upstream.transport import FaultKind, UpstreamFault
from tests.support.answering_provider import Answer, AnsweringProvider, Request
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.ports import free_port
from tests.support.servers import Server


@pytest.fixture(scope="module")
def routed(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with routes of every kind, one of whose providers does not exist."""
    keys = {"api_keys": ["env:TEST_UPSTREAM_KEY"]}
    with running_gateway(
        store.url,
        upstream,
        tmp_path_factory.mktemp("models"),
        upstreams={"dead": {"base_url": f"http://127.0.0.1:{free_port()}/v1", **keys}},
        routes=[
            {"model": "sim/*", "upstreams": ["dead", "simulator"]},
            {"model": "openai/*", "upstreams": ["simulator"]},
            {"model": "in-house/*", "upstreams": ["simulator"], "strip_prefix": "in-house/"},
            {"model": "gone/exact", "upstreams": ["dead"]},
            {"model": "unpriced", "upstreams": ["simulator"]},
        ],
        aliases={"default": "openai/gpt-5.2"},
        prices={"*": None}
        | {f"{name}/*": {"input": "1", "output": "2"} for name in ("sim", "openai", "in-house", "gone")},
    ) as running:
        yield running


def listed(gateway: RunningGateway, key: NewKey) -> set[str]:
    with gateway.sdk(key) as client:
        return {model.id for model in client.models.list()}


def test_models_come_from_the_routes_and_the_providers_lists(routed: RunningGateway) -> None:
    found = listed(routed, routed.new_key())
    assert {"sim/slow-20", "openai/gpt-5.2", "in-house/o4-mini", "gone/exact", "default"} <= found
    assert not {"o4-mini", "unpriced"} & found  # no route leads to the one, and the other has no price


@pytest.mark.parametrize("of_the_team", [True, False])
def test_a_key_sees_what_it_may_use(routed: RunningGateway, of_the_team: bool) -> None:
    allowed = ("openai/*", "sim/html")
    key = routed.new_key(models=allowed) if of_the_team else routed.new_key(key_models=allowed)
    assert listed(routed, key) == {"openai/gpt-5.2", "default", "sim/html"}


def test_what_is_listed_is_served_and_the_rest_is_not(routed: RunningGateway) -> None:
    key = routed.new_key(models=("openai/*", "in-house/*"))
    with routed.sdk(key) as client:
        for model in ("openai/gpt-5.2", "default", "in-house/o4-mini"):
            assert client.responses.create(model=model, input="Hello").status == "completed"
        with pytest.raises(openai.PermissionDeniedError):
            client.responses.create(model="sim/html", input="Hello")
        for model in ("o4-mini", "unpriced", "nobody/knows"):
            with pytest.raises(openai.NotFoundError) as caught:
                client.responses.create(model=model, input="Hello")
            assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("model", ["openai/gpt-5.2", "in-house/openai/gpt-5.2", "gone/exact", "default"])
def test_one_model_is_found_by_its_name_slashes_and_all(routed: RunningGateway, model: str) -> None:
    with routed.sdk(routed.new_key()) as client:
        assert client.models.retrieve(model).id == model
    with routed.http(routed.new_key()) as http:
        assert http.get("/v1/models/" + model.replace("/", "%2F")).json()["id"] == model


@pytest.mark.parametrize("model", ["nobody/knows", "unpriced", "sim/slow-20"])
def test_a_model_that_this_key_may_not_use_is_not_there(routed: RunningGateway, model: str) -> None:
    with routed.sdk(routed.new_key(models=("openai/*",))) as client, pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve(model)
    assert caught.value.code == "model_not_found"


def test_nothing_spent_blocks_the_lists_and_they_cost_nothing(gateway: RunningGateway) -> None:
    key = gateway.new_key(credits_usd="0", limits={"rpm": 1, "concurrency": 0, "budget_usd_total": 0})
    with gateway.http(key) as http:
        for _ in range(3):
            assert http.get("/v1/models").status_code == 200
            assert http.get("/v1/key").json()["team"]["limits"]["rpm"]["remaining"] == 1
        assert http.post("/v1/responses", json={"model": "o4-mini", "input": "Hello"}).status_code in (402, 429)


def test_a_provider_that_is_not_there_takes_no_other_providers_models_away(routed: RunningGateway) -> None:
    assert len(listed(routed, routed.new_key())) > 20


def test_a_key_knows_its_limits_and_what_is_left(gateway: RunningGateway) -> None:
    key = gateway.new_key(credits_usd="2.5", limits={"rpm": 10}, key_limits={"budget_usd_total": 1_000_000_000})
    with gateway.http(key) as http:
        http.post("/v1/responses", json={"model": "o4-mini", "input": "Hello"})
        shown = http.get("/v1/key").json()
    assert (shown["object"], shown["id"], shown["expires_at"]) == ("key", key.id, None)
    assert shown["limits"]["budget_usd_total"]["limit_usd"] == "1"
    assert shown["team"]["limits"]["rpm"]["limit"] == 10
    assert shown["team"]["limits"]["rpm"]["remaining"] == 9
    assert shown["team"]["balance"]["granted_usd"] == "2.5"
    assert key.text.rpartition("-")[2] not in str(shown)


@pytest.fixture
def provider_is_gone(store: Server, tmp_path: Path) -> Iterator[RunningGateway]:
    """A gateway all of whose models go to a provider that does not exist; one model has a name of its own."""
    nobody = f"http://127.0.0.1:{free_port()}/v1"
    routes = [{"model": "*", "upstreams": ["simulator"]}, {"model": "own/exact", "upstreams": ["simulator"]}]
    with running_gateway(store.url, nobody, tmp_path, routes=routes) as running:
        yield running


def test_lists_that_were_never_had_are_no_empty_lists(provider_is_gone: RunningGateway) -> None:
    with provider_is_gone.http(provider_is_gone.new_key()) as http:
        for path in ("/v1/models", "/v1/models/o4-mini"):
            answer = http.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_available_provider")
            assert int(answer.headers["retry-after"]) > 0
        assert http.get("/v1/models/own/exact").json()["id"] == "own/exact"


def test_a_list_that_cannot_be_had_again_stays_as_it_was(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = gateway.new_key()
    before = listed(gateway, key)
    upstream = gateway.services.handler.snapshot.upstreams["simulator"]

    async def gone(*_: object) -> object:
        raise UpstreamFault(FaultKind.CONNECT, "gone", sent=False)

    monkeypatch.setattr(model_list, "FRESH_S", 0.0)
    monkeypatch.setattr(model_list, "RETRY_S", 0.0)
    gateway.services.model_list = model_list.ModelList(gateway.services.handler.snapshot.upstreams)
    assert listed(gateway, key) == before
    monkeypatch.setattr(upstream.transport, "send", gone)
    assert listed(gateway, key) == before


def test_a_key_that_rests_is_asked_for_the_list_all_the_same(gateway: RunningGateway) -> None:
    (key,) = gateway.services.handler.snapshot.upstreams["simulator"].keys.keys
    gateway.services.model_list = model_list.ModelList(gateway.services.handler.snapshot.upstreams)
    key.rest(gateway.loop.time() + 600)
    try:
        assert len(listed(gateway, gateway.new_key())) > 20
    finally:
        key.rest(0.0)


def test_a_model_that_its_provider_does_not_list_is_not_said_not_to_exist(gateway: RunningGateway) -> None:
    with gateway.http(gateway.new_key()) as http:
        answer = http.get("/v1/models/nobody/knows")
    assert answer.status_code == 404
    assert "not listed" in answer.json()["error"]["message"]


def test_a_providers_list_that_comes_in_pages_is_asked_for_whole(store: Server, tmp_path: Path) -> None:
    """Anthropic's list has 20 models a page."""
    names = [f"claude-{number}" for number in range(30)]

    def page(request: Request) -> Answer:
        limit = 1000 if request.path.endswith("?limit=1000") else 20
        models = [{"type": "model", "id": name, "created_at": "2026-01-01T00:00:00Z"} for name in names[:limit]]
        return Answer({"data": models, "has_more": limit < len(names), "last_id": models[-1]["id"]})

    with AnsweringProvider.serving(page) as provider, running_gateway(store.url, provider.url, tmp_path) as gateway:
        key = gateway.new_key()
        assert listed(gateway, key) == set(names)
        with gateway.sdk(key) as client:
            assert {(model.object, model.owned_by) for model in client.models.list()} == {("model", "simulator")}


@pytest.mark.parametrize("path", ["/v1/conversations/conv_1", "/v1/conversations/conv_1/items"])
def test_where_no_route_keeps_state_conversations_are_not_served(gateway: RunningGateway, path: str) -> None:
    with gateway.http(gateway.new_key()) as http:
        answer = http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert "previous_response_id" in answer.json()["error"]["message"]
