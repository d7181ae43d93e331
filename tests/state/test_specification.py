"""Everything that the gateway makes itself is what the specification describes, whatever is asked and answered."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import Phase, given, settings
from openai.types.conversations import Conversation, ConversationDeletedResource
from openai.types.responses import InputTokenCountResponse

from tests.state.answers import MODEL
from tests.support import specification_values as values
from tests.support.gateway import NewKey, RunningGateway
from tests.support.post_only_provider import Answer, PostOnlyProvider
from tests.support.specification import validate, validate_event, validate_message
from tests.support.specification_values import whole_response
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import Socket

Json = dict[str, Any]
LAST = ("response.completed", "response.incomplete", "response.failed")
TRIGGER = {"type": "compaction_trigger"}
SUMMARY = whole_response("A summary.")
COMPACTS = {"context_management": [{"type": "compaction", "compact_threshold": 0}]}
ENDED = ("completed", "incomplete", "failed", "cancelled")


class Producers:
    """One team's client of a gateway that keeps the state. Each method drives one thing that makes answers."""

    def __init__(self, gateway: RunningGateway, provider: PostOnlyProvider, key: NewKey) -> None:
        self.gateway, self.provider, self.key = gateway, provider, key
        self.http = gateway.http(key)

    def post(self, path: str, body: Json, *answers: Json, status: int = 200) -> httpx.Response:
        """One call, for which the provider has these answers."""
        for answer in answers:
            self.provider.next(Answer(answer))
        got = self.http.post(f"/v1/{path}", json=body)
        assert got.status_code == status, got.text
        return got

    def get(self, path: str) -> Json:
        found: Json = self.http.get(f"/v1/{path}").raise_for_status().json()
        return found

    def response(self, body: Json, *answers: Json) -> Json:
        """A JSON answer, its stored form, its replay from each place, its input, and its deletion."""
        shown: Json = self.post("responses", body, *answers).json()
        path = f"responses/{shown['id']}"
        stored = self.get(path)
        for one in (shown, stored):
            validate("ResponseResource", one)
        replayed = valid_events(self.http.get(f"/v1/{path}?stream=true").text)
        assert replayed[-1]["response"] == stored
        for after in (0, len(replayed) - 2):
            assert self.followed(path, after) == replayed[after + 1 :]
        self.listed(f"{path}/input_items")
        deleted = self.http.delete(f"/v1/{path}").json()
        assert deleted == {"id": shown["id"], "object": "response", "deleted": True}
        return shown

    def counted(self, body: Json) -> None:
        """How many tokens an input has, where the provider does not say."""
        asked = {"model": MODEL, "input": body["input"]}
        InputTokenCountResponse.model_validate(self.post("responses/input_tokens", asked).json(), strict=True)

    def followed(self, path: str, after: int) -> list[Json]:
        return valid_events(self.http.get(f"/v1/{path}?stream=true&starting_after={after}").text, whole=False)

    def stream(self, body: Json, *answers: Json) -> list[Json]:
        """The events of an answer."""
        return valid_events(self.post("responses", {**body, "stream": True}, *answers).text)

    def listed(self, path: str) -> list[Json]:
        """All pages of a list of items."""
        found: list[Json] = []
        page: Json = {"has_more": True}
        after = ""
        while page["has_more"]:
            page = self.get(f"{path}?limit=2&order=asc{after}")
            assert page["object"] == "list"
            assert [page["first_id"], page["last_id"]] == [
                page["data"][at]["id"] if page["data"] else None for at in (0, -1)
            ]
            found += page["data"]
            after = f"&after={page['last_id']}"
        for item in found:
            validate("ItemField", item)
        assert len({item["id"] for item in found}) == len(found)
        return found

    def conversation(self, items: list[Json], body: Json, answer: Json) -> None:
        """A conversation with these items, a turn in it, in the background or not, and each of its items alone."""
        created = self.post("conversations", {"items": items, "metadata": {"a": "b"}}).json()
        Conversation.model_validate(created)
        path = f"conversations/{created['id']}"
        said = self.listed(f"{path}/items")
        assert len(said) == len(items)
        turn = self.post("responses", {**body, "conversation": created["id"]}, answer).json()
        if body.get("background"):
            self.ended(turn, answer["status"])
        said = self.listed(f"{path}/items")
        assert (len(said) > len(items)) == (answer["status"] != "failed")
        added = self.post(f"{path}/items", {"items": items}).json()["data"]
        for item in [*said[:2], *added]:
            validate("ItemField", item)
            assert self.get(f"{path}/items/{item['id']}") == item
        for changed in (self.http.delete(f"/v1/{path}/items/{said[0]['id']}"), self.http.get(f"/v1/{path}")):
            Conversation.model_validate(changed.json())
        Conversation.model_validate(self.post(path, {"metadata": {"a": "c"}}).json())
        ConversationDeletedResource.model_validate(self.http.delete(f"/v1/{path}").json())

    def compaction(self, items: list[Json], body: Json, answer: Json) -> None:
        """The three ways to ask for a summary, and what continues it."""
        items = [{"type": "message", "role": "user", "content": "Some of it can be summarised."}, *items]
        asked = {"model": MODEL, "input": items}
        compacted = self.post("responses/compact", asked, SUMMARY).json()
        validate("CompactResource", compacted)
        self.response({**body, "input": [*compacted["output"], *items]}, answer)
        body = {**body, "input": items}
        triggered = {**body, "input": [*items, TRIGGER]}
        self.response(triggered, SUMMARY)
        assert self.stream(triggered, SUMMARY)[-1]["response"]["output"][0]["type"] == "compaction"
        assert self.stream(triggered, whole_response())[-1]["type"] == "response.failed"
        for ended in (
            self.response({**body, **COMPACTS}, SUMMARY, answer),
            self.stream({**body, **COMPACTS}, SUMMARY, answer)[-1]["response"],
        ):
            assert ended["output"][0]["type"] == "compaction"

    def background(self, body: Json, answer: Json) -> None:
        """A response in the background: while it waits, while it runs, at its end, and all its events."""
        asked = {**body, "background": True}
        self.ended(self.post("responses", asked, answer).json(), answer["status"])
        self.ended(self.post("responses", {**asked, "store": False}, answer).json(), answer["status"])
        events = valid_events(self.post("responses", {**asked, "stream": True}, answer).text)
        assert events[-1]["response"]["status"] == answer["status"]
        self.provider.next(Answer({"error": {"message": "No."}}, status=400))
        self.ended(self.http.post("/v1/responses", json=asked).json(), "failed")
        released = threading.Event()
        self.provider.next(Answer(answer, released=released))
        try:
            queued = self.http.post("/v1/responses", json=asked).json()
            cancelled = self.http.post(f"/v1/responses/{queued['id']}/cancel").json()
        finally:
            released.set()
        self.ended(cancelled, "cancelled")

    def ended(self, queued: Json, status: str) -> None:
        """Follows a response to its end."""
        path = f"responses/{queued['id']}"
        polled = [queued]

        def has_ended() -> bool:
            polled.append(self.get(path))
            return polled[-1]["status"] in ENDED

        wait_until_sync(has_ended, what="it has ended")
        for one in polled:
            validate("ResponseResource", one)
        assert polled[-1]["status"] == status
        assert valid_events(self.http.get(f"/v1/{path}?stream=true").text)[-1]["response"] == polled[-1]
        self.listed(f"{path}/input_items")

    def socket(self, body: Json, answer: Json) -> None:
        """A warm-up, what continues it, and errors, as messages."""
        with Socket(self.gateway.url, self.key.text) as socket:
            socket.create(**body, generate=False, store=False)
            warm = valid_messages(socket)
            self.provider.next(Answer(answer))
            socket.create(**body, store=False, previous_response_id=warm[-1]["response"]["id"], stream_id="lane")
            valid_messages(socket, "lane")
            for wrong in ({"previous_response_id": "resp_no"}, {"background": True}, {"model": 3}):
                socket.create(**{**body, **wrong})
                assert valid_messages(socket)[-1]["type"] == "error"
            for status, error in ((400, {"type": 3, "param": ["a"], "code": None}), (503, "overloaded"), (400, None)):
                self.provider.next(Answer({"error": error}, status=status))
                socket.create(**body)
                valid_messages(socket)


