"""`foreign_ids = "pass"` where the gateway keeps the state: what it has not made is looked for at the provider."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.state.own_ids import is_own, new_id
from gateway.state.rewriting import is_usable_id
from gateway.store.keyspace import TeamKeys
from tests.state.answers import MODEL, answer, message
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import Socket

PASSES = {"state": "gateway", "foreign_ids": "pass"}
RESERVED_USD = 0.1
"""What `limits.reserve_input_tokens` cost: held for what only the provider can see."""


@pytest.fixture(scope="module")
def gateway(
    shared_store: Server, post_only: PostOnlyProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    directory = tmp_path_factory.mktemp("passes")
    with running_gateway(shared_store.url, post_only.url, directory, route=PASSES) as running:
        yield running


def shown(got: Any) -> dict[str, Any]:
    """The response that a client was shown, as JSON or as a stream."""
    assert got.status_code == 200, got.text
    found: dict[str, Any]
    if got.headers["content-type"].startswith("text/event-stream"):
        events = [json.loads(line[6:]) for line in got.text.split("\n") if line.startswith("data: {")]
        found = events[-1]["response"]
        assert {event["response"]["previous_response_id"] for event in events if "response" in event} == {
            found["previous_response_id"]
        }
    else:
        found = got.json()
    return found


def held_usd(dry_run: dict[str, Any]) -> float:
    """What would be held."""
    return float(dry_run["hold"]["amount_usd"])


def texts(body: dict[str, Any]) -> list[str]:
    given = body["input"]
    items = [{"content": given}] if isinstance(given, str) else given
    return [item["content"] if isinstance(item["content"], str) else item["content"][0]["text"] for item in items]


@pytest.mark.parametrize("stream", [False, True])
def test_a_previous_response_of_the_providers_is_named_and_what_follows_is_kept_here(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey, stream: bool
) -> None:
    provider.next(answer("two", f"resp_second_{stream}"))
    provider.next(answer("three", f"resp_third_{stream}"))
    calls = len(provider.received)
    with gateway.http(key) as client:
        body = {"model": MODEL, "input": "Two.", "previous_response_id": "resp_theirs", "stream": stream}
        second = shown(client.post("/v1/responses", json=body))
        assert (second["previous_response_id"], second["store"]) == ("resp_theirs", True)
        assert client.get(f"/v1/responses/{second['id']}").json() == second
        body = {"model": MODEL, "input": "Three.", "previous_response_id": second["id"], "stream": stream}
        third = shown(client.post("/v1/responses", json=body))
        assert third["previous_response_id"] == second["id"]
        listed = client.get(f"/v1/responses/{third['id']}/input_items?order=asc").json()["data"]
        assert texts({"input": listed}) == ["Two.", "two", "Three."]
    sent = provider.received[calls:]
    assert [one["previous_response_id"] for one in sent] == ["resp_theirs"] * 2
    assert [one["store"] for one in sent] == [False, False]
    assert [texts(one) for one in sent] == [["Two."], ["Two.", "two", "Three."]]


def test_an_output_may_answer_a_call_that_only_the_provider_has(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey
) -> None:
    result = {"type": "function_call_output", "call_id": "call_theirs", "output": "1"}
    provider.next(answer("done", "resp_done"))
    provider.next(answer("more", "resp_more_done"))
    with gateway.http(key) as client:
        body = {"model": MODEL, "input": [result], "previous_response_id": "resp_calling"}
        done = shown(client.post("/v1/responses", json=body))["id"]
        body = {"model": MODEL, "input": "More.", "previous_response_id": done}
        assert shown(client.post("/v1/responses", json=body))["previous_response_id"] == done
        twice = client.post("/v1/responses", json={**body, "input": [{**result, "output": "2"}]})
        assert (twice.status_code, "call_theirs" in twice.text) == (400, True)


def test_a_conversation_of_the_providers_is_named_and_it_may_store_the_turn(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey
) -> None:
    provider.next(answer("said", "resp_in_theirs", conversation={"id": "conv_theirs"}))
    with gateway.http(key) as client:
        got = shown(client.post("/v1/responses", json={"model": MODEL, "input": "x", "conversation": "conv_theirs"}))
        assert got["conversation"] == {"id": "conv_theirs"}
        assert client.get(f"/v1/responses/{got['id']}").status_code == 200
        sent = provider.received[-1]
        assert (sent["conversation"], sent["input"], "store" in sent) == ("conv_theirs", "x", False)
        continued = {"model": MODEL, "input": "x", "previous_response_id": got["id"]}
        refused = client.post("/v1/responses", json=continued).json()["error"]
        assert (refused["param"], "conversation" in refused["message"]) == ("previous_response_id", True)
        asks = {"model": MODEL, "conversation": "conv_theirs"}
        assert client.post("/v1/responses/compact", json=asks).json()["error"]["param"] == "conversation"
        assert provider.received[-1] is sent
        assert client.get("/v1/conversations/conv_theirs").status_code == 404


@pytest.mark.parametrize("kind", [{"type": "item_reference"}, {}, {"type": "image_generation_call"}])
def test_an_item_of_the_providers_is_named_and_one_of_ours_is_sent(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey, kind: dict[str, str]
) -> None:
    ours = f"msg_ours_{len(provider.received)}"
    provider.next(answer("ours", f"resp_{ours}", output=[message("ours", ours)]))
    provider.next(answer("named", f"resp_named_{ours}"))
    provider.next(answer("again", f"resp_again_{ours}"))
    theirs = {**kind, "id": "item_theirs"}
    result = {"type": "function_call_output", "call_id": "call_in_theirs", "output": "1"}
    with gateway.http(key) as client:
        shown(client.post("/v1/responses", json={"model": MODEL, "input": "x"}))
        given = [theirs, {"type": "item_reference", "id": ours}, result]
        named = shown(client.post("/v1/responses", json={"model": MODEL, "input": given}))
        sent = provider.received[-1]["input"]
        assert (sent[0], sent[1]["content"][0]["text"], sent[2]) == (theirs, "ours", result)
        shown(client.post("/v1/responses", json={"model": MODEL, "input": "x", "previous_response_id": named["id"]}))
        assert provider.received[-1]["input"][0] == theirs


FILE = {"type": "input_file", "file_id": "file_theirs"}
NAMED: list[dict[str, Any]] = [
    {"prompt": {"id": "pmpt_theirs"}},
    {"input": [{"type": "message", "role": "user", "content": [FILE]}]},
    {"tools": [{"type": "file_search", "vector_store_ids": ["vs_theirs"]}]},
    {"tools": [{"type": "code_interpreter", "container": "cntr_theirs"}]},
]


@pytest.mark.parametrize("fields", NAMED)
def test_files_prompts_and_stores_pass_as_they_were_sent(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey, fields: dict[str, Any]
) -> None:
    with gateway.http(key) as client:
        calls = len(provider.received)
        provider.next(answer("read", f"resp_read_{calls}"))
        got = shown(client.post("/v1/responses", json={"model": MODEL, "input": "x", **fields}))
        provider.next(answer("read", f"resp_read_more_{calls}"))
        again = {"model": MODEL, "input": "x", **fields, "previous_response_id": got["id"]}
        shown(client.post("/v1/responses", json=again))
    for sent in provider.received[calls:]:
        ((member, value),) = fields.items()
        assert sent[member] == value or sent[member][-1:] == value


@pytest.mark.parametrize(
    "fields", [*NAMED, {"previous_response_id": "resp_theirs"}, {"conversation": "conv_theirs"}]
)  # fmt: skip
def test_where_they_are_refused_nothing_is_sent(
    shared_store: Server, provider: PostOnlyProvider, tmp_path: Path, fields: dict[str, Any]
) -> None:
    calls = len(provider.received)
    refusing = {"state": "gateway", "foreign_ids": "refuse"}
    with running_gateway(shared_store.url, provider.url, tmp_path, route=refusing) as gateway:
        key = gateway.new_key()
        with gateway.http(key) as client:
            got = client.post("/v1/responses", json={"model": MODEL, "input": "x", **fields})
        assert got.status_code in (400, 403, 404)
        assert gateway.balance(key).held == 0
    assert len(provider.received) == calls


def test_what_only_the_provider_can_see_is_held_for(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey
) -> None:
    provider.next(answer("a", "resp_held"))
    with gateway.http(key) as client:
        body = {"model": MODEL, "input": "x", "previous_response_id": "resp_long", "max_output_tokens": 1}
        held = shown(client.post("/v1/responses", json=body))["id"]
        for previous in ("resp_long", held):
            again = {**body, "previous_response_id": previous}
            dry = client.post("/v1/responses", json=again, headers={"x-gateway-dry-run": "true"}).json()
            assert held_usd(dry) >= RESERVED_USD
        plain = {**body, "previous_response_id": None}
        dry = client.post("/v1/responses", json=plain, headers={"x-gateway-dry-run": "true"}).json()
        assert held_usd(dry) < RESERVED_USD


def test_a_response_from_before_the_gateway_kept_them_goes_on_and_its_length_is_known(
    shared_store: Server, provider: PostOnlyProvider, gateway: RunningGateway, tmp_path: Path
) -> None:
    with running_gateway(shared_store.url, provider.url, tmp_path) as before:
        key = before.new_key()
        provider.next(answer("one", "resp_before", store=True))
        with before.http(key) as client:
            shown(client.post("/v1/responses", json={"model": MODEL, "input": "One."}))
    provider.next(answer("two", "resp_after"))
    with gateway.http(key) as client:
        body = {"model": MODEL, "input": "Two.", "previous_response_id": "resp_before", "max_output_tokens": 1}
        dry = client.post("/v1/responses", json=body, headers={"x-gateway-dry-run": "true"}).json()
        assert held_usd(dry) < RESERVED_USD
        assert shown(client.post("/v1/responses", json=body))["previous_response_id"] == "resp_before"
    assert provider.received[-1]["previous_response_id"] == "resp_before"


def test_a_chain_through_a_deleted_response_stays_refused(
    shared_store: Server, provider: PostOnlyProvider, gateway: RunningGateway, tmp_path: Path
) -> None:
    """It was made before foreign ids passed, under the provider's ids."""
    with running_gateway(shared_store.url, provider.url, tmp_path, route={"state": "gateway"}) as before:
        key, made = before.new_key(), [""]
        with before.http(key) as client:
            for number in range(2):
                provider.next(answer("x", f"resp_through_{number}"))
                body = {"model": MODEL, "input": "x", "previous_response_id": made[-1] or None}
                made.append(shown(client.post("/v1/responses", json=body))["id"])
            client.delete("/v1/responses/resp_through_0")
    calls = len(provider.received)
    with gateway.http(key) as client:
        got = client.post("/v1/responses", json={"model": MODEL, "input": "x", "previous_response_id": made[-1]})
    assert (got.status_code, "resp_through_0" in got.text) == (400, True)
    assert len(provider.received) == calls


