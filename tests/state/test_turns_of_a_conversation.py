"""Turns of one conversation at two gateways: one at a time, in the order in which they are admitted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.state.answers import MODEL, answer
from tests.support.gateway import RunningGateway
from tests.support.post_only_provider import PostOnlyProvider


class Talk:
    """One conversation, with a client of each gateway."""

    def __init__(self, provider: PostOnlyProvider, one: httpx.Client, two: httpx.Client) -> None:
        self.provider = provider
        self.one, self.two = one, two
        self.id: str = one.post("/v1/conversations", json={}).json()["id"]
        self.workers = ThreadPoolExecutor(4)

    def ask(self, client: httpx.Client, text: str, **fields: Any) -> httpx.Response:
        body = {"model": MODEL, "input": text, "conversation": self.id, **fields}
        return client.post("/v1/responses", json=body, timeout=60)

    def running(self, text: str, **fields: Any) -> tuple[Future[httpx.Response], threading.Event]:
        """A turn at the first gateway that has reached the provider, and what lets it end."""
        released, calls = threading.Event(), len(self.provider.received)
        self.provider.next(replace(answer(f"<{text}>", f"gen_{text}"), released=released))
        asked = self.workers.submit(self.ask, self.one, text, **fields)
        self.provider.wait_for_calls(calls + 1)
        return asked, released

    @property
    def said(self) -> list[str]:
        items = self.two.get(f"/v1/conversations/{self.id}/items?order=asc&limit=100").json()["data"]
        return [item["content"][0]["text"] for item in items]


@pytest.fixture
def talk(gateways: tuple[RunningGateway, RunningGateway], provider: PostOnlyProvider) -> Iterator[Talk]:
    key = gateways[0].new_key()
    with gateways[0].http(key) as one, gateways[1].http(key) as two:
        talk = Talk(provider, one, two)
        yield talk
        talk.workers.shutdown()


@pytest.mark.parametrize("fields", [{}, {"store": False}], ids=["stored", "not stored"])
def test_a_second_turn_is_refused_by_name_when_the_first_one_takes_long(talk: Talk, fields: Any) -> None:
    first, released = talk.running("one", **fields)
    calls = len(talk.provider.received)
    try:
        refused = talk.ask(talk.two, "two")
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (400, "conversation_locked", "conversation")
        assert len(talk.provider.received) == calls
        assert talk.two.post(f"/v1/conversations/{talk.id}", json={"metadata": {"a": "b"}}).status_code == 200
    finally:
        released.set()
    assert first.result().status_code == 200
    talk.provider.next(answer("<two>", "gen_two"))
    assert talk.ask(talk.two, "two").status_code == 200
    assert talk.said == [*([] if fields else ["one", "<one>"]), "two", "<two>"]


def test_a_second_turn_waits_and_knows_what_the_first_one_has_said(talk: Talk) -> None:
    first, released = talk.running("one")
    talk.provider.next(answer("<two>", "gen_two"))
    second = talk.workers.submit(talk.ask, talk.two, "two")
    released.set()
    assert {first.result().status_code, second.result().status_code} == {200}
    assert len(talk.provider.received[-1]["input"]) == 3
    assert talk.said == ["one", "<one>", "two", "<two>"]


def test_a_turn_that_is_refused_or_fails_leaves_the_conversation_free_and_as_it_was(talk: Talk) -> None:
    output = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
    assert talk.ask(talk.one, "x", model="").status_code == 400
    refused = talk.one.post("/v1/responses", json={"model": MODEL, "input": [output], "conversation": talk.id})
    assert refused.status_code == 400
    talk.provider.next(replace(answer("no", "gen_no"), status=500))
    assert talk.ask(talk.one, "x").status_code >= 500
    talk.provider.next(answer("no", "gen_failed", status="failed"))
    assert talk.ask(talk.one, "x").json()["status"] == "failed"
    talk.provider.next(answer("<y>", "gen_y"))
    assert talk.ask(talk.two, "y").status_code == 200
    assert talk.said == ["y", "<y>"]
