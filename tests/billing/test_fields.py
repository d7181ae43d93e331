"""What callers say that changes a price, or reaches what others have stored: a policy of each route."""

from typing import Any

import pytest

from tests.billing.conftest import Serving
from tests.billing.test_bills import ask, spent
from tests.support.answering_provider import Answer, AnsweringProvider, Request, response
from tests.support.gateway import running_gateway
from tests.support.servers import valkey_server
from tests.support.waiting import wait_until_sync

PRICE = {"input": "1", "output": "10"}
USAGE = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}


def answer(_: Request) -> Answer:
    return Answer(response(USAGE))


TIERS = {"tiers": {"priority": {"factor": "2"}}}
FAST = {"when": {"speed": {"fast": {"factor": "2"}}, "inference_geo": {"us": {"factor": "1.1"}}}}
SEARCH = {"tools": [{"type": "web_search"}]}


@pytest.mark.parametrize(
    ("price", "policies", "fields", "refused"),
    [
        # By default nobody asks for a tier, a speed or a region that the price does not know.
        ({}, {}, {"service_tier": "priority"}, "service_tier"),
        ({}, {}, {"service_tier": "unheard-of"}, "service_tier"),
        (TIERS, {}, {"service_tier": "scale"}, "service_tier"),
        (TIERS, {}, {"service_tier": "priority"}, ""),
        (TIERS, {}, {"service_tier": "fast"}, ""),  # another name of it
        ({}, {}, {"service_tier": "flex"}, ""),  # costs no more than the base
        ({}, {}, {"service_tier": "default"}, ""),
        ({}, {}, {"service_tier": "auto"}, ""),
        ({}, {"service_tier": "allowed"}, {"service_tier": "priority"}, ""),
        (TIERS, {"service_tier": "refused"}, {"service_tier": "priority"}, "service_tier"),
        (TIERS, {"service_tier": "refused"}, {"service_tier": "default"}, ""),
        ({}, {}, {"speed": "fast"}, "speed"),
        ({}, {}, {"speed": "standard"}, ""),
        (FAST, {}, {"speed": "fast"}, ""),
        ({}, {}, {"inference_geo": "us"}, "inference_geo"),
        (FAST, {}, {"inference_geo": "us"}, ""),
        (FAST, {}, {"inference_geo": "eu"}, "inference_geo"),
        # Hosted tools without a fee are charged the highest fee that any row states, and pass.
        ({}, {}, SEARCH, ""),
        ({}, {"tools": "priced"}, SEARCH, "tools"),
        ({"per_call": {"web_search": "0.01"}}, {"tools": "priced"}, SEARCH, ""),
        ({"tiers": {"flex": {"per_call": {"web_search": "0"}}}}, {"tools": "priced"}, SEARCH, ""),
        ({"per_call": {"web_search": "0.01"}}, {"tools": "refused"}, SEARCH, "tools"),
        ({}, {"tools": "refused"}, {"tools": [{"type": "function", "name": "f"}]}, ""),
        ({}, {}, {"provider": {"order": ["elsewhere"]}}, ""),
        ({}, {"provider": "priced"}, {"provider": {"order": ["elsewhere"]}}, "provider"),
        ({}, {"provider": "priced"}, {"provider": {"sort": "throughput"}}, "provider"),
        ({}, {"provider": "priced"}, {"provider": {"only": ["simulator"], "allow_fallbacks": False}}, ""),
        ({}, {"provider": "refused"}, {"provider": {"only": ["simulator"]}}, "provider"),
        ({}, {"models": "refused"}, {"models": ["a/b"]}, "models"),
        ({}, {"variants": "priced"}, {"model": "a/b:online"}, "model"),
        ({}, {"variants": "refused"}, {"model": "a/b:nitro"}, "model"),
        ({}, {}, {"model": "a/b:online"}, ""),
    ],
)
def test_what_changes_the_price_passes_where_its_route_says_so(
    serving: Serving, price: dict[str, Any], policies: dict[str, str], fields: dict[str, Any], refused: str
) -> None:
    with serving(answer, prices={"a/b": PRICE | price}, route={"fields": policies}) as (gateway, provider):
        key = gateway.new_key()
        found = ask(gateway, key, max_output_tokens=100, **fields)
        if not refused:
            assert found.status_code == 200, found.text
            return
        error = found.json()["error"]
        assert (found.status_code, error["code"], error["param"]) == (403, "field_not_allowed", refused)
        assert (error["scope"], error["limit_source"]) == ("route", "gateway")
        assert not provider.requests
        assert gateway.balance(key).held == gateway.balance(key).spent == 0