def test_a_summary_stands_for_what_the_provider_has_too(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey
) -> None:
    trigger = {"type": "compaction_trigger"}
    with gateway.http(key) as client:
        provider.next(answer("the summary", "resp_summed"))
        body = {"model": MODEL, "input": [trigger], "previous_response_id": "resp_theirs"}
        got = client.post("/v1/responses", json={**body, "input": [{"role": "user", "content": "x"}, trigger]})
        assert shown(got)["output"][0]["type"] == "compaction"
        assert provider.received[-1]["previous_response_id"] == "resp_theirs"
        provider.next(answer("on", "resp_after_summary"))
        summed = shown(got)["id"]
        shown(client.post("/v1/responses", json={**body, "input": "x", "previous_response_id": summed}))
        sent = provider.received[-1]
        assert "previous_response_id" not in sent
        assert "the summary" in json.dumps(sent["input"])
        for text in ("summed up", "answered"):
            provider.next(answer(text, f"resp_{text.replace(' ', '_')}"))
        due = {**body, "input": "x", "context_management": [{"type": "compaction", "compact_threshold": 0}]}
        assert shown(client.post("/v1/responses", json=due))["output"][0]["type"] == "compaction"
        asked, answered = provider.received[-2:]
        assert (asked["previous_response_id"], "previous_response_id" in answered) == ("resp_theirs", False)


