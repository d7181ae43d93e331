"""The SDK's other calls under /v1/responses, on a simulator: they go to the response's origin and are charged once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.ledger.verification import verify
from gateway.store.keyspace import WEEK_MS, TeamKeys
from tests.support.gateway import NewKey, RunningGateway, running_gateway, simulator
from tests.support.servers import Server

MODEL = "openai/gpt-5.2"
INPUT, OUTPUT = 1_000, 10_000  # nano-USD per token


@pytest.fixture(scope="module")
def gateway(store: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with two upstreams. Models "sim/..." go to the second one."""
    directory: Path = tmp_path_factory.mktemp("gateway")
    with simulator() as first, simulator() as second:
        sections: dict[str, Any] = {
            "upstreams": {
                "second": {"base_url": second, "api_keys": ["env:TEST_UPSTREAM_KEY"], "on_client_leave": "abort"}
            },
            "routes": [
                {"model": "*", "upstreams": ["simulator"]},
                {"model": "sim/*", "upstreams": ["second"]},
                {"model": "both/*", "upstreams": ["simulator", "second"], "weights": [1, 1]},
            ],
        }
        with running_gateway(store.url, first, directory, **sections) as running:
            yield running


@pytest.fixture
def key(gateway: RunningGateway) -> NewKey:
    return gateway.new_key()


@pytest.fixture
def client(gateway: RunningGateway, key: NewKey) -> Iterator[openai.OpenAI]:
    with gateway.sdk(key) as sdk:
        yield sdk


def spent(gateway: RunningGateway, key: NewKey) -> int:
    """Returns what was charged, once nothing is held any more, after verifying the ledger."""
    balance = gateway.settled_balance(key)
    assert gateway.run(verify(gateway.services.store, key.team.id)).differences == ()
    return balance.spent


def cost(usage: Any) -> int:
    return int(usage.input_tokens * INPUT + usage.output_tokens * OUTPUT)


@pytest.mark.parametrize("model", [MODEL, "sim/tokens-5", "both/model"])
def test_a_response_is_read_listed_and_deleted_where_it_was_made(client: openai.OpenAI, model: str) -> None:
    made = client.responses.create(model=model, input="Hello, world!")
    assert client.responses.retrieve(made.id).output_text == made.output_text
    assert len(list(client.responses.input_items.list(made.id))) == 1
    assert [event.type for event in client.responses.retrieve(made.id, stream=True)][-1] == "response.completed"
    assert len(list(client.responses.retrieve(made.id, stream=True, starting_after=5))) > 0
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.retrieve(made.id)
    assert caught.value.response.headers["x-gateway-limit-source"] == "upstream"


def test_a_streamed_response_can_be_named_too(client: openai.OpenAI) -> None:
    *_, last = client.responses.create(model="both/model", input="Hello", stream=True)
    assert last.type == "response.completed"
    assert client.responses.retrieve(last.response.id).id == last.response.id


@pytest.mark.parametrize("turn", range(6))
def test_a_conversation_goes_on_at_the_upstream_that_knows_it(client: openai.OpenAI, turn: int) -> None:
    first = client.responses.create(model="both/model", input=f"Hello {turn}")
    second = client.responses.create(model="both/model", input="Go on", previous_response_id=first.id)
    assert second.previous_response_id == first.id


def test_a_conversation_does_not_reach_a_provider_that_its_model_is_not_routed_to(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="Hello")
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="sim/tokens-5", input="Go on", previous_response_id=first.id)
    assert (caught.value.code, caught.value.param) == ("invalid_field", "previous_response_id")