def valid_events(text: str, *, whole: bool = True) -> list[Json]:
    """The events of a stream, each valid and numbered. `whole`: from the first one on."""
    assert text.endswith("data: [DONE]\n\n")
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    for event in events:
        validate_event(event)
    first = 0 if whole or not events else events[0]["sequence_number"]
    assert [event["sequence_number"] for event in events] == list(range(first, first + len(events)))
    if whole:
        assert (events[0]["type"], events[-1]["type"] in LAST) == ("response.created", True)
    return events


def valid_messages(socket: Socket, lane: str | None = None) -> list[Json]:
    events = socket.events(lane)
    for event in events:
        validate_message(event)
    return events


@pytest.fixture(scope="module")
def producers(gateway: RunningGateway, post_only: PostOnlyProvider) -> Iterator[Producers]:
    found = Producers(gateway, post_only, gateway.new_key(credits_usd="100000"))
    yield found
    found.http.close()


@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking is slow
@given(values.requests(), values.inputs(), values.item_lists("kept"), values.answers())
def test_everything_that_the_gateway_makes_is_what_the_specification_describes(
    producers: Producers, fields: Json, given_input: Any, items: list[Json], answer: Json
) -> None:
    body = {**fields, "model": MODEL, "input": given_input}
    producers.provider.forget()
    producers.response(body, answer)
    producers.counted(body)
    producers.stream(body, answer)
    producers.conversation(items, body, answer)
    producers.conversation(items, {**body, "background": True}, answer)
    producers.compaction(items, body, answer)
    producers.background(body, answer)
    producers.socket(body, answer)