def test_it_goes_on_in_the_background_and_on_a_socket(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey
) -> None:
    with gateway.http(key) as client:
        provider.next(answer("x", "gen-1"))
        body = {"model": MODEL, "input": "Behind.", "previous_response_id": "resp_theirs", "background": True}
        identifier = shown(client.post("/v1/responses", json=body))["id"]
        wait_until_sync(
            lambda: client.get(f"/v1/responses/{identifier}").json()["status"] == "completed", what="it is completed"
        )
        assert provider.received[-1]["previous_response_id"] == "resp_theirs"
    with Socket(gateway.url, key.text) as socket:
        previous = "resp_theirs"
        for text in ("one", "two"):
            provider.next(answer(f"heard {text}", f"resp_socket_{text}"))
            turn = {"model": MODEL, "input": text, "previous_response_id": previous, "store": False}
            status, last = socket.turn(turn)
            assert status == 200, last
            previous = last["response"]["id"]
        sent = provider.received[-1]
        assert (sent["previous_response_id"], texts(sent)) == ("resp_theirs", ["one", "heard one", "two"])
        provider.next(answer("said", "resp_socket_conversation"))
        turn = {"model": MODEL, "input": "x", "conversation": "conv_theirs", "store": False}
        status, last = socket.turn(turn)
        assert status == 200, last
        turn = {"model": MODEL, "input": "y", "previous_response_id": last["response"]["id"], "store": False}
        assert socket.turn(turn)[1]["error"]["code"] == "previous_response_not_found"
        assert provider.received[-1]["conversation"] == "conv_theirs"


