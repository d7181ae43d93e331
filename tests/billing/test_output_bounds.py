"""A request that states no bound on its output: what is held for it is the most that its provider may answer."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.billing.conftest import Serving
from tests.support.answering_provider import Answer, AnsweringProvider, Request, response
from tests.support.gateway import NewKey, RunningGateway
from tests.support.waiting import wait_until_sync

FREE_INPUT = {"input": "0", "output": "10"}
HELD = 10_000  # nano-USD, for one output token
TEXT = {"messages": [{"role": "user", "content": "Hello"}]}
USED = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "Hello"},
    "/v1/chat/completions": TEXT,
    "/v1/completions": {"prompt": "Hello"},
    "/v1/messages": TEXT,
}


def answer(request: Request) -> Answer:
    if request.path.endswith("/responses"):
        return Answer(response({"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}))
    if request.path.endswith("/messages"):
        return Answer(
            {"id": "msg_1", "type": "message", "content": [], "usage": {"input_tokens": 5, "output_tokens": 1}}
        )
    return Answer({"id": "c_1", "object": "chat.completion", "choices": [{"index": 0}], "usage": USED})


def post(gateway: RunningGateway, key: NewKey, path: str, **fields: Any) -> httpx.Response:
    with gateway.http(key) as http:
        return http.post(path, json={"model": "a/b", **BODIES[path], **fields})


def held_for(gateway: RunningGateway, provider: AnsweringProvider, key: NewKey, path: str, **fields: Any) -> int:
    """The output tokens that are held while the provider works."""
    gate, before = threading.Event(), len(provider.requests)
    provider.respond = lambda request: Answer(answer(request).body, wait=gate)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(post, gateway, key, path, **fields)
        wait_until_sync(lambda: len(provider.requests) > before or asked.done(), what="it is at work")
        held = gateway.balance(key).held
        gate.set()
    assert asked.result().status_code == 200, asked.result().text
    return held // HELD


@pytest.mark.parametrize(
    ("path", "fields", "name", "sent", "runs"),
    [
        ("/v1/responses", {}, "max_output_tokens", 4096, 1),
        ("/v1/responses", {"max_output_tokens": None}, "max_output_tokens", 4096, 1),
        ("/v1/responses", {"metadata": {"max_output_tokens": "1"}}, "max_output_tokens", 4096, 1),
        ("/v1/chat/completions", {}, "max_completion_tokens", 4096, 1),
        ("/v1/chat/completions", {"n": 3}, "max_completion_tokens", 4096, 3),
        ("/v1/messages", {}, "max_tokens", 4096, 1),
        ("/v1/completions", {}, "max_tokens", 16, 1),  # what the API documents for such a body
        ("/v1/completions", {"prompt": ["a", "b"], "best_of": 2, "n": 1}, "max_tokens", 16, 4),
    ],
)  # fmt: skip
def test_the_bound_that_is_held_is_the_bound_that_is_sent(
    serving: Serving, path: str, fields: dict[str, Any], name: str, sent: int, runs: int
) -> None:
    with serving(answer, prices={"*": FREE_INPUT}) as (gateway, provider):
        key = gateway.new_key()
        assert held_for(gateway, provider, key, path, **fields) == sent * runs
        body = provider.requests[-1].raw
        assert json.loads(body) == {"model": "a/b", **BODIES[path], **fields, name: sent}
        assert body.count(b'"%b"' % name.encode()) == 1 + json.dumps(fields.get("metadata")).count(f'"{name}"')
        assert post(gateway, key, path, **fields).headers["x-gateway-max-output-tokens"] == str(sent)


@pytest.mark.parametrize("path", [path for path in BODIES if path != "/v1/completions"])  # it documents a bound
@pytest.mark.parametrize(
    ("price", "sections", "held"),
    [
        ({"max_output_tokens": 700}, {}, 700),
        ({"context_tokens": 900}, {}, 900),
        ({"max_output_tokens": 700, "context_tokens": 900}, {"route": {"default_max_output_tokens": 10_000}}, 700),
        ({"from": {"2026-01-01": FREE_INPUT | {"max_output_tokens": 800}}}, {}, 800),
        ({}, {"limits": {"send_max_output_tokens": False, "default_max_output_tokens": 50}}, 50),
        ({}, {"route": {"send_max_output_tokens": False, "default_max_output_tokens": 60}}, 60),
    ],
)
def test_a_body_stays_as_it_is_where_the_models_maximum_is_held_or_the_operator_says_so(
    serving: Serving, path: str, price: dict[str, Any], sections: dict[str, Any], held: int
) -> None:
    with serving(answer, prices={"*": FREE_INPUT | price}, **sections) as (gateway, provider):
        key = gateway.new_key()
        assert held_for(gateway, provider, key, path) == held
        assert provider.bodies[-1] == {"model": "a/b", **BODIES[path]}
        assert "x-gateway-max-output-tokens" not in post(gateway, key, path).headers


def test_a_bound_of_its_own_is_the_callers(serving: Serving) -> None:
    with serving(answer, limits={"send_max_output_tokens": True}) as (gateway, provider):
        key = gateway.new_key()
        for path, name in (("/v1/responses", "max_output_tokens"), ("/v1/chat/completions", "max_tokens")):
            assert post(gateway, key, path, **{name: 7}).status_code == 200
            assert provider.bodies[-1] == {"model": "a/b", **BODIES[path], name: 7}


def test_an_operator_may_hold_and_send_less_than_the_models_maximum(serving: Serving) -> None:
    limits = {"send_max_output_tokens": True, "default_max_output_tokens": 300}
    row = FREE_INPUT | {"max_output_tokens": 128_000}
    with serving(answer, prices={"*": row}, limits=limits) as (gateway, provider):
        key = gateway.new_key()
        assert held_for(gateway, provider, key, "/v1/responses") == 300
        assert provider.bodies[-1]["max_output_tokens"] == 300


def test_a_keys_limit_is_sent_too(serving: Serving) -> None:
    row = FREE_INPUT | {"max_output_tokens": 5000}
    with serving(answer, prices={"*": row}) as (gateway, provider):
        key = gateway.new_key(key_limits={"max_output_tokens": 1000})
        assert held_for(gateway, provider, key, "/v1/chat/completions", n=3) == 1000
        assert provider.bodies[-1]["max_completion_tokens"] == 333
        before = len(provider.requests)
        refused = post(gateway, key, "/v1/chat/completions", n=1001)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")
        assert len(provider.requests) == before
        assert gateway.settled_balance(key).held == 0


def test_free_output_needs_no_bound(serving: Serving) -> None:
    with serving(answer, prices={"*": {"input": "1", "output": "0"}}) as (gateway, provider):
        assert post(gateway, gateway.new_key(), "/v1/responses").status_code == 200
        assert provider.bodies[-1] == {"model": "a/b", **BODIES["/v1/responses"]}


def test_a_provider_that_does_not_know_the_newer_name_gets_the_older_one(serving: Serving) -> None:
    def respond(request: Request) -> Answer:
        if "max_completion_tokens" in request.fields:
            return Answer({"error": {"message": "Unknown parameter: 'max_completion_tokens'."}}, status=400)
        return answer(request)

    with serving(respond, prices={"*": FREE_INPUT}) as (gateway, provider):
        key = gateway.new_key()
        for number in (2, 3):  # the second request knows
            found = post(gateway, key, "/v1/chat/completions")
            assert found.status_code == 200, found.text
            assert provider.bodies[-1] == {"model": "a/b", **TEXT, "max_tokens": 4096}
            assert len(provider.requests) == number


def test_no_caller_makes_the_gateway_forget_the_bound(serving: Serving) -> None:
    """A refusal names whatever its caller wrote: it counts only where the same request passes without the addition."""

    def respond(request: Request) -> Answer:
        if "temperature" in request.fields:
            message = f"Invalid: {json.dumps(request.fields)}"  # an echo, with every name in it
            return Answer({"error": {"message": message}}, status=400)
        return answer(request)

    with serving(respond, prices={"*": FREE_INPUT}) as (gateway, provider):
        key = gateway.new_key()
        assert post(gateway, key, "/v1/chat/completions", temperature=9).status_code == 400
        assert [body.get("max_tokens", 0) or body["max_completion_tokens"] for body in provider.bodies] == [4096] * 2
        assert post(gateway, key, "/v1/chat/completions").status_code == 200
        assert provider.bodies[-1]["max_completion_tokens"] == 4096


def test_an_answer_of_a_hundred_thousand_tokens_is_not_had_for_a_hold_of_4096(serving: Serving) -> None:
    def obedient(request: Request) -> Answer:
        tokens = min(100_000, request.fields.get("max_output_tokens") or 100_000)
        return Answer(response({"input_tokens": 5, "output_tokens": tokens, "total_tokens": 5 + tokens}))

    with serving(obedient, prices={"*": {"input": "10", "output": "240"}}) as (gateway, _):
        key = gateway.new_key(credits_usd="1")
        assert post(gateway, key, "/v1/responses").status_code == 200
        assert post(gateway, key, "/v1/responses").status_code == 402
        wait_until_sync(lambda: gateway.balance(key).held == 0, what="it is settled")
        assert gateway.balance(key).available >= 0
