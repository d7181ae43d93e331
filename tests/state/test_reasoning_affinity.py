"""Reasoning in encrypted form goes back to the key that made it, and is left out where nobody can read it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.state.answers import COST_NANO_USD, MODEL, answer, message
from tests.support.gateway import NewKey, RunningGateway, running_gateway
from tests.support.post_only_provider import Answer, PostOnlyProvider
from tests.support.servers import Server
from tests.support.waiting import wait_until_sync

KEYS = ["key-number-one", "key-number-two", "key-number-three"]
THOUGHT = {"type": "reasoning", "id": "rs_0", "summary": [], "encrypted_content": "sealed-by-the-provider"}
REFUSAL = {
    "error": {
        "message": "The encrypted content could not be verified.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_encrypted_content",
    }
}


@pytest.fixture
def provider() -> Iterator[PostOnlyProvider]:
    with PostOnlyProvider.serving() as serving:
        yield serving


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, key in enumerate(KEYS):
        monkeypatch.setenv(f"PROVIDER_KEY_{number}", key)


def thinking(identifier: str) -> Answer:
    return answer("", identifier, output=[THOUGHT, message("thought")])


def running(store: Server, provider: PostOnlyProvider, directory: Path, log: io.StringIO, *numbers: int) -> Any:
    keys = [f"env:PROVIDER_KEY_{number}" for number in numbers]
    route = {"state": "gateway"}
    return running_gateway(store.url, provider.url, directory, route=route, upstream={"api_keys": keys}, log_to=log)


def go_on(gateway: RunningGateway, key: NewKey, before: str, *, stream: bool = False) -> Any:
    with gateway.http(key) as client:
        body = {"model": MODEL, "input": "Go on.", "previous_response_id": before, "stream": stream}
        return client.post("/v1/responses", json=body)


@pytest.mark.parametrize("stream", [False, True])
def test_a_chain_stays_on_the_key_that_made_its_reasoning(
    shared_store: Server, provider: PostOnlyProvider, tmp_path: Path, stream: bool
) -> None:
    log = io.StringIO()
    with running(shared_store, provider, tmp_path, log, 0, 1, 2) as gateway:
        key = gateway.new_key()
        for number in range(6):  # whichever key makes it
            provider.next(thinking(f"resp_thought_{stream}_{number}"))
            with gateway.http(key) as client:
                body = {"model": MODEL, "input": f"Think {number}.", "stream": stream, "prompt_cache_key": str(number)}
                assert client.post("/v1/responses", json=body).status_code == 200
            maker = provider.keys[-1]
            for text in ("one", "two"):
                provider.next(answer(text, f"resp_{text}_{stream}_{number}"))
                before = f"resp_thought_{stream}_{number}" if text == "one" else f"resp_one_{stream}_{number}"
                assert go_on(gateway, key, before, stream=stream).status_code == 200
                assert provider.keys[-1] == maker
                assert "sealed-by-the-provider" in json.dumps(provider.received[-1])
        assert len(set(provider.keys)) > 1, "several keys made some"
    assert '"chosen_by":"reasoning"' in log.getvalue()


def test_when_the_key_is_gone_the_reasoning_is_left_out_and_the_log_says_so(
    shared_store: Server, provider: PostOnlyProvider, tmp_path: Path
) -> None:
    log = io.StringIO()
    with running(shared_store, provider, tmp_path / "one", log, 0) as gateway:
        key = gateway.new_key()
        provider.next(thinking("resp_gone"))
        with gateway.http(key) as client:
            client.post("/v1/responses", json={"model": MODEL, "input": "Think."})
    with running(shared_store, provider, tmp_path / "two", log, 1, 2) as gateway:
        provider.next(answer("fine", "resp_after_gone"))
        assert go_on(gateway, key, "resp_gone").status_code == 200
    assert provider.keys[-1] in KEYS[1:]
    assert "sealed-by-the-provider" not in json.dumps(provider.received[-1])
    assert "thought" in json.dumps(provider.received[-1])
    assert "reasoning_left_out" in log.getvalue()


@pytest.mark.parametrize("stream", [False, True])
def test_when_the_provider_refuses_it_the_turn_is_tried_once_more_without(
    shared_store: Server, provider: PostOnlyProvider, tmp_path: Path, stream: bool
) -> None:
    log = io.StringIO()
    with running(shared_store, provider, tmp_path, log, 0) as gateway:
        key = gateway.new_key()
        provider.next(thinking(f"resp_refused_{stream}"))
        with gateway.http(key) as client:
            client.post("/v1/responses", json={"model": MODEL, "input": "Think."})
        calls = len(provider.received)
        provider.next(Answer(REFUSAL, 400))
        provider.next(answer("fine", f"resp_again_{stream}"))
        got = go_on(gateway, key, f"resp_refused_{stream}", stream=stream)
        assert (got.status_code, len(provider.received)) == (200, calls + 2)
        assert "fine" in got.text
        first, second = (json.dumps(call) for call in provider.received[calls:])
        assert ("sealed-by-the-provider" in first, "sealed-by-the-provider" in second) == (True, False)
        wait_until_sync(lambda: not gateway.balance(key).held, what="nothing is held")
        assert gateway.balance(key).spent == 2 * COST_NANO_USD
    assert "reasoning_left_out" in log.getvalue()


def test_a_second_refusal_is_the_answer(shared_store: Server, provider: PostOnlyProvider, tmp_path: Path) -> None:
    log = io.StringIO()
    with running(shared_store, provider, tmp_path, log, 0) as gateway:
        key = gateway.new_key()
        provider.next(thinking("resp_twice"))
        with gateway.http(key) as client:
            client.post("/v1/responses", json={"model": MODEL, "input": "Think."})
        calls = len(provider.received)
        provider.next(Answer(REFUSAL, 400))
        provider.next(Answer(REFUSAL, 400))
        got = go_on(gateway, key, "resp_twice")
        assert (got.status_code, got.json()["error"]["code"]) == (400, "invalid_encrypted_content")
        assert len(provider.received) == calls + 2


def test_a_body_that_gets_shorter_in_the_background_takes_no_room_for_good(
    shared_store: Server, provider: PostOnlyProvider, tmp_path: Path
) -> None:
    large = {**THOUGHT, "encrypted_content": "sealed" * 60_000}
    room = {"background_max_bytes": 1024 * 1024}
    with running_gateway(
        shared_store.url, provider.url, tmp_path, route={"state": "gateway"}, state=room
    ) as gateway, gateway.http(gateway.new_key()) as client:  # fmt: skip
        for _ in range(4):
            provider.next(Answer(REFUSAL, 400))
            provider.next(answer("fine", "gen"))
            body = {"model": MODEL, "input": [large, {"role": "user", "content": "x"}], "background": True}
            made = client.post("/v1/responses", json=body).json()
            assert made.get("status") == "queued", made
            completed = partial(is_completed, client, made["id"])
            wait_until_sync(completed, what="it is completed")


def is_completed(client: httpx.Client, response_id: str) -> bool:
    return bool(client.get(f"/v1/responses/{response_id}").json()["status"] == "completed")