@pytest.fixture(scope="module", params=["false", "omit"])
def sharing(
    request: pytest.FixtureRequest,
    shared_store: Server,
    post_only: PostOnlyProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningGateway]:
    """A gateway whose provider may store what it answers."""
    directory, route = tmp_path_factory.mktemp("sharing"), {**PASSES, "upstream_store": request.param}
    with running_gateway(shared_store.url, post_only.url, directory, route=route, state={"ttl_s": 60}) as running:
        yield running


async def expire(gateway: RunningGateway, key: NewKey, response_id: str) -> None:
    """Makes a response one that was last used long ago."""
    _, _, use, _ = TeamKeys(key.team.id).stored_responses
    await gateway.services.store.run("ZADD", use, "0", response_id)


@pytest.mark.parametrize("how", ["deleted", "expired", "another team's", "not stored"])
def test_what_was_made_here_is_not_looked_for_at_the_provider(
    provider: PostOnlyProvider, sharing: RunningGateway, how: str
) -> None:
    owner, other = sharing.new_key(), sharing.new_key()
    body = {"model": MODEL, "input": "x", "store": how != "not stored"}
    with sharing.http(owner) as client, sharing.http(other) as stranger:
        provider.next(answer("kept", "resp_at_the_provider"))
        made = shown(client.post("/v1/responses", json=body))["id"]
        conversation = client.post("/v1/conversations", json={}).json()["id"]
        asks = stranger if how == "another team's" else client
        if how == "deleted":
            assert client.delete(f"/v1/responses/{made}").status_code == 200
            assert client.delete(f"/v1/conversations/{conversation}").status_code == 200
        elif how == "expired":
            sharing.run(expire(sharing, owner, made))
        calls = len(provider.received)
        refused = asks.post("/v1/responses", json={**body, "previous_response_id": made})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "previous_response_not_found")
        assert asks.get(f"/v1/responses/{made}").status_code == 404
        if how in ("deleted", "another team's"):
            refused = asks.post("/v1/responses", json={**body, "conversation": conversation})
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "conversation_not_found")
        with Socket(sharing.url, (other if asks is stranger else owner).text) as socket:
            last = socket.turn({**body, "previous_response_id": made})[1]
            assert last["error"]["code"] == "previous_response_not_found"
        assert len(provider.received) == calls
        provider.next(answer("theirs", "resp_theirs_too"))
        shown(asks.post("/v1/responses", json={**body, "previous_response_id": "resp_at_the_provider"}))


def test_items_of_deleted_responses_are_not_looked_for_at_a_provider_that_may_store_them(
    provider: PostOnlyProvider, sharing: RunningGateway
) -> None:
    key = sharing.new_key()
    with sharing.http(key) as client:
        provider.next(answer("said", "resp_with_item", output=[message("said", "msg_of_deleted")]))
        made = shown(client.post("/v1/responses", json={"model": MODEL, "input": "x"}))["id"]
        client.delete(f"/v1/responses/{made}")
        provider.next(answer("never kept", "resp_named_item"))
        named = {"model": MODEL, "input": [{"type": "item_reference", "id": "msg_of_deleted"}]}
        got = client.post("/v1/responses", json=named)
    told = next(iter(sharing.services.settings.routes)).upstream_store
    assert got.status_code == (404 if told == "omit" else 200), got.text


def test_a_deleted_response_is_not_asked_for_at_a_provider_that_may_store_it(
    shared_store: Server, provider: PostOnlyProvider, tmp_path: Path
) -> None:
    route = {"state": "gateway", "upstream_store": "omit"}
    with (
        running_gateway(shared_store.url, provider.url, tmp_path, route=route) as gateway,
        gateway.http(gateway.new_key()) as client,
    ):
        provider.next(answer("said", "resp_stored_twice"))
        assert shown(client.post("/v1/responses", json={"model": MODEL, "input": "x"}))["id"] == "resp_stored_twice"
        client.delete("/v1/responses/resp_stored_twice")
        got = client.get("/v1/responses/resp_stored_twice")
        assert (got.status_code, got.json()["error"]["code"]) == (404, "response_not_found")


@given(st.text())
def test_an_id_of_the_gateways_is_told_from_any_other(text: str) -> None:
    made = new_id("resp")
    assert is_own(made)
    assert is_usable_id(made)
    assert not is_own(text)
    assert not is_own(f"conv_{made.partition('_')[2]}")
