"""Each rule by which a usage becomes a cost, with its own numbers. Quantities without a stated rate are named."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.billing.money import MAX_NANO_USD
from gateway.billing.price_table import PriceTable
from gateway.config.price_settings import PriceSettings
from gateway.protocol.usage_reader import read_usage
from tests.unit.test_price_cases import charged, milliseconds

PLAIN = {"input": "1.00", "cached_input": "0.10", "output": "10.00"}
SEARCHES = [{"type": "web_search_call", "id": f"ws_{index}", "status": "completed"} for index in range(2)]


def used(
    input_tokens: int, output_tokens: int, cached: int = 0, reasoning: int = 0, total: int | None = None
) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": input_tokens + output_tokens if total is None else total,
    }


WRITTEN = used(9_080, 100) | {"input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 9_077}}
STEP = {"above": {"272000": {"factor": "2", "output": "15.00"}}}
TIERS = {"tiers": {"flex": {"factor": "0.5"}, "priority": {"factor": "2"}}}


@pytest.mark.parametrize(
    ("price", "usage", "answer", "expected"),
    [
        (PLAIN | {"cache_write": "1.25"}, WRITTEN, {}, 12_349_250),
        (PLAIN | {"per_call": {"web_search": "0.01"}}, used(1000, 100), {"output": SEARCHES}, 22_000_000),
        (
            PLAIN | {"tools": {"image_generation": {"output": "30"}}},
            used(1000, 100) | {"tool_usage": {"image_gen": {"output_tokens": 7024}}},
            {},
            212_720_000,
        ),
        (PLAIN | STEP, used(300_000, 100), {}, 601_500_000),
        (PLAIN | TIERS, used(1000, 100), {"service_tier": "flex"}, 1_000_000),
        (PLAIN | TIERS, used(1000, 100), {"service_tier": "priority"}, 4_000_000),
        (PLAIN, used(10_120, 1_499, 128, 2_809, 14_428), {}, 53_084_800),
        (PLAIN, used(100, 100, 5_000, 0, 5_200), {}, 1_600_000),
        # kinds that replace each other
        (PLAIN, WRITTEN, {}, 10_080_000),  # no rate for writes: they cost what input costs
        (PLAIN | STEP, used(272_000, 100), {}, 273_000_000),
        (PLAIN | TIERS, used(1000, 100), {"service_tier": "default"}, 2_000_000),
        (PLAIN | {"tiers": {"fast": {"factor": "3"}}}, used(1000, 100), {"service_tier": "priority"}, 6_000_000),
        (
            PLAIN | {"tiers": {"fast": {"factor": "3"}, "priority": {"factor": "2"}}},
            used(1000, 100),
            {"service_tier": "fast"},
            6_000_000,
        ),
        (PLAIN | {"per_request": "0.005"}, used(1000, 100), {}, 7_000_000),
    ],
)
def test_rates_and_rules(price: dict[str, Any], usage: dict[str, Any], answer: dict[str, Any], expected: int) -> None:
    cost = charged(price, usage, answer)
    assert cost.nano_usd == expected, cost.lines
    assert not cost.unpriced


@pytest.mark.parametrize(
    ("price", "answer", "expected", "unpriced"),
    [
        # flex and batch cost the base rates if the row lacks them; any other tier costs the most that it could
        (PLAIN, {"service_tier": "flex"}, 2_000_000, "tier:flex"),
        (PLAIN | TIERS, {"service_tier": "batch"}, 2_000_000, "tier:batch"),
        (PLAIN | TIERS, {"service_tier": "scale"}, 4_000_000, "tier:scale"),
        (PLAIN | {"tiers": {"slow": {"factor": "0.1"}}}, {"service_tier": "scale"}, 2_000_000, "tier:scale"),
        (PLAIN, {"output": [{"type": "x_search_call"}]}, 2_000_000, "tool:x_search"),
    ],
)
def test_what_a_row_lacks_is_charged_by_the_rules_and_named(
    price: dict[str, Any], answer: dict[str, Any], expected: int, unpriced: str
) -> None:
    cost = charged(price, used(1000, 100), answer)
    assert (cost.nano_usd, cost.unpriced) == (expected, (unpriced,))


def test_a_call_without_a_fee_costs_the_highest_fee_that_any_row_states() -> None:
    others = {"a/b": PLAIN | {"per_call": {"web_search": "0.01"}}, "a/c": PLAIN | {"per_call": {"web_search": "0.025"}}}
    cost = charged(PLAIN, used(1000, 100), {"output": SEARCHES}, others=others)
    assert (cost.nano_usd, cost.unpriced) == (52_000_000, ("tool:web_search",))


@pytest.mark.parametrize("tool", ["function", "custom_tool", "computer", "mcp", "shell", "local_shell", "apply_patch"])
def test_calls_that_the_client_runs_are_free_unless_priced(tool: str) -> None:
    answer = {"output": [{"type": f"{tool}_call"}, {"type": "web_search_call"}]}
    row = PLAIN | {"per_call": {"web_search": "0"}}
    assert charged(row, used(1000, 100), answer).nano_usd == 2_000_000
    assert not charged(row, used(1000, 100), answer).unpriced
    row = PLAIN | {"per_call": {"web_search": "0", tool: "0.5"}}
    assert charged(row, used(1000, 100), answer).nano_usd == 502_000_000


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"tool_usage": {"web_search": {"num_requests": 3}}}, 3),
        ({"server_tool_use": {"web_search_requests": 4}}, 4),
        ({"server_side_tool_usage_details": {"web_search_calls": 5}}, 5),
        ({"tool_calls_details": {"web_search": {"invocation": 6}}}, 6),
        ({"tool_calls_details": {"web_search": 6}}, 6),
        ({"num_search_queries": 7}, 7),
        ({}, 2),
    ],
)
def test_a_count_that_the_provider_reports_wins_over_items(usage: dict[str, Any], expected: int) -> None:
    cost = charged(PLAIN | {"per_call": {"web_search": "0.01"}}, used(1000, 100) | usage, {"output": SEARCHES})
    assert cost.nano_usd == 2_000_000 + expected * 10_000_000


def test_distinct_queries_of_a_grounded_answer_are_searches() -> None:
    answer = {"choices": [{"message": {"groundingMetadata": {"webSearchQueries": ["a", "b", "a"]}}}]}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    cost = charged(PLAIN | {"per_call": {"web_search": "0.014"}}, usage, answer, dialect="chat")
    assert cost.nano_usd == 2_000_000 + 28_000_000


def test_factors_touch_token_rates_only_and_spare_what_their_own_table_states() -> None:
    row = PLAIN | {
        "factor": "1.1",
        "per_call": {"web_search": "0.01"},
        "above": {"500": {"factor": "2"}},
        "when": {"speed": {"fast": {"input": "3.00", "factor": "4"}}},
        "tiers": {"priority": {"factor": "2", "cached_input": "0.50"}},
        "hours": [{"from": "00:00", "to": "24:00", "factor": "3", "output": "15.00"}],
    }
    answer = {"service_tier": "priority", "speed": "fast", "output": SEARCHES[:1]}
    cost = charged(row, used(1000, 100, cached=200), answer)
    # input: stated by `when`; above x 2, hours x 3, tier x 2. cached: stated by the tier; x 2 x 3 x 4.
    # output: stated by the hours; above x 2, when x 4, tier x 2. The row's factor on all three.
    tokens = 800 * 3_000 * 12 + 200 * 500 * 24 + 100 * 15_000 * 16
    assert cost.nano_usd == tokens * 11 // 10 + 10_000_000


@pytest.mark.parametrize(
    ("ended_at", "expected"),
    [
        ("2026-11-27T21:59:59Z", 2_000_000),
        ("2026-11-27T22:00:00Z", 4_000_000),  # a Friday
        ("2026-11-28T01:59:59Z", 4_000_000),  # Friday's hours go past midnight
        ("2026-11-28T02:00:00Z", 2_000_000),
        ("2026-11-28T22:00:00Z", 2_000_000),  # Saturday
        ("2026-11-27T01:00:00Z", 2_000_000),  # the hours of Thursday
    ],
)
def test_hours_may_pass_midnight(ended_at: str, expected: int) -> None:
    row = PLAIN | {"hours": [{"from": "22:00", "to": "02:00", "days": [5], "factor": "2"}]}
    assert charged(row, used(1000, 100), ended_at=ended_at).nano_usd == expected


@pytest.mark.parametrize(
    ("ended_at", "expected", "version"),
    [
        ("2026-11-30T23:59:59.999Z", 2_000_000, ""),
        ("2026-12-01T00:00:00Z", 3_000_000, "2026-12-01"),
        ("2027-06-01T00:00:00Z", 4_000_000, "2027-06-01"),
    ],
)
def test_a_later_version_replaces_the_whole_row(ended_at: str, expected: int, version: str) -> None:
    row = PLAIN | {
        "per_request": "0",
        "from": {"2027-06-01": {"input": "3", "output": "10"}, "2026-12-01": {"input": "2", "output": "10"}},
    }
    cost = charged(row, used(1000, 100), ended_at=ended_at)
    assert (cost.nano_usd, cost.version.partition("@")[2]) == (expected, version)


def test_when_looks_in_the_usage_then_in_the_answer_and_only_for_two_names_in_the_request() -> None:
    row = PLAIN | {
        "when": {
            "speed": {"fast": {"factor": "2"}},
            "completion_window": {"8h": {"factor": "0.5"}},
            "search_context_size": {"high": {"per_request": "0.014"}},
            "batch_mode": {"true": {"factor": "3"}},
        }
    }
    usage = used(1000, 100)
    assert charged(row, usage, {}).nano_usd == 2_000_000
    assert charged(row, usage | {"speed": "fast"}, {"speed": "standard"}).nano_usd == 4_000_000
    assert charged(row, usage, {"speed": "fast"}).nano_usd == 4_000_000
    assert charged(row, usage, {}, request={"completion_window": "8h"}).nano_usd == 1_000_000
    assert charged(row, usage, {}, request={"search_context_size": "high"}).nano_usd == 16_000_000
    low = usage | {"search_context_size": "low"}
    assert charged(row, low, {}, request={"search_context_size": "high"}).nano_usd == 2_000_000
    assert charged(row, usage, {"batch_mode": True}).nano_usd == 6_000_000


@pytest.mark.parametrize(
    ("tokens", "rates", "expected"),
    [
        ({"audio_tokens": 400}, {}, 1_000_000),
        ({"audio_tokens": 400}, {"input_audio": "5"}, 2_600_000),
        ({"audio_tokens": 400, "cached_tokens": 300, "cached_tokens_details": {"audio_tokens": 300}}, {}, 1_000_000),
        (
            {"audio_tokens": 400, "cached_tokens": 300, "cached_tokens_details": {"audio_tokens": 300}},
            {"input_audio": "5", "cached_audio": "0.5"},
            1_250_000,
        ),
        (
            {"audio_tokens": 400, "cached_tokens": 300, "cached_tokens_details": {"audio_tokens": 300}},
            {"input_audio": "5"},
            2_600_000,
        ),
        ({"image_tokens": 400, "cached_tokens": 300}, {"input_image": "2"}, 1_130_000),  # text is cached first
        ({"video_tokens": 400}, {"input_video": "3"}, 1_800_000),
        ({"cache_write_tokens": 1000, "cache_creation": {"ephemeral_1h_input_tokens": 400}}, {}, 1_000_000),
        (
            {"cache_write_tokens": 1000, "cache_creation": {"ephemeral_1h_input_tokens": 400}},
            {"cache_write": "1.25"},
            1_250_000,
        ),
        (
            {"cache_write_tokens": 1000, "cache_creation": {"ephemeral_1h_input_tokens": 400}},
            {"cache_write": "1.25", "cache_write_1h": "2"},
            1_550_000,
        ),
    ],
)
def test_a_missing_rate_is_that_of_its_parent(tokens: dict[str, Any], rates: dict[str, str], expected: int) -> None:
    usage = used(1000, 0) | {"input_tokens_details": tokens}
    assert charged(PLAIN | rates, usage).nano_usd == expected


def test_an_advisor_is_priced_by_its_own_row_and_a_declined_fallback_costs_nothing() -> None:
    others = {"anthropic/big": {"input": "5", "output": "25"}}
    advised = {
        "input_tokens": 100,
        "output_tokens": 10,
        "iterations": [
            {"type": "message", "input_tokens": 100, "output_tokens": 10},
            {"type": "advisor_message", "model": "big", "input_tokens": 1000, "output_tokens": 20},
        ],
    }
    cost = charged(PLAIN, advised, dialect="messages", others=others, model="anthropic/small")
    assert cost.nano_usd == 200_000 + 5_500_000
    declined = {
        "input_tokens": 700,
        "output_tokens": 10,
        "iterations": [
            {"type": "message", "model": "proud", "input_tokens": 690, "output_tokens": 3},
            {"type": "fallback_message", "model": "small", "input_tokens": 700, "output_tokens": 10},
        ],
    }
    cost = charged(PLAIN, declined, dialect="messages", model="anthropic/small")
    assert cost.nano_usd == 800_000


def test_each_iteration_has_a_step_of_its_own() -> None:
    row = PLAIN | {"above": {"1000": {"factor": "2"}}}
    parts = [{"type": "message", "input_tokens": tokens, "output_tokens": 0} for tokens in (900, 1100)]
    usage = {"input_tokens": 2000, "output_tokens": 0, "iterations": parts}
    assert charged(row, usage, dialect="messages").nano_usd == 900_000 + 2_200_000


@pytest.mark.parametrize(("seconds", "expected"), [(27.4, 844_834), (3, 308_334), (0, 308_334), (3600, 111_000_000)])
def test_units_have_a_minimum_and_hours_are_exact(seconds: float, expected: int) -> None:
    row = {"minimum_seconds": 10, "per_unit": {"hour": "0.111"}}
    usage = {"type": "duration", "seconds": seconds}
    assert charged(row, usage, dialect="transcription").nano_usd == expected


@pytest.mark.parametrize(
    ("answer", "expected", "unpriced"),
    [
        ({"quality": "hd", "size": "1024x1792"}, 240_000_000, ()),
        ({"quality": "standard", "size": "1024x1024"}, 80_000_000, ()),
        ({}, 60_000_000, ()),
    ],
)
def test_images_cost_by_quality_and_size(answer: dict[str, Any], expected: int, unpriced: tuple[str, ...]) -> None:
    row = {"per_image": {"hd/1024x1792": "0.12", "1024x1024": "0.04", "default": "0.03"}}
    cost = charged(row, {}, answer | {"data": [{}, {}]}, dialect="images")
    assert (cost.nano_usd, cost.unpriced) == (expected, unpriced)


def test_an_image_that_no_fee_fits_costs_the_highest_fee() -> None:
    row = {"per_image": {"hd/1024x1792": "0.12", "1024x1024": "0.04"}}
    cost = charged(row, {}, {"data": [{}], "quality": "ultra", "size": "9x9"}, dialect="images")
    assert (cost.nano_usd, cost.unpriced) == (120_000_000, ("image:ultra/9x9",))


def test_a_token_field_that_nobody_knows_is_charged_as_output_and_named() -> None:
    usage = used(100, 10, total=150) | {"quantum_tokens": 40}
    cost = charged(PLAIN, usage)
    assert (cost.nano_usd, cost.unpriced) == (600_000, ("tokens:quantum_tokens",))


def test_a_total_that_nothing_explains_is_read_in_the_dearer_way() -> None:
    found = read_usage("responses", used(100, 10, total=150))
    assert found is not None
    assert found.quantities is not None
    assert found.quantities.contradictions
    assert charged(PLAIN, used(100, 10, total=150)).nano_usd == 600_000
    assert charged(PLAIN, used(100, 10, total=105)).nano_usd == 200_000  # the parts, not a total that is less


def test_a_cost_is_bounded() -> None:
    assert charged(PLAIN, used(2**53, 2**53)).nano_usd == MAX_NANO_USD


@pytest.mark.parametrize(
    ("price", "place", "message"),
    [
        ({"input": "1"}, ("output",), "Field required"),
        ({"output": "1"}, ("input",), "Field required"),
        (PLAIN | {"factor": "-1"}, ("factor",), "a factor is"),
        (PLAIN | {"above": {"many": {"input": "1"}}}, ("above", "many", "[key]"), "a step is"),
        (PLAIN | {"tiers": {"flex": {"inptu": "1"}}}, ("tiers", "flex", "inptu"), "Extra inputs"),
        (PLAIN | {"from": {"soon": PLAIN}}, ("from", "soon", "[key]"), "a day is"),
        (PLAIN | {"hours": [{"from": "25:00", "to": "01:00"}]}, ("hours", 0, "from"), "a time of day"),
        (PLAIN | {"per_unit": {"parsec": "1"}}, ("per_unit", "parsec", "[key]"), "a unit is"),
        (PLAIN | {"per_unit": {"hour": "1", "second": "1"}}, (), "twice"),
        (PLAIN | {"tools": {"image_generation": {}}}, ("tools", "image_generation"), "either a model or rates"),
        (
            PLAIN | {"above": {"9": {"input": "2"}}, "tiers": {"priority": {"input": "3"}}},
            (),
            "tiers.priority states rates",
        ),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused(price: dict[str, Any], place: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        PriceSettings.model_validate(price)
    (detail,) = refused.value.errors()
    assert detail["loc"] == place
    assert message in detail["msg"]


def test_a_tool_of_another_model_costs_that_models_rates_without_the_rows_factors() -> None:
    others = {"openai/painter": {"input": "5", "input_image": "8", "output_image": "32", "factor": "1"}}
    row = PLAIN | TIERS | {"tools": {"image_generation": {"model": "openai/painter"}}}
    usage = used(0, 0) | {
        "tool_usage": {
            "image_gen": {
                "input_tokens": 100,
                "input_tokens_details": {"text_tokens": 40, "image_tokens": 60},
                "output_tokens": 1000,
                "output_tokens_details": {"image_tokens": 1000},
            }
        }
    }
    cost = charged(row, usage, {"service_tier": "priority"}, others=others)
    assert cost.nano_usd == 40 * 5_000 + 60 * 8_000 + 1000 * 32_000


def test_names_without_a_provider_are_found_beside_the_model_that_was_asked_for() -> None:
    rows = {name: PriceSettings.model_validate(PLAIN).price() for name in ("a/x", "b/x", "b/y")}
    table = PriceTable(rows)
    assert table.named("x", "b/z") is rows["b/x"]
    assert table.named("y", "a/z") is rows["b/y"]
    assert table.named("x") is None  # two have it
    assert milliseconds("1970-01-02T00:00:00Z") == 86_400_000
