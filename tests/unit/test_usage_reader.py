"""Usage as providers report it, in every dialect, becomes disjoint quantities. Inconsistencies are named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.quantities import Usage, quantities_of
from gateway.protocol.usage_reader import RequestFacts, read_usage

NAMES = st.sampled_from(
    [
        "input_tokens",
        "output_tokens",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "input_tokens_details",
        "output_tokens_details",
        "cached_tokens",
        "cache_write_tokens",
        "cache_creation",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "ephemeral_1h_input_tokens",
        "reasoning_tokens",
        "citation_tokens",
        "audio_tokens",
        "image_tokens",
        "cached_tokens_details",
        "iterations",
        "tool_usage",
        "cost",
        "type",
        "output",
        "seconds",
        "service_tier",
        "num_requests",
        "choices",
        "data",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=6),
    max_leaves=20,
)
DIALECT_NAMES = (
    "responses",
    "chat",
    "completions",
    "messages",
    "embeddings",
    "rerank",
    "images",
    "transcription",
    "speech",
    "moderations",
)


def tokens_of(usage: Usage | None) -> dict[str, int]:
    assert usage is not None
    (segment,) = quantities_of(usage).segments
    return {name: number for name, number in segment.tokens.items() if number}


def test_the_common_case_needs_six_numbers_only() -> None:
    usage = read_usage(
        "responses",
        {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 15,
        },
        {"service_tier": "default", "output": [{"type": "message"}, {"type": "function_call"}]},
    )
    assert usage == Usage(10, 4, 5, 2, 15, None, None)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # reasoning outside the output: the total says so
        (
            {
                "input_tokens": 10_120,
                "input_tokens_details": {"cached_tokens": 128},
                "output_tokens": 1_499,
                "output_tokens_details": {"reasoning_tokens": 2_809},
                "total_tokens": 14_428,
            },
            {"input": 9_992, "cached_input": 128, "output": 1_499, "reasoning": 2_809},
        ),
        # reasoning smaller than the output, outside according to the total
        (
            {
                "input_tokens": 50,
                "output_tokens": 300,
                "output_tokens_details": {"reasoning_tokens": 40},
                "total_tokens": 390,
            },
            {"input": 50, "output": 300, "reasoning": 40},
        ),
        # the cache outside the input
        (
            {
                "input_tokens": 100,
                "input_tokens_details": {"cached_tokens": 5_000},
                "output_tokens": 100,
                "total_tokens": 5_200,
            },
            {"input": 100, "cached_input": 5_000, "output": 100},
        ),
        # larger than its whole, although the total does not contain it
        (
            {
                "input_tokens": 7,
                "output_tokens": 5,
                "output_tokens_details": {"reasoning_tokens": 6},
                "total_tokens": 12,
            },
            {"input": 7, "output": 5, "reasoning": 6},
        ),
        # both outside
        (
            {
                "input_tokens": 100,
                "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20},
                "output_tokens": 10,
                "output_tokens_details": {"reasoning_tokens": 5},
                "total_tokens": 135,
            },
            {"input": 70, "cached_input": 30, "cache_write": 20, "output": 10, "reasoning": 5},
        ),
        # writes by lifetime in the details
        (
            {
                "input_tokens": 100,
                "input_tokens_details": {
                    "cached_tokens": 0,
                    "cache_write_tokens": 60,
                    "cache_write_tokens_details": {"ttl_30m_tokens": 20, "ttl_12h_tokens": 40},
                },
                "output_tokens": 10,
                "total_tokens": 110,
            },
            {"input": 40, "cache_write": 20, "cache_write_12h": 40, "output": 10},
        ),
    ],
)
def test_a_token_is_in_one_part(usage: dict[str, Any], expected: dict[str, int]) -> None:
    found = read_usage("responses", usage)
    assert tokens_of(found) == expected
    assert found is not None
    assert found.total_tokens == sum(expected.values())


@given(st.sampled_from(DIALECT_NAMES), JSON, st.dictionaries(NAMES | st.text(max_size=5), JSON, max_size=5))
def test_nothing_that_an_upstream_sends_raises(dialect: str, usage: Any, answer: dict[str, Any]) -> None:
    found = read_usage(dialect, usage, answer, RequestFacts(service_tier="flex"))
    if found is not None:
        quantities = quantities_of(found)
        assert all(number >= 0 for segment in quantities.segments for number in segment.tokens.values())
        assert found.input_tokens + found.output_tokens == sum(
            sum(segment.tokens.values()) for segment in quantities.segments
        )