@pytest.mark.parametrize("name", ["another team's", "unknown", "not stored"])
def test_a_response_that_is_not_the_teams_is_a_404(gateway: RunningGateway, client: openai.OpenAI, name: str) -> None:
    with gateway.sdk(gateway.new_key()) as signed_out:
        made = "resp_never_made"
        if name != "unknown":
            maker = signed_out if name == "another team's" else client
            made = maker.responses.create(model=MODEL, input="Hello", store=name == "another team's").id
    for param, call in (
        ("response_id", lambda: client.responses.retrieve(made)),
        ("response_id", lambda: client.responses.delete(made)),
        ("response_id", lambda: client.responses.cancel(made)),
        ("response_id", lambda: client.responses.input_items.list(made)),
        ("previous_response_id", lambda: client.responses.create(model=MODEL, input="x", previous_response_id=made)),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.param == param, "what was given"
        assert caught.value.code == "response_not_found"


def test_a_stranger_learns_nothing_of_a_response(gateway: RunningGateway, client: openai.OpenAI, store: Server) -> None:
    made = client.responses.create(model=MODEL, input="Hello")
    forged = gateway.new_key()
    store.run("DEL", TeamKeys(forged.team.id).key(forged.id))
    with gateway.sdk(forged) as signed_out:
        for response_id in (made.id, "resp_never_made"):
            with pytest.raises(openai.AuthenticationError):
                signed_out.responses.retrieve(response_id)


def test_tokens_are_counted_for_nothing_and_a_compaction_is_charged(
    gateway: RunningGateway, client: openai.OpenAI, key: NewKey
) -> None:
    assert client.responses.input_tokens.count(model=MODEL, input="Hello, world!").input_tokens > 0
    assert spent(gateway, key) == 0
    compacted = client.responses.compact(model=MODEL, input="Hello, world!")
    assert spent(gateway, key) == cost(compacted.usage)


def test_reading_a_response_again_costs_nothing(gateway: RunningGateway, client: openai.OpenAI, key: NewKey) -> None:
    made = client.responses.create(model=MODEL, input="Hello, world!")
    before = spent(gateway, key)
    assert before == cost(made.usage)
    for _ in range(3):
        client.responses.retrieve(made.id)
    list(client.responses.retrieve(made.id, stream=True))
    assert spent(gateway, key) == before


def test_a_background_response_holds_its_price_until_its_usage_is_seen_once(
    gateway: RunningGateway, client: openai.OpenAI, key: NewKey
) -> None:
    made = client.responses.create(model="sim/slow-20", input="Hello", background=True, max_output_tokens=500)
    assert made.usage is None
    worst = spent(gateway, key)
    assert worst >= 500 * OUTPUT
    while (seen := client.responses.retrieve(made.id)).status == "in_progress":
        assert spent(gateway, key) == worst
    assert seen.usage is not None
    assert spent(gateway, key) == cost(seen.usage) < worst
    for _ in range(3):
        client.responses.retrieve(made.id)
    assert spent(gateway, key) == cost(seen.usage)


def test_a_background_response_that_is_streamed_and_left_is_charged_in_full_until_it_is_read(
    gateway: RunningGateway, client: openai.OpenAI, key: NewKey
) -> None:
    with client.responses.create(
        model="sim/slow-20", input="Hello", background=True, stream=True, max_output_tokens=500
    ) as stream:
        first = next(iter(stream))
    assert first.type == "response.created"
    assert spent(gateway, key) >= 500 * OUTPUT
    while (seen := client.responses.retrieve(first.response.id)).status == "in_progress":
        pass
    if seen.usage is not None:
        assert spent(gateway, key) == cost(seen.usage)


def test_a_cancelled_background_response(client: openai.OpenAI) -> None:
    made = client.responses.create(model="sim/slow-60000", input="x", background=True)
    assert client.responses.cancel(made.id).status == "cancelled"


def test_these_requests_are_limited_like_any_other(gateway: RunningGateway) -> None:
    key = gateway.new_key(key_limits={"rpm": 2})
    with gateway.sdk(key) as client:
        made = client.responses.create(model=MODEL, input="Hello")
        client.responses.retrieve(made.id)
        with pytest.raises(openai.RateLimitError):
            client.responses.retrieve(made.id)


def test_what_the_gateway_remembers_of_a_response_has_an_end(
    gateway: RunningGateway, client: openai.OpenAI, key: NewKey, store: Server
) -> None:
    client.responses.create(model=MODEL, input="Hello")
    gateway.wait_until_settled()
    (index,) = store.run("KEYS", f"gw:{{{key.team.id}}}:ended:*")
    week_s = WEEK_MS // 1000
    assert 0 < store.run("TTL", index) <= week_s + gateway.services.settings.ledger.resolution_ttl_s


@pytest.mark.parametrize("path", ["/v1/responses/resp_1%2F..", "/v1/responses/%2e%2e/models"])
def test_an_id_that_could_mean_another_path_is_no_response(gateway: RunningGateway, key: NewKey, path: str) -> None:
    with gateway.http(key) as http:
        answer = http.get(path)
    assert answer.status_code == 404
    assert json.loads(answer.content)["error"]["type"] == "not_found"


def records_in_index(store: Server, key: NewKey) -> int:
    """Of all that the team's index lists, each takes ten bytes."""
    (index,) = store.run("KEYS", f"gw:{{{key.team.id}}}:ended:*")
    return sum(map(len, store.run("HVALS", index))) // 10


def test_a_response_that_nobody_may_ask_for_takes_no_room_in_the_store(
    gateway: RunningGateway, key: NewKey, client: openai.OpenAI, store: Server
) -> None:
    kept = client.responses.create(model=MODEL, input="hello")
    client.responses.create(model=MODEL, input="hello", store=False)
    for event in client.responses.create(model=MODEL, input="hello", store=False, stream=True):
        del event
    spent(gateway, key)
    assert store.run("KEYS", f"gw:{{{key.team.id}}}:response:*") == []
    assert records_in_index(store, key) == 3 + 1, "three requests, and one response"
    assert client.responses.retrieve(kept.id).id == kept.id
