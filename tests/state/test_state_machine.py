"""Any order of creating, continuing, forking, deleting, cancelling, following and compacting, over two gateways.

A model says what each call must answer, and what the provider must receive. The books are exact after each run.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, multiple, rule, run_state_machine_as_test

from gateway.ledger.verification import verify
from tests.state.answers import MODEL, answer
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.servers import Server
from tests.support.specification import validate, validate_event
from tests.support.waiting import wait_until_sync

TERMINAL = ("completed", "cancelled")


@dataclass
class Made:
    """A response of the model. `said`: its own input and output, as texts. `cuts`: it stands for what came before.

    `asked`: its own input, as a list shows it: texts, and kinds of other items. `talk`: the conversation in which it
    was made, and `before` what that held then.
    """

    id: str
    parent: Made | None
    said: list[str]
    stored: bool
    status: str = "completed"
    deleted: bool = False
    background: bool = False
    released: threading.Event | None = None
    events: list[dict[str, Any]] | None = None
    cuts: bool = False
    talk: Talk | None = None
    before: Sequence[str] = ()
    asked: Sequence[str] = ()

    @property
    def listed(self) -> list[str] | None:
        """The input that it was made from, less what was deleted. None: a summary in it was deleted."""
        found, turn = list(self.asked), self
        while turn.parent is not None:
            turn = turn.parent
            if turn.cuts:
                return None if turn.deleted else ["compaction", *found]
            found = [*(() if turn.deleted else (*turn.asked, turn.said[-1])), *found]
        is_there = turn.talk is not None and not turn.talk.deleted and (turn is self or not turn.deleted)
        return [*(turn.before if is_there else ()), *found]

    @property
    def past(self) -> list[str]:
        """All that a turn that continues it sends, oldest first."""
        before = self.before if self.parent is None or self.cuts else self.parent.past
        return [*before, *self.said]

    @property
    def missing(self) -> str | None:
        """Which response of its chain cannot be read any more."""
        if self.deleted or not self.stored:
            return self.id
        if self.talk is not None and self.talk.deleted and self.before:
            return self.talk.id
        return None if self.parent is None or self.cuts else self.parent.missing


@dataclass
class Talk:
    """A conversation of the model."""

    id: str
    said: list[str] = field(default_factory=list)
    deleted: bool = False


class States(RuleBasedStateMachine):
    """The state of one team, on two gateways."""

    provider: PostOnlyProvider
    gateways: tuple[RunningGateway, RunningGateway]

    def __init__(self) -> None:
        super().__init__()
        self.provider.forget()  # an example that failed may have left an answer
        self.key: NewKey = self.gateways[0].new_key()
        self.clients = [gateway.http(self.key) for gateway in self.gateways]
        self.count = 0
        self.held: list[Made] = []

    made = Bundle("made")
    talks = Bundle("talks")
    on = st.sampled_from([0, 1])

    def word(self) -> str:
        self.count += 1
        return f"word-{self.key.id}-{self.count}."

    def ask(self, on: int, body: dict[str, Any], past: list[str], path: str = "/v1/responses") -> httpx.Response:
        """One turn. What reaches the provider must be the past and the new input, once each and in this order."""
        calls = len(self.provider.received)
        got = self.clients[on].post(path, json={"model": MODEL, **body})
        if got.status_code == 200:
            self.provider.wait_for_calls(calls + 1)
            text = json.dumps(self.provider.received[calls]["input"])
            places = [text.find(word) for word in past]
            assert places == sorted(places)
            assert -1 not in places
            assert all(text.count(word) == 1 for word in past)
            assert text.count(f"word-{self.key.id}-") == len(past), "nothing of another chain"
        return got

    @staticmethod
    def response_of(got: httpx.Response) -> dict[str, Any]:
        assert got.status_code == 200, got.text
        if not got.headers["content-type"].startswith("text/event-stream"):
            found: dict[str, Any] = got.json()
            return found
        events = [json.loads(line[6:]) for line in got.text.split("\n") if line.startswith("data: {")]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        last: dict[str, Any] = events[-1]["response"]
        return last

    @rule(target=made, on=on, stream=st.booleans(), store=st.booleans())
    def create(self, on: int, stream: bool, store: bool) -> Made:
        said, told = self.word(), self.word()
        self.provider.next(answer(told, "gen"))
        got = self.response_of(self.ask(on, {"input": said, "stream": stream, "store": store}, [said]))
        assert got["store"] is store
        return Made(got["id"], None, [said, told], store, asked=[said])

    @rule(target=made, on=on, before=made, stream=st.booleans(), summarise=st.booleans())
    def go_on(self, on: int, before: Made, stream: bool, summarise: bool) -> Any:
        said, told = self.word(), self.word()
        item: dict[str, Any] = {"role": "user", "content": said}
        given = [item, {"type": "compaction_trigger"}] if summarise else [item]
        body = {"input": given, "previous_response_id": before.id, "stream": stream}
        calls = len(self.provider.received)
        if before.missing is not None or before.status != "completed":
            got = self.ask(on, body, [])
            assert (got.status_code, len(self.provider.received)) == (400, calls)
            assert got.json()["error"]["param"] == "previous_response_id"
            if before.missing is not None:
                assert before.missing in got.json()["error"]["message"]
            return multiple()
        self.provider.next(answer(told, "gen"))
        past = before.past
        response = self.response_of(self.ask(on, body, [*past, said]))
        assert response["previous_response_id"] == before.id
        if summarise:
            [compaction] = response["output"]
            assert (compaction["type"], told in json.dumps(response)) == ("compaction", False)
            return Made(response["id"], before, [told], stored=True, cuts=True, asked=[said])
        return Made(response["id"], before, [said, told], stored=True, asked=[said])

    @rule(target=made, on=on, stream=st.booleans(), store=st.booleans())
    def create_in_background(self, on: int, stream: bool, store: bool) -> Any:
        if len(self.held) >= 3:
            return multiple()
        said, told, released = self.word(), self.word(), threading.Event()
        self.provider.next(replace(answer(told, "gen"), released=released, shown=3 if stream else 0))
        body = {"input": said, "background": True, "store": store, "stream": stream}
        calls = len(self.provider.received)
        with self.clients[on].stream("POST", "/v1/responses", json={"model": MODEL, **body}) as got:
            line = next(line for line in got.iter_lines() if "{" in line)
        shown = json.loads(line.removeprefix("data: "))
        response = shown.get("response", shown)
        assert response["status"] == "queued"
        validate("ResponseResource", response)
        self.provider.wait_for_calls(calls + 1)
        found = Made(response["id"], None, [said, told], store, "in_progress", background=True, released=released)
        found.asked = [said]
        self.held.append(found)
        return found

    @rule(on=on, place=st.integers(0, 2))
    def finish(self, on: int, place: int) -> None:
        if not self.held:
            return
        found = self.held.pop(place % len(self.held))
        assert found.released is not None
        found.released.set()
        wait_until_sync(lambda: self.status(on, found) == "completed", what="it is completed")
        found.status = "completed"

    @rule(on=on, of=made)
    def cancel(self, on: int, of: Made) -> None:
        got = self.clients[on].post(f"/v1/responses/{of.id}/cancel")
        if of.deleted or not (of.stored or of.background):
            assert got.status_code == 404
        elif not of.background:
            assert got.status_code == 400
        else:
            of.status = "completed" if of.status == "completed" else "cancelled"
            self.held = [one for one in self.held if one is not of]
            assert (got.status_code, got.json()["status"]) == (200, of.status)
            validate("ResponseResource", got.json()) if of.status == "cancelled" else None

    @rule(on=on, of=made)
    def delete(self, on: int, of: Made) -> None:
        got = self.clients[on].delete(f"/v1/responses/{of.id}")
        if of.deleted or not (of.stored or of.background):
            assert got.status_code == 404
            return
        assert got.json() == {"id": of.id, "object": "response", "deleted": True}
        of.deleted = True
        self.held = [one for one in self.held if one is not of]

    @rule(on=on, of=made)
    def read(self, on: int, of: Made) -> None:
        got = self.clients[on].get(f"/v1/responses/{of.id}")
        if of.deleted or not (of.stored or of.background):
            assert got.status_code == 404
            return
        response = got.json()
        assert (response["id"], response["status"], response["store"]) == (of.id, of.status, of.stored)
        if of.status == "completed" and not of.cuts:
            assert response["output"][0]["content"][0]["text"] == of.said[-1]
        listed = self.clients[on].get(f"/v1/responses/{of.id}/input_items?limit=100&order=asc").json()
        ids = [item["id"] for item in listed["data"]]
        assert len(ids) == len(set(ids))
        shown = [item["content"][0]["text"] if item["type"] == "message" else item["type"] for item in listed["data"]]
        assert of.listed is None or shown == of.listed[:100]

    @rule(on=on, of=made, after=st.integers(-1, 12))
    def follow(self, on: int, of: Made, after: int) -> None:
        if of.deleted or not of.background or of.status not in TERMINAL:
            return
        text = self.clients[on].get(f"/v1/responses/{of.id}?stream=true&starting_after={after}").text
        events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
        if after == -1:
            of.events = of.events or events
            for event in events:
                if event["type"] in ("response.created", "response.queued", "response.incomplete"):
                    validate_event(event)
            assert events[-1]["response"]["status"] == of.status
            assert {event["response"]["id"] for event in events if "response" in event} == {of.id}
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
        if of.events is not None:
            assert events == of.events[after + 1 :]

    @rule(target=made, on=on, before=made)
    def compact(self, on: int, before: Made) -> Any:
        if before.missing is not None or before.status != "completed":
            return multiple()
        told, said, last = self.word(), self.word(), self.word()
        self.provider.next(answer(told, "gen"))
        got = self.ask(on, {"previous_response_id": before.id}, before.past, "/v1/responses/compact").json()
        validate("CompactResource", got)
        users = [part["text"] for item in got["output"][:-1] for part in item["content"]]
        self.provider.next(answer(last, "gen"))
        given = [*got["output"], {"role": "user", "content": said}]
        kept = [word for text in users for word in before.past if word in text]
        response = self.response_of(self.ask(1 - on, {"input": given}, [*kept, told, said]))
        asked = [*users, "compaction", said]
        return Made(response["id"], None, [*kept, told, said, last], stored=True, asked=asked)

    @rule(target=talks, on=on)
    def open_conversation(self, on: int) -> Talk:
        return Talk(self.clients[on].post("/v1/conversations", json={}).json()["id"])

    @rule(target=made, on=on, talk=talks, stream=st.booleans(), store=st.booleans())
    def converse(self, on: int, talk: Talk, stream: bool, store: bool) -> Any:
        said, told = self.word(), self.word()
        body = {"input": said, "conversation": talk.id, "stream": stream, "store": store}
        calls = len(self.provider.received)
        if talk.deleted:
            assert (self.ask(on, body, []).status_code, len(self.provider.received)) == (404, calls)
            return multiple()
        self.provider.next(answer(told, "gen"))
        before = list(talk.said)
        response = self.response_of(self.ask(on, body, [*before, said]))
        assert response["conversation"] == {"id": talk.id}
        if store:
            talk.said += [said, told]
        return Made(response["id"], None, [said, told], store, talk=talk, before=before, asked=[said])

    @rule(on=on, talk=talks)
    def list_conversation(self, on: int, talk: Talk) -> None:
        got = self.clients[on].get(f"/v1/conversations/{talk.id}/items?order=asc&limit=100")
        if talk.deleted:
            assert got.status_code == 404
        else:
            assert [item["content"][0]["text"] for item in got.json()["data"]] == talk.said

    @rule(on=on, talk=consumes(talks))
    def delete_conversation(self, on: int, talk: Talk) -> None:
        self.clients[on].delete(f"/v1/conversations/{talk.id}")
        talk.deleted = True

    def status(self, on: int, of: Made) -> str:
        status: str = self.clients[on].get(f"/v1/responses/{of.id}").json()["status"]
        return status

    def teardown(self) -> None:
        for of in self.held:
            if of.released is not None:
                of.released.set()
        gateway = self.gateways[0]
        wait_until_sync(lambda: not gateway.balance(self.key).held, what="nothing is held")
        assert gateway.run(verify(gateway.services.store, self.key.team.id)).differences == ()
        for client in self.clients:
            client.close()


@pytest.fixture(scope="module")
def machine(shared_store: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[States]]:
    route, data = {"state": "gateway"}, tmp_path_factory.mktemp
    with (
        PostOnlyProvider.serving() as provider,
        running_gateway(shared_store.url, provider.url, data("one"), route=route) as one,
        running_gateway(shared_store.url, provider.url, data("two"), route=route) as two,
    ):

        class OnTwo(States):
            pass

        OnTwo.provider, OnTwo.gateways = provider, (one, two)
        yield OnTwo


def test_any_order_of_calls_answers_as_the_model_says(machine: type[States]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=12, stateful_step_count=25))


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_many_orders_of_calls_answer_as_the_model_says(machine: type[States]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=150, stateful_step_count=50))
