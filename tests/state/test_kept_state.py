"""Routes whose state the gateway keeps, by the official SDK and on real sockets: what is shown, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest

from tests.state.answers import MODEL, answer, message
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.post_only_provider import Answer, PostOnlyProvider
from tests.support.servers import Server


@pytest.fixture
def sdk(gateway: RunningGateway, key: NewKey) -> Iterator[openai.OpenAI]:
    with gateway.sdk(key) as client:
        yield client


def test_the_sdk_continues_reads_lists_and_deletes(provider: PostOnlyProvider, sdk: openai.OpenAI) -> None:
    provider.next(answer("one", "resp_sdk_1"))
    first = sdk.responses.create(model=MODEL, input="Say one.")
    assert (first.id, first.output_text) == ("resp_sdk_1", "one")
    provider.next(answer("two", "resp_sdk_2"))
    second = sdk.responses.create(model=MODEL, input="Say two.", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert sdk.responses.retrieve(second.id).output_text == "two"
    listed = [item.to_dict() for item in sdk.responses.input_items.list(second.id, order="asc", limit=1)]
    assert [item["role"] for item in listed] == ["user", "assistant", "user"]
    sdk.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError, match="resp_sdk_1") as refused:
        sdk.responses.create(model=MODEL, input="Say three.", previous_response_id=second.id)
    assert refused.value.code == "previous_response_not_found"


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_items_of_several_turns_with_the_same_id_are_listed_page_by_page(
    provider: PostOnlyProvider, sdk: openai.OpenAI, order: Literal["asc", "desc"]
) -> None:
    previous: str | None = None
    texts = ["one", "two", "three"]
    for text in texts:
        provider.next(answer(f"heard {text}", f"resp_same_{order}_{text}"))
        item: Any = {"type": "message", "id": "msg_0", "role": "user", "content": text}
        previous = sdk.responses.create(model=MODEL, input=[item], previous_response_id=previous or openai.omit).id
    listed = sdk.responses.input_items.list(str(previous), order=order, limit=1)
    pages: list[dict[str, Any]] = [item.to_dict() for item in listed]
    said = [item["content"][0]["text"] for item in pages if item["role"] == "user"]
    assert said == (texts if order == "asc" else texts[::-1])
    assert len({item["id"] for item in pages}) == len(pages) == 5


def test_a_provider_that_repeats_ids_leaves_each_item_of_a_conversation_its_own(
    provider: PostOnlyProvider, sdk: openai.OpenAI
) -> None:
    conversation = sdk.conversations.create().id
    for text in ("one", "two", "three"):
        provider.next(answer(text, f"resp_repeats_{text}", output=[message(text, "msg_1")]))
        sdk.responses.create(model=MODEL, input=f"Say {text}.", conversation=conversation)

    def said() -> dict[str, str]:
        listed: Any = sdk.conversations.items.list(conversation, order="asc", limit=1)
        pages = [item.to_dict() for item in listed]
        assert len({item["id"] for item in pages}) == len(pages)
        return {item["id"]: item["content"][0]["text"] for item in pages if item["role"] == "assistant"}

    before = said()
    assert list(before.values()) == ["one", "two", "three"]
    assert said() == before
    for identifier, text in before.items():
        found: Any = sdk.conversations.items.retrieve(identifier, conversation_id=conversation)
        assert found.content[0].text == text
    second = list(before)[1]
    provider.next(answer("again", "resp_repeats_again", output=[message("again", "msg_1")]))
    named: Any = {"type": "item_reference", "id": second}
    sdk.responses.create(model=MODEL, input=[named, {"role": "user", "content": "x"}], conversation=conversation)
    sdk.conversations.items.delete(second, conversation_id=conversation)
    sdk.conversations.items.delete("msg_1", conversation_id=conversation)
    left = said()
    assert not {second, "msg_1"} & set(left)
    assert list(left.values()) == ["three", "again"], "the item that was named was in the conversation once"
    with pytest.raises(openai.NotFoundError):
        sdk.conversations.items.delete("msg_1", conversation_id=conversation)
    assert said() == left


def test_a_provider_that_repeats_ids_leaves_each_item_of_a_chain_its_own(
    provider: PostOnlyProvider, sdk: openai.OpenAI
) -> None:
    previous: str | None = None
    for text in ("one", "two", "three"):
        provider.next(answer(text, f"resp_chain_{text}", output=[message(text, "msg_1")]))
        created = sdk.responses.create(model=MODEL, input=f"Say {text}.", previous_response_id=previous or openai.omit)
        previous = created.id
    items = [item.to_dict() for item in sdk.responses.input_items.list(str(previous), order="asc", limit=1)]
    ids: list[Any] = [item["id"] for item in items]
    assert len(set(ids)) == len(ids) == 5
    for identifier in ids:
        provider.next(answer("more", f"resp_chain_of_{identifier}"))
        named: Any = [{"type": "item_reference", "id": identifier}, {"role": "user", "content": "x"}]
        sdk.responses.create(model=MODEL, input=named, previous_response_id=str(previous))


def test_the_sdk_replays_a_stored_response_as_a_stream(provider: PostOnlyProvider, sdk: openai.OpenAI) -> None:
    provider.next(answer("hello", "resp_replay"))
    sdk.responses.create(model=MODEL, input="Say hello.")
    events = list(sdk.responses.retrieve("resp_replay", stream=True))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "hello"
    rest = list(sdk.responses.retrieve("resp_replay", stream=True, starting_after=events[2].sequence_number))
    assert [event.sequence_number for event in rest] == [event.sequence_number for event in events[3:]]


def test_the_sdk_streams_and_continues_what_it_streamed(provider: PostOnlyProvider, sdk: openai.OpenAI) -> None:
    provider.next(answer("streamed", "resp_streamed"))
    with sdk.responses.stream(model=MODEL, input="Stream.") as stream:
        final = stream.get_final_response()
    assert (final.id, final.output_text, final.to_dict()["store"]) == ("resp_streamed", "streamed", True)
    provider.next(answer("more", "resp_more"))
    calls = len(provider.received)
    sdk.responses.create(model=MODEL, input="More.", previous_response_id="resp_streamed")
    texts = json.dumps(provider.received[calls]["input"])
    assert ("Stream." in texts, "streamed" in texts, "More." in texts) == (True, True, True)


def test_the_sdk_keeps_conversations(provider: PostOnlyProvider, sdk: openai.OpenAI) -> None:
    made = sdk.conversations.create(metadata={"topic": "tests"})
    provider.next(answer("two", "resp_conversation"))
    response = sdk.responses.create(model=MODEL, input="one", conversation=made.id)
    assert response.conversation is not None
    assert response.conversation.id == made.id
    items = list(sdk.conversations.items.list(made.id, order="asc"))
    assert len(items) == 2
    one: Any = sdk.conversations.items.retrieve(str(items[0].id), conversation_id=made.id)
    assert one.content[0].text == "one"
    sdk.conversations.items.delete(str(items[0].id), conversation_id=made.id)
    assert len(list(sdk.conversations.items.list(made.id))) == 1
    sdk.conversations.items.create(made.id, items=[{"role": "user", "content": str(n)} for n in range(25)])
    assert len(list(sdk.conversations.items.list(made.id, limit=10))) == 26
    assert sdk.conversations.update(made.id, metadata={"topic": "more"}).metadata == {"topic": "more"}
    assert sdk.conversations.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.conversations.retrieve(made.id)


@pytest.mark.parametrize("identifier", ["gen-1", "resp_" + "x" * 80, 7], ids=["prefix", "long", "number"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_id_that_clients_cannot_use_is_replaced_everywhere(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey, identifier: Any, stream: bool
) -> None:
    provider.next(answer("x", identifier))
    body = {"model": MODEL, "input": "x", "stream": stream}
    with gateway.http(key) as client:
        got = client.post("/v1/responses", json=body)
        data = [json.loads(line[6:]) for line in got.text.split("\n") if line.startswith("data: {")]
        shown = [event["response"]["id"] for event in data if "response" in event] if stream else [got.json()["id"]]
        assert len(set(shown)) == 1
        assert shown[0].startswith("resp_")
        assert len(shown[0]) <= 64
        assert client.get(f"/v1/responses/{shown[0]}").json()["output"][0]["content"][0]["text"] == "x"


@pytest.mark.parametrize("stream", [False, True])
def test_an_id_that_is_taken_is_replaced_and_the_first_response_stays(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey, stream: bool
) -> None:
    taken = f"resp_taken_{stream}"
    for text in ("first", "second"):
        provider.next(answer(text, taken))
    with gateway.http(key) as client:
        client.post("/v1/responses", json={"model": MODEL, "input": "x"})
        again = client.post("/v1/responses", json={"model": MODEL, "input": "x", "stream": stream}).text
        assert taken not in again
        assert client.get(f"/v1/responses/{taken}").json()["output"][0]["content"][0]["text"] == "first"


def test_a_long_chain_is_held_and_charged_as_input(provider: PostOnlyProvider, gateway: RunningGateway) -> None:
    poor = gateway.new_key()
    provider.next(answer("a", "resp_poor"))
    with gateway.http(poor) as client:
        large = {"model": MODEL, "input": "word " * 20_000, "max_output_tokens": 1}
        assert client.post("/v1/responses", json=large).status_code == 200
        calls = len(provider.received)
        again = {"model": MODEL, "input": "x", "max_output_tokens": 1, "previous_response_id": "resp_poor"}
        dry = client.post("/v1/responses", json=again, headers={"x-gateway-dry-run": "true"}).json()
        assert dry["hold"]["input_tokens"] > 20_000
        assert len(provider.received) == calls


def test_a_response_of_another_team_reads_as_one_that_never_was(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey
) -> None:
    provider.next(answer("mine", "resp_mine"))
    with gateway.http(key) as mine, gateway.http(gateway.new_key()) as theirs:
        mine.post("/v1/responses", json={"model": MODEL, "input": "x"})
        for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")]:
            known = theirs.request(method, f"/v1/responses/resp_mine{path}")
            unknown = theirs.request(method, f"/v1/responses/resp_none{path}")
            assert known.status_code == unknown.status_code == 404
            assert known.text.replace("resp_mine", "resp_none") == unknown.text
        assert mine.get("/v1/responses/resp_mine").status_code == 200


@pytest.mark.parametrize("kind", [{"type": "item_reference"}, {}, {"type": "image_generation_call"}])
def test_a_reference_to_what_the_gateway_has_not_made_is_refused(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey, kind: dict[str, str]
) -> None:
    identifier = f"msg_of_{gateway.new_key().id}"
    provider.next(answer("mine", f"resp_{identifier}", output=[message("mine", identifier)]))
    with gateway.http(key) as mine, gateway.http(gateway.new_key()) as theirs:
        mine.post("/v1/responses", json={"model": MODEL, "input": "x"})
        calls = len(provider.received)
        for named in (identifier, "msg_of_nobody"):
            refused = theirs.post("/v1/responses", json={"model": MODEL, "input": [{**kind, "id": named}]})
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "item_not_found")
        assert len(provider.received) == calls


def test_reading_costs_nothing_and_counts_against_no_limit(provider: PostOnlyProvider, gateway: RunningGateway) -> None:
    key = gateway.new_key(limits={"rpm": 1})
    provider.next(answer("x", "resp_polled"))
    with gateway.http(key) as client:
        client.post("/v1/responses", json={"model": MODEL, "input": "x"})
        before = gateway.settled_balance(key)
        assert {client.get("/v1/responses/resp_polled").status_code for _ in range(20)} == {200}
        assert gateway.settled_balance(key) == before


def test_a_dead_key_reads_nothing_that_is_kept(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey
) -> None:
    provider.next(answer("x", "resp_dead"))
    with gateway.http(key) as client:
        client.post("/v1/responses", json={"model": MODEL, "input": "x"})
        name = gateway.services.accounts
        assert name is not None

        async def disable() -> None:
            from gateway.store.keyspace import TeamKeys  # noqa: PLC0415 - the one place that writes past the API

            await gateway.services.store.run("HSET", TeamKeys(key.team.id).key(key.id), "status", "disabled")

        gateway.run(disable())
        assert client.get("/v1/responses/resp_dead").status_code == 401
        continued = {"model": MODEL, "input": "x", "previous_response_id": "resp_dead"}
        assert client.post("/v1/responses", json=continued).status_code == 401


def test_a_route_that_keeps_nothing_continues_nothing(
    shared_store: Server, provider: PostOnlyProvider, tmp_path: Path
) -> None:
    with running_gateway(shared_store.url, provider.url, tmp_path, route={"state": "none"}) as nothing:
        provider.next(answer("x", "resp_nothing"))
        with nothing.http(nothing.new_key()) as client:
            assert client.post("/v1/responses", json={"model": MODEL, "input": "x"}).status_code == 200
            assert client.get("/v1/responses/resp_nothing").status_code == 404
            again = {"model": MODEL, "input": "x", "previous_response_id": "resp_nothing"}
            assert client.post("/v1/responses", json=again).json()["error"]["code"] == "previous_response_not_found"
            assert client.post("/v1/conversations", json={}).status_code == 405


def test_a_stream_that_breaks_is_kept_as_failed_under_the_id_that_was_shown(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey
) -> None:
    cut = {"type": "response.output_text.delta", "delta": "hal", "output_index": 0, "item_id": "m", "content_index": 0}
    broken = answer("half", "gen-broken")
    provider.next(Answer(broken.response, stream={"item_events": [], "terminal": cut}, ends=False))
    with gateway.http(key) as client:
        got = client.post("/v1/responses", json={"model": MODEL, "input": "x", "stream": True})
        data = [json.loads(line[6:]) for line in got.text.split("\n") if line.startswith("data: {")]
        shown = {event["response"]["id"] for event in data if "response" in event}
        assert len(shown) == 1
        assert data[-1]["type"] == "response.failed"
        kept = client.get(f"/v1/responses/{shown.pop()}").json()
        assert kept["status"] == "failed"
        again = {"model": MODEL, "input": "x", "previous_response_id": kept["id"]}
        assert client.post("/v1/responses", json=again).json()["error"]["param"] == "previous_response_id"


def test_input_tokens_are_those_of_the_hold_with_all_that_is_continued(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey, sdk: openai.OpenAI
) -> None:
    provider.next(answer("word " * 1000, "resp_counted"))
    sdk.responses.create(model=MODEL, input="Say much.")
    calls = len(provider.received)
    body = {"model": MODEL, "input": "x", "previous_response_id": "resp_counted"}
    with gateway.http(key) as client:
        dry = client.post("/v1/responses", json=body, headers={"x-gateway-dry-run": "true"}).json()
    counted = sdk.responses.input_tokens.count(model=MODEL, input="x", previous_response_id="resp_counted")
    assert counted.to_dict() == {"object": "response.input_tokens", "input_tokens": dry["hold"]["input_tokens"]}
    assert counted.input_tokens > 1000
    assert sdk.responses.input_tokens.count(model=MODEL).input_tokens >= 0
    with pytest.raises(openai.BadRequestError):
        sdk.responses.input_tokens.count(model=MODEL, input="x", previous_response_id="resp_unknown")
    assert len(provider.received) == calls