def message(part: dict[str, Any]) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Read it."}, part]}]}


FOREIGN: list[tuple[dict[str, Any], str]] = [
    ({"conversation": "conv_1"}, "conversation"),
    ({"conversation": {"id": "conv_1"}}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"prompt": {"id": "pmpt_1", "variables": {"x": {"type": "input_file", "file_id": "file_1"}}}}, "prompt"),
    (message({"type": "input_file", "file_id": "file_1"}), "input"),
    (message({"type": "input_image", "file_id": "file_1"}), "input"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
    ({"input": [{"id": "msg_1"}]}, "input"),
    ({"input": [{"type": "image_generation_call", "id": "ig_1"}]}, "input"),
    ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, "tools"),
    ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "tools"),
    ({"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file_1"]}}]}, "tools"),
    ({"tools": [{"type": "image_generation", "input_image_mask": {"file_id": "file_1"}}]}, "tools"),
    ({"tools": [{"type": "shell", "environment": {"type": "container_reference", "container_id": "c"}}]}, "tools"),
    ({"tool_resources": {"file_search": {"vector_store_ids": ["vs_1"]}}}, "tool_resources"),
    ({"cached_content": "cachedContents/1"}, "cached_content"),
]
STORED_DOCUMENT = {"type": "document", "source": {"type": "file", "file_id": "f"}}
ECHOED: list[dict[str, Any]] = [
    message({"type": "input_file", "file_url": "https://example.org/a.pdf"}),
    {"tools": [{"type": "function", "name": "f", "parameters": {"properties": {"file_id": {"type": "string"}}}}]},
    {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
    {"metadata": {"file_id": "x", "conversation": "y"}},
    {"input": 'the words "file_id" and "item_reference"'},
    {"input": [{"role": "assistant", "content": [{"type": "output_text", "annotations": [{"file_id": "f"}]}]}]},
    {"input": [{"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_1", "code": "1", "outputs": []}]},
    {"input": [{"type": "file_search_call", "id": "fs_1", "queries": ["x"], "results": [{"file_id": "f"}]}]},
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), FOREIGN)
def test_what_others_may_have_stored_is_refused(serving: Serving, fields: dict[str, Any], param: str) -> None:
    with serving(answer, route={"foreign_ids": "refuse"}) as (gateway, provider):
        found = ask(gateway, gateway.new_key(), **fields)
        assert (found.status_code, found.json()["error"]["code"]) == (403, "field_not_allowed")
        assert found.json()["error"]["param"] == param
        assert not provider.requests


@pytest.mark.parametrize("fields", ECHOED)
def test_what_a_caller_brings_along_is_not_foreign(serving: Serving, fields: dict[str, Any]) -> None:
    with serving(answer, route={"foreign_ids": "refuse"}) as (gateway, _):
        assert ask(gateway, gateway.new_key(), **fields).status_code == 200


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}),
        ("chat/completions", {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
        ("messages", {"messages": [{"role": "user", "content": [STORED_DOCUMENT]}]}),
        ("messages", {"container": "container_1", "messages": []}),
        ("messages", {"container": {"skills": [{"type": "custom", "skill_id": "s"}]}, "messages": []}),
        ("images/edits", {"images": [{"file_id": "f"}], "prompt": "a hat"}),
    ],
)  # fmt: skip
def test_other_dialects_name_what_is_stored_too(serving: Serving, path: str, fields: dict[str, Any]) -> None:
    with (
        serving(answer, route={"foreign_ids": "refuse"}) as (gateway, provider),
        gateway.http(gateway.new_key()) as http,
    ):
        found = http.post(f"/v1/{path}", json={"model": "a/b", "max_tokens": 5, **fields})
        assert found.status_code == 403, found.text
        assert not provider.requests
        own = http.post(f"/v1/{path}", json={"model": "a/b", "max_tokens": 5, "messages": [], "prompt": "a hat"})
        assert own.status_code != 403


