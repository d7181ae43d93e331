"""Requests that a program makes by mistake: refused by name, with nothing sent and nothing kept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.state.answers import MODEL, answer
from tests.support.gateway import NewKey, RunningGateway
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.websocket_client import Socket


def test_an_empty_id_is_one_that_is_not_known(gateway: RunningGateway, key: NewKey, provider: PostOnlyProvider) -> None:
    calls = len(provider.received)
    body = {"model": MODEL, "input": "x", "previous_response_id": ""}
    with gateway.http(key) as http:
        got = http.post("/v1/responses", json=body)
        assert (got.status_code, got.json()["error"]["code"]) == (400, "previous_response_not_found")
        assert http.post("/v1/responses/compact", json=body).json()["error"]["code"] == "previous_response_not_found"
        got = http.post("/v1/responses", json={"model": MODEL, "input": "x", "conversation": ""})
        assert (got.status_code, got.json()["error"]["code"]) == (404, "conversation_not_found")
    with Socket(gateway.url, key.text) as socket:
        status, refused = socket.turn(body)
        assert (status, refused["error"]["code"]) == (400, "previous_response_not_found")
    assert len(provider.received) == calls


@pytest.mark.parametrize("name", ["store", "background"])
@pytest.mark.parametrize("value", ["false", 0, 1, "", [], {}])
def test_a_switch_is_true_or_false(
    gateway: RunningGateway, key: NewKey, provider: PostOnlyProvider, name: str, value: Any
) -> None:
    """What was meant not to be stored is not stored because its program wrote "false"."""
    calls = len(provider.received)
    with gateway.http(key) as http:
        got = http.post("/v1/responses", json={"model": MODEL, "input": "x", name: value})
    assert (got.status_code, got.json()["error"]["param"]) == (400, name)
    assert len(provider.received) == calls


def test_a_switch_may_be_null(gateway: RunningGateway, key: NewKey, provider: PostOnlyProvider) -> None:
    provider.next(answer("ok", "resp_null_switches"))
    with gateway.http(key) as http:
        got = http.post("/v1/responses", json={"model": MODEL, "input": "x", "store": None, "background": None}).json()
        assert (got["store"], http.get(f"/v1/responses/{got['id']}").status_code) == (True, 200)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {"items": 5}, "items"),
        ("", {"items": "x"}, "items"),
        ("", {"items": [None]}, "items"),
        ("", {"items": [{}]}, "items"),
        ("", {"metadata": {"a": 1}}, "metadata"),
        ("/{id}", {}, "metadata"),
        ("/{id}", {"metadata": []}, "metadata"),
        ("/{id}/items", {}, "items"),
        ("/{id}/items", {"items": {"role": "user", "content": "x"}}, "items"),
    ],
)
def test_a_wrong_call_of_a_conversation_changes_nothing(
    gateway: RunningGateway, key: NewKey, path: str, body: Any, param: str
) -> None:
    with gateway.http(key) as http:
        made = http.post("/v1/conversations", json={"metadata": {"kept": "yes"}}).json()
        got = http.post("/v1/conversations" + path.format(id=made["id"]), json=body)
        assert (got.status_code, got.json()["error"]["param"]) == (400, param)
        assert http.get(f"/v1/conversations/{made['id']}").json() == made
        assert http.get(f"/v1/conversations/{made['id']}/items").json()["data"] == []


def test_a_compacted_conversation_is_no_stream_whatever_else_is_asked(
    gateway: RunningGateway, key: NewKey, provider: PostOnlyProvider
) -> None:
    provider.next(answer("In short.", "gen"))
    body = {"model": MODEL, "input": "A long story.", "stream": True, "stream_options": {}, "background": True}
    with gateway.http(key) as http:
        got = http.post("/v1/responses/compact", json={**body, "store": True}).json()
    assert (got["object"], got["output"][-1]["type"]) == ("response.compaction", "compaction")
    assert provider.received[-1].keys() & {"stream", "stream_options", "background"} == set()
    assert provider.received[-1]["store"] is False
