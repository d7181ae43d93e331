"""Items that come again: each is taken once, in every later turn, and no two items of a list share an id."""

from __future__ import annotations

from typing import Any

import pytest

from tests.state.answers import MODEL, answer
from tests.support.gateway import NewKey, RunningGateway
from tests.support.post_only_provider import PostOnlyProvider

CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "1"}


@pytest.mark.parametrize("by", ["previous_response_id", "conversation"])
def test_a_call_that_is_sent_again_beside_its_output_goes_on_for_many_turns(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey, by: str
) -> None:
    with gateway.http(key) as client:
        named = client.post("/v1/conversations", json={}).json()["id"] if by == "conversation" else None

        def turn(given: Any, number: int, **fields: Any) -> None:
            nonlocal named
            provider.next(answer("said", f"resp_{by}_{number}", **fields))
            body = {"model": MODEL, "input": given, by: named}
            got = client.post("/v1/responses", json=body)
            assert got.status_code == 200, got.text
            named = named if by == "conversation" else got.json()["id"]

        turn("Call it.", 1, output=[{**CALL, "status": "completed"}])
        turn([CALL, RESULT], 2)
        turn([CALL, RESULT, {"role": "user", "content": "Go on."}], 3)
        turn("And on.", 4)
        kinds = [item["type"] for item in provider.received[-1]["input"]]
        assert [kinds.count(item["type"]) for item in (CALL, RESULT)] == [1, 1]
        path = f"/v1/conversations/{named}/items" if by == "conversation" else f"/v1/responses/{named}/input_items"
        listed = client.get(f"{path}?order=asc").json()["data"]
        assert [item["type"] for item in listed[: len(kinds)]] == kinds


def test_items_of_one_id_that_say_something_else_are_all_taken(
    provider: PostOnlyProvider, gateway: RunningGateway, key: NewKey
) -> None:
    reasoning = {"type": "reasoning", "id": "rs_0", "summary": [], "encrypted_content": "first"}
    with gateway.http(key) as client:
        provider.next(answer("said", "resp_first", output=[reasoning, {**CALL, "status": "completed"}]))
        first = client.post("/v1/responses", json={"model": MODEL, "input": "Call it."}).json()
        again = [{**reasoning, "summary": None, "encrypted_content": "second"}, {**CALL, "call_id": "call_2"}]
        results = [RESULT, {**RESULT, "call_id": "call_2"}]
        without = {name: value for name, value in reasoning.items() if name != "encrypted_content"}
        provider.next(answer("said", "resp_second"))
        body = {"model": MODEL, "previous_response_id": first["id"], "input": [without, RESULT, *again, results[1]]}
        got = client.post("/v1/responses", json=body)
        assert got.status_code == 200, got.text
    sent = provider.received[-1]["input"]
    assert [item.get("encrypted_content") for item in sent if item["type"] == "reasoning"] == ["first", "second"]
    assert [item["call_id"] for item in sent if item["type"] == "function_call"] == ["call_1", "call_2"]


def test_items_that_are_added_under_one_id_are_listed_read_and_deleted_one_by_one(
    gateway: RunningGateway, key: NewKey
) -> None:
    with gateway.http(key) as client:
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}/items"

        def add(*texts: str) -> list[str]:
            items = [{"type": "message", "id": "msg_0", "role": "user", "content": text} for text in texts]
            got = client.post(path, json={"items": items}).json()
            assert [item["content"][0]["text"] for item in got["data"]] == list(texts)
            assert (got["first_id"], got["last_id"]) == (got["data"][0]["id"], got["data"][-1]["id"])
            return [item["id"] for item in got["data"]]

        def listed() -> dict[str, str]:
            data = client.get(f"{path}?order=asc").json()["data"]
            found = {item["id"]: item["content"][0]["text"] for item in data}
            assert len(found) == len(data)
            return found

        ids = [*add("one", "two"), *add("three"), *add("four")]
        assert ids[0] == "msg_0"
        assert list(listed()) == ids
        for identifier, text in listed().items():
            assert client.get(f"{path}/{identifier}").json()["content"][0]["text"] == text
        for gone in (ids[0], ids[2]):
            assert client.delete(f"{path}/{gone}").status_code == 200
        again = add("five")
        assert listed() == dict(zip([ids[1], ids[3], *again], ["two", "four", "five"], strict=True))
        assert again != ["msg_0"], "others have been listed beside one that had it"


def test_what_is_added_to_a_conversation_is_an_item(gateway: RunningGateway, key: NewKey) -> None:
    with gateway.http(key) as client:
        for path in ("/v1/conversations", f"/v1/conversations/{client.post('/v1/conversations').json()['id']}/items"):
            refused: list[Any] = ["text", {}, {"text": "no kind"}, {"type": "item_reference", "id": "msg_of_nobody"}]
            for items in ([item] for item in refused):
                got = client.post(path, json={"items": items})
                assert got.status_code in (400, 404), got.text
                assert got.json()["error"]["param"] == "items"