def test_by_default_a_team_that_is_alone_may_name_what_is_stored(tmp_path_factory: pytest.TempPathFactory) -> None:
    def both() -> list[int]:
        return [ask(gateway, key, **fields).status_code for fields, _ in (FOREIGN[0], FOREIGN[4])]

    with (
        valkey_server() as store,
        AnsweringProvider.serving(answer) as provider,
        running_gateway(
            store.url, provider.url, tmp_path_factory.mktemp("alone"), route={"foreign_ids": "auto"}
        ) as gateway,
    ):
        key = gateway.new_key()
        wait_until_sync(lambda: both() == [200, 200], what="the gateway knows that it has one team")
        gateway.new_key()
        wait_until_sync(lambda: both() == [403, 403], what="it knows that another team shares its account")


def test_names_mean_the_same_for_price_route_and_permission(serving: Serving) -> None:
    rows = {"Openai/gpt-5.2": {"input": "100", "output": "1000"}, "openai/*": PRICE, "*": PRICE}
    with serving(answer, prices=rows, aliases={"Fast": "openai/gpt-5.2"}) as (gateway, provider):
        key = gateway.new_key(models=("openai/GPT-5.2",))
        names = [
            "openai/gpt-5.2",
            "OPENAI/GPT-5.2",
            " openai/gpt-5.2 ",
            "fast",
            "FAST ",
            "openai/gpt-5.2:nitro",
            "fast:Nitro",
        ]
        for number, name in enumerate(names, 1):
            found = ask(gateway, key, model=name, max_output_tokens=100)
            assert found.status_code == 200, found.text
            assert spent(gateway, key) == number * 200_000_000
        sent = [body["model"].partition(":") for body in provider.bodies]
        assert {base for base, _, _ in sent} == {"Openai/gpt-5.2"}
        assert [variant for _, _, variant in sent][-2:] == ["nitro", "Nitro"]
        other = ask(gateway, key, model="openai/gpt-5.3", max_output_tokens=100)
        assert (other.status_code, other.json()["error"]["code"]) == (403, "model_not_allowed")
        with gateway.http(key) as http:
            assert http.get("/v1/models/OPENAI/gpt-5.2").json()["error"]["code"] != "model_not_allowed"


def test_a_name_that_the_configuration_does_not_have_stays_as_it_is(serving: Serving) -> None:
    with serving(answer, prices={"*": PRICE}) as (gateway, provider):
        for name in ("meta-llama/Llama-3.1-8B", "llama3:8b", "ft:gpt-5:acme::Xy1"):
            assert ask(gateway, gateway.new_key(), model=name).status_code == 200
            assert provider.bodies[-1]["model"] == name


def test_models_that_may_answer_instead_are_held_charged_and_permitted(serving: Serving) -> None:
    rows = {"a/b": PRICE, "a/dear": {"input": "100", "output": "1000"}, "b/other": PRICE}

    def dear(_: Request) -> Answer:
        return Answer(response(USAGE, model="dear-2026-01-01"))

    with serving(dear, prices=rows) as (gateway, provider):
        poor = gateway.new_key(credits_usd="0.09")
        assert ask(gateway, poor, models=["a/dear"], max_output_tokens=100).status_code == 402
        key = gateway.new_key(models=("a/*",))
        assert ask(gateway, key, models=["a/dear"], max_output_tokens=100).status_code == 200
        assert spent(gateway, key) == 200_000_000
        assert ask(gateway, key, models=["A/DEAR", "b/other"], max_output_tokens=100).status_code == 403
        assert ask(gateway, key, models=["c/none"], max_output_tokens=100).status_code == 403
        assert ask(gateway, gateway.new_key(models=("a/b",)), models=["a/dear"]).status_code == 403
        assert len(provider.requests) == 1
