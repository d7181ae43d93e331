"""A provider that answers 200 with an error in JSON: the client reads its words as an error, with the right status.

| the error says              | status | the client reads                                        |
|-----------------------------|--------|---------------------------------------------------------|
| a code that is known        | its    | the provider's words, in the form of the client's API   |
| a code of its own, or none  | 502    | the same                                                |
| the gateway's account       | 502    | nothing of the provider's                               |
"""

from __future__ import annotations

import json
from typing import Any, Final

import anthropic
import openai
import pytest

from tests.dialects.conftest import Stages
from tests.dialects.test_endings import KINDS, WHOLE, ask, refusing, two
from tests.support.scenario import MODEL, end_of_body, stream
from tests.support.scripted_upstream import Step, answer, request

WORDS: Final = "'n' must be 1."
FORMS: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "a code with its words": ({"code": "InvalidParameter", "message": WORDS, "request_id": "1"}, 400),
    "a code with a detail": ({"code": "Throttling.RateQuota", "message": WORDS}, 429),
    "a detail that is a code": ({"code": "Model.AccessDenied", "message": WORDS}, 403),
    "a code of its own": ({"code": "Weather", "message": WORDS}, 502),
    "a number": ({"code": 404, "message": WORDS}, 404),
    "an error without a code": ({"error": {"message": WORDS}}, 502),
    "an error of null codes": ({"error": {"message": WORDS, "type": None, "code": None, "param": None}}, 502),
    "a known type": ({"error": {"message": WORDS, "type": "InternalServerError"}}, 500),
    "a text": ({"error": WORDS}, 502),
    "a text with a status": ({"error": WORDS, "status": 413}, 413),
}


def said(fields: dict[str, Any]) -> Step:
    return refusing(b"200 OK", fields)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("form", FORMS)
async def test_the_client_reads_the_providers_words_as_an_error(stages: Stages, name: str, form: str) -> None:
    fields, status = FORMS[form]
    async with stages([request(), said(fields)]) as scenario:
        client = await ask(scenario, name, streams=False)
        assert client.status == status
        told = json.loads(client.body)["error"]
        assert told["message"] == WORDS
        assert told["type"]
        assert all(told.get(part) is None or isinstance(told[part], str) for part in ("type", "code", "param")), told
        await scenario.ended(outcome="upstream_refused")


@pytest.mark.parametrize("streams", [False, True])
async def test_official_sdks_raise_it(stages: Stages, streams: bool) -> None:
    limits: dict[str, int] = {}
    async with stages([request(), said(FORMS["a code with its words"][0])] * 2, limits=limits) as scenario:
        with pytest.raises(openai.BadRequestError, match="'n' must be 1") as raised:
            await scenario.sdk().chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "x"}], stream=streams
            )
        assert raised.value.code == "InvalidParameter"
        url, key = scenario.gateway.url, scenario.key.text
        async with anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0) as client:
            with pytest.raises(anthropic.BadRequestError, match="'n' must be 1"):
                await client.messages.create(
                    model=MODEL, messages=[{"role": "user", "content": "x"}], max_tokens=9, stream=streams
                )


@pytest.mark.parametrize("code", ["InvalidApiKey", "Arrearage", "AUTHENTICATION_ERROR"])
async def test_a_refusal_of_the_gateways_account_shows_nothing_of_it(stages: Stages, code: str) -> None:
    async with stages([request(), said({"code": code, "message": "The key sk-secret is wrong."})]) as scenario:
        client = await ask(scenario, "chat", streams=False)
        assert (client.status, json.loads(client.body)["error"]["code"]) == (502, "upstream_rejected_gateway")
        assert b"sk-secret" not in client.received
        await scenario.ended(outcome="upstream_refused")


async def test_another_upstream_is_asked_first(stages: Stages) -> None:
    failing = [request(), said(FORMS["a code of its own"][0])]
    good = [request(), answer(json.dumps(KINDS["chat"].whole).encode(), headers=b"content-type: application/json\r\n")]
    async with two(stages, failing, good) as (scenario, other):
        client = await ask(scenario, "chat", streams=False)
        assert (client.status, len(other.requests)) == (200, 1)


async def test_a_model_whose_streams_are_errors_is_left_alone(stages: Stages) -> None:
    down = [request(), stream(b'data: {"error":{"message":"Down.","code":503}}\n\n'), end_of_body()]
    breaker = {"breaker_failures": 2, "breaker_open_s": 600}
    async with stages(down * 3, limits={}, upstream=breaker) as scenario:
        statuses = [(await ask(scenario, "chat", streams=True)).status for _ in range(3)]
        assert (statuses, len(scenario.upstream.requests)) == ([200, 200, 503], 2)


# What the gateway added, and an upstream names in its refusal


NAMED: Final = {"error": {"message": "stream_options is not supported", "code": 400}}


@pytest.mark.parametrize("how", ["json", "an event"])
async def test_what_is_refused_under_a_200_without_the_addition_too_is_not_remembered(stages: Stages, how: str) -> None:
    events = [*KINDS["chat"].good[:-1], b"data: [DONE]\n\n"]
    still: list[Step] = (
        [said({"error": {"message": "Down.", "code": 400}})]
        if how == "json"
        else [stream(b'data: {"error":{"message":"Down.","code":400}}\n\n'), end_of_body()]
    )
    script = [request(), said(NAMED), request(), *still, request(), stream(*events), end_of_body()]
    async with stages(script, limits={}) as scenario:
        for _ in range(2):
            await ask(scenario, "chat", streams=True, stream_options=None)
        sent = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in scenario.upstream.requests]
        assert [(one.get("stream_options") or {}).get("include_usage") for one in sent] == [True, None, True]
