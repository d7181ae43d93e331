"""Calls that are charged for what goes in: embeddings, completions' prompts, moderations, rerank."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.dialects.conftest import Stages
from tests.support.scenario import JSON, MODEL, RawClient, Scenario, end_of_body, stream
from tests.support.scripted_upstream import Step, answer, request


async def ask(scenario: Scenario, path: str, *, dry_run: bool = False, **fields: Any) -> RawClient:
    headers = "x-gateway-dry-run: true\r\n" if dry_run else ""
    client = await scenario.ask(json.dumps({"model": MODEL, **fields}).encode(), path=path, headers=headers)
    await client.read_all()
    return client


def whole(**fields: Any) -> Step:
    return answer(json.dumps(fields).encode(), headers=JSON)


async def held(scenario: Scenario, path: str, **fields: Any) -> tuple[int, int]:
    """Input and output tokens that a request would hold."""
    hold = json.loads((await ask(scenario, path, dry_run=True, **fields)).body)["hold"]
    return hold["input_tokens"], hold["output_tokens"]


VECTORS = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}], "model": MODEL}


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ([[101, 102, 103], [201, 202, 203, 204, 205]], 8),
        ([100_257, 100_258], 2),
        (list(range(100_000, 108_000)), 8_000),
    ],
)
async def test_token_ids_are_a_token_each(stages: Stages, value: object, tokens: int) -> None:
    async with stages([]) as scenario:
        assert await held(scenario, "/v1/embeddings", input=value) == (tokens, 0)
        assert (await held(scenario, "/v1/completions", prompt=value, max_tokens=1))[0] == tokens


async def test_texts_are_held_by_their_bytes(stages: Stages) -> None:
    async with stages([]) as scenario:
        few, many = [await held(scenario, "/v1/embeddings", input=["word " * 40] * number) for number in (1, 50)]
        assert few[0] >= 50
        assert many[0] >= 50 * 50
        assert (few[1], many[1]) == (0, 0)


@pytest.mark.parametrize("usage", [{}, {"usage": None}, {"usage": {"prompt_tokens": 0, "total_tokens": 0}}])
async def test_embeddings_without_usage_are_charged_by_their_input(stages: Stages, usage: dict[str, Any]) -> None:
    async with stages([request(), whole(**VECTORS, **usage)]) as scenario:
        client = await ask(scenario, "/v1/embeddings", input=[[1, 2, 3, 4, 5]])
        assert json.loads(client.body)["data"] == VECTORS["data"]
        (entry,) = await scenario.settled()
        assert (entry["by"], entry["amount"]) == ("estimate", str(-5 * 1_000))


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"prompt": "Once"}, 20),
        ({"prompt": "Once", "n": 3}, 60),
        ({"prompt": "Once", "n": 1, "best_of": 4}, 80),
        ({"prompt": "Once", "n": 3, "best_of": 2}, 60),
        ({"prompt": ["Once", "Twice"], "best_of": 4}, 160),
        ({"prompt": [[1, 2], [3], [4]], "n": 2}, 120),
    ],
)
async def test_completions_hold_their_bound_for_each_run_of_each_prompt(
    stages: Stages, fields: dict[str, Any], tokens: int
) -> None:
    async with stages([]) as scenario:
        assert (await held(scenario, "/v1/completions", max_tokens=20, **fields))[1] == tokens


async def test_a_completions_stream_is_asked_for_its_usage(stages: Stages) -> None:
    def chunk(text: str, reason: str | None = None) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        return (
            b"data: "
            + json.dumps({"id": "cmpl-1", "object": "text_completion", "choices": [choice]}).encode()
            + b"\n\n"
        )

    done = b"data: [DONE]\n\n"
    counted = (
        b'data: {"id":"cmpl-1","choices":[],"usage":{"prompt_tokens":4,"completion_tokens":3,"total_tokens":7}}\n\n'
    )
    events = [chunk(" a"), chunk(" b"), chunk("", "stop")]
    async with stages([request(), stream(*events, counted, done), end_of_body()]) as scenario:
        client = await ask(scenario, "/v1/completions", prompt="Once", stream=True, max_tokens=5)
        assert client.body == b"".join(events) + done
        await scenario.ended(outcome="completed", settled_by="usage", usage=(4, 3))


async def test_moderations_cost_what_a_request_costs(stages: Stages) -> None:
    verdict = {"id": "modr-1", "model": MODEL, "results": [{"flagged": False}]}
    for prices, amount in (
        ({"input": "9", "output": "9"}, 0),
        ({"input": "9", "output": "9", "per_request": "0.5"}, -5),
    ):
        async with stages([request(), whole(**verdict)], prices={"*": prices}) as scenario:
            await ask(scenario, "/v1/moderations", input="Is this well?")
            (entry,) = await scenario.settled()
            assert int(entry["amount"]) == amount * 100_000_000


async def test_a_moderation_without_a_model_goes_to_the_one_that_the_api_documents(stages: Stages) -> None:
    async with stages([request(), whole(id="modr-1", results=[])]) as scenario:
        client = await scenario.ask(b'{"input": "x"}', path="/v1/moderations")
        await client.read_all()
        sent = json.loads(scenario.upstream.requests[0].partition(b"\r\n\r\n")[2])
        assert sent == {"model": "omni-moderation-latest", "input": "x"}


@pytest.mark.parametrize(
    ("told", "by", "units"),
    [
        ({"meta": {"billed_units": {"search_units": 3}}, "results": []}, "usage", 3),
        ({"results": [{"index": 0, "relevance_score": 1}]}, "estimate", 2),
    ],
)
async def test_rerank_is_charged_by_search_units(stages: Stages, told: dict[str, Any], by: str, units: int) -> None:
    prices = {"*": {"input": "0", "output": "0", "per_unit": {"search_unit": "0.002"}}}
    async with stages([request(), whole(**told)], prices=prices) as scenario:
        await ask(scenario, "/v1/rerank", query="wind", documents=["short"] * 150)
        (entry,) = await scenario.settled()
        assert (entry["by"], int(entry["amount"])) == (by, -units * 2_000_000)


async def test_rerank_by_tokens(stages: Stages) -> None:
    async with stages([request(), whole(results=[], usage={"total_tokens": 70})]) as scenario:
        await ask(scenario, "/v1/rerank", query="wind", documents=["short"])
        (entry,) = await scenario.settled()
        assert (entry["by"], int(entry["amount"])) == ("usage", -70_000)
