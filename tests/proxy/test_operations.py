"""Who may ask for which operation, and which upstream is asked for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import httpx
import openai
import pytest

from gateway.accounts.entities import Changes
from tests.support.admins import admin_client, done, new_team
from tests.support.answering_provider import Answer, AnsweringProvider, Request
from tests.support.dashboard_client import signed_in
from tests.support.gateway import NewKey, RunningGateway, StartGateway

MODEL = "openai/gpt-5.2"
RESPONSE, CHAT = "/v1/responses", "/v1/chat/completions"
BODIES: Mapping[str, dict[str, Any]] = {
    RESPONSE: {"model": MODEL, "input": "x"},
    CHAT: {"model": MODEL, "messages": [{"role": "user", "content": "x"}]},
    "/v1/embeddings": {"model": MODEL, "input": "x"},
    "/v1/images/generations": {"model": MODEL, "prompt": "x"},
    "/v1/messages": {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]},
    "/v1/messages/count_tokens": {"model": MODEL, "messages": [{"role": "user", "content": "x"}]},
}


def answered(gateway: RunningGateway, key: NewKey, path: str, **headers: str) -> httpx.Response:
    with gateway.http(key) as http:
        return http.post(path, json=BODIES[path], headers=headers)


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# What an upstream offers


@pytest.fixture
def other() -> Iterator[AnsweringProvider]:
    """A second provider, which knows one answer to everything."""

    def respond(request: Request) -> Answer:
        if request.path.startswith("/v1/models"):
            return Answer({"object": "list", "data": [{"id": "other/model", "object": "model"}]})
        if request.path.startswith("/v1/embeddings"):
            return Answer(
                {"object": "list", "data": [], "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
            )
        return Answer({"id": "resp_other", "object": "response", "status": "completed", "output": [], "usage": None})

    with AnsweringProvider.serving(respond) as provider:
        yield provider


def with_other(other: AnsweringProvider, operations: list[str], **route: Any) -> dict[str, Any]:
    upstream = {"base_url": other.url, "api_keys": ["env:TEST_UPSTREAM_KEY"], "operations": operations}
    return {"upstreams": {"other": upstream}, "route": {"upstreams": ["other", "simulator"], **route}}


@pytest.mark.parametrize("offered", ["embeddings", "embeddings.*"])
def test_a_route_asks_only_upstreams_that_offer_the_operation(
    start: StartGateway, other: AnsweringProvider, offered: str
) -> None:
    with start(**with_other(other, [offered])) as gateway:
        key = gateway.new_key()
        assert answered(gateway, key, CHAT).json()["object"] == "chat.completion"
        assert other.requests == []
        assert answered(gateway, key, "/v1/embeddings").json()["data"] == []
        assert [request.path for request in other.requests] == ["/v1/embeddings"]


def test_weights_draw_among_the_upstreams_that_offer_it(start: StartGateway, other: AnsweringProvider) -> None:
    with start(**with_other(other, ["responses"], weights=[1_000_000, 1])) as gateway:
        key = gateway.new_key()
        for _ in range(3):
            assert answered(gateway, key, CHAT, session_id="one").status_code == 200
        assert other.requests == []
        assert answered(gateway, key, RESPONSE).json()["id"] == "resp_other"


def only(*operations: str) -> dict[str, Any]:
    return {"upstream": {"operations": list(operations)}}


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_no_upstream_of_the_route_offers_is_a_404_that_names_the_operation(
    start: StartGateway, dry_run: bool
) -> None:
    headers = {"x-gateway-dry-run": "true"} if dry_run else {}
    with start(**only("chat.completions", "messages")) as gateway:
        key = gateway.new_key()
        for path, name in ((RESPONSE, "responses"), ("/v1/images/generations", "images.generations")):
            answer = answered(gateway, key, path, **headers)
            assert error_of(answer) == (404, "operation_not_offered")
            assert f"POST {path} ({name})" in answer.json()["error"]["message"]
        counted = answered(gateway, key, "/v1/messages/count_tokens", **headers)
        assert (counted.status_code, counted.json()["error"]["type"]) == (404, "not_found_error")
        assert gateway.settled_balance(key).held == 0


def test_a_response_is_asked_of_its_maker_only_for_what_that_offers(start: StartGateway) -> None:
    with start(**only("responses", "responses.retrieve")) as gateway, gateway.sdk(gateway.new_key()) as client:
        made = client.responses.create(model=MODEL, input="x")
        assert client.responses.retrieve(made.id).id == made.id
        with pytest.raises(openai.NotFoundError) as refused:
            client.responses.delete(made.id)
        assert refused.value.code == "operation_not_offered"


# What a key and a team may use


PERMITTED = [
    (("chat.completions",), {CHAT}),
    (("responses.*",), {RESPONSE}),
    (("images.*", "embeddings"), {"/v1/images/generations", "/v1/embeddings"}),
    (("messages",), {"/v1/messages"}),
    (("messages.*",), {"/v1/messages", "/v1/messages/count_tokens"}),
    (("*",), set(BODIES)),
    ((), set(BODIES)),
]


@pytest.mark.parametrize("of_the_team", [True, False], ids=["team", "key"])
@pytest.mark.parametrize(("operations", "permitted"), PERMITTED, ids=[str(row[0]) for row in PERMITTED])
def test_keys_and_teams_use_the_operations_that_they_may(
    gateway: RunningGateway, operations: tuple[str, ...], permitted: set[str], of_the_team: bool
) -> None:
    key = gateway.new_key(operations=operations) if of_the_team else gateway.new_key(key_operations=operations)
    for path in BODIES:
        answer = answered(gateway, key, path)
        if path in permitted:
            assert answer.status_code == 200, answer.text
            continue
        assert error_of(answer) == (403, "operation_not_allowed")
        error = answer.json()["error"]
        assert (error["limit"], error["scope"]) == ("operations", "team" if of_the_team else "key")
        assert path.removeprefix("/v1/").replace("/", ".") in error["message"]
    assert gateway.settled_balance(key).held == 0


def test_both_lists_must_permit_it(gateway: RunningGateway) -> None:
    key = gateway.new_key(
        operations=("chat.completions", "embeddings"), key_operations=("chat.completions", "responses")
    )
    assert [answered(gateway, key, path).status_code for path in (CHAT, RESPONSE, "/v1/embeddings")] == [200, 403, 403]


def kept(start: StartGateway) -> AbstractContextManager[RunningGateway]:
    return start(route={"state": "gateway"})


def test_what_the_gateway_keeps_itself_is_for_those_who_may(start: StartGateway) -> None:
    with kept(start) as gateway:
        whole = gateway.new_key()
        with gateway.sdk(whole) as client:
            made = client.responses.create(model=MODEL, input="x")
            conversation = client.conversations.create()
            assert client.responses.retrieve(made.id).id == made.id
            client.conversations.retrieve(conversation.id)
        gateway.run(_permit(gateway, whole, ("responses",)))
        with gateway.sdk(whole) as client:
            for call in (
                lambda: client.responses.retrieve(made.id),
                lambda: client.responses.delete(made.id),
                lambda: client.conversations.retrieve(conversation.id),
                client.conversations.create,
            ):
                with pytest.raises(openai.PermissionDeniedError) as refused:
                    call()
                assert refused.value.code == "operation_not_allowed"
        gateway.run(_permit(gateway, whole, ("responses.*", "conversations")))
        with gateway.sdk(whole) as client:
            assert client.responses.retrieve(made.id).id == made.id
            client.conversations.retrieve(conversation.id)


async def _permit(gateway: RunningGateway, key: NewKey, operations: tuple[str, ...]) -> None:
    accounts = gateway.services.accounts
    found = await accounts.key(key.team, key.id)
    await accounts.update_key(key.team, found, Changes(operations=operations))


# The list of models stays true


def models(gateway: RunningGateway, key: NewKey) -> set[str]:
    with gateway.sdk(key) as client:
        return {model.id for model in client.models.list()}


def test_a_model_is_listed_where_some_call_of_it_can_succeed(start: StartGateway, other: AnsweringProvider) -> None:
    keys = {"api_keys": ["env:TEST_UPSTREAM_KEY"]}
    sections = {
        "upstreams": {"other": {"base_url": other.url, "operations": ["embeddings"], **keys}},
        "routes": [
            {"model": "other/*", "upstreams": ["other"]},
            {"model": "openai/*", "upstreams": ["simulator"]},
        ],
    }
    with start(**sections) as gateway:
        assert models(gateway, gateway.new_key()) == {"openai/gpt-5.2", "other/model"}
        assert models(gateway, gateway.new_key(key_operations=("embeddings",))) == {"openai/gpt-5.2", "other/model"}
        chatting = gateway.new_key(operations=("chat.*", "responses"))
        assert models(gateway, chatting) == {"openai/gpt-5.2"}
        with gateway.http(chatting) as http:
            assert error_of(http.get("/v1/models/other/model")) == (404, "model_not_found")


# How operators set it


def test_operators_limit_teams_and_keys_by_api_and_page_and_callers_see_it(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        team = new_team(root, operations=["chat.*", "responses"])
        path = f"/teams/{team['id']}"
        made = done(root.post(f"{path}/keys", json={"name": "k", "operations": ["responses"]}))
        assert (team["operations"], made["operations"]) == (["chat.*", "responses"], ["responses"])
        refused = root.patch(path, json={"operations": ["chat", "responses"]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_field")
        assert "chat.completions" in refused.json()["error"]["message"]
        with gateway.http(made["key"]) as http:
            assert http.post(RESPONSE, json=BODIES[RESPONSE]).status_code == 200
            assert error_of(http.post(CHAT, json=BODIES[CHAT])) == (403, "operation_not_allowed")
            shown = http.get("/v1/key").json()
            assert (shown["operations"], shown["team"]["operations"]) == (["responses"], ["chat.*", "responses"])
            with signed_in(gateway) as dashboard:
                page = dashboard.get(path).text
                assert "operations: responses" in page
                assert 'value="chat.*, responses"' in page
                form = f"{path}/keys/{made['id']}/limits"
                assert (
                    dashboard.send(
                        form, name="k", operations="chat.completions", version=_version(root, made)
                    ).status_code
                    == 303
                )
            assert http.post(CHAT, json=BODIES[CHAT]).status_code == 200
            assert error_of(http.post(RESPONSE, json=BODIES[RESPONSE])) == (403, "operation_not_allowed")
        assert done(root.patch(f"{path}/keys/{made['id']}", json={"operations": []}))["operations"] == []


def _version(root: httpx.Client, key: dict[str, Any]) -> str:
    return str(done(root.get(f"/teams/{key['team_id']}/keys/{key['id']}"))["version"])
