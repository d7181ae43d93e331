"""Usage: sound reports are kept exactly. Unsound ones count as no usage, and never raise."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.counts import MAX_COUNT
from gateway.protocol.quantities import Usage
from gateway.protocol.usage_reader import find_usage, read_usage

FULL = {
    "input_tokens": 328,
    "input_tokens_details": {"cached_tokens": 128},
    "output_tokens": 52,
    "output_tokens_details": {"reasoning_tokens": 20},
    "total_tokens": 380,
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FULL, "cost"]), inner, max_size=6),
)


def test_a_full_report_is_read() -> None:
    assert read_usage("responses", FULL) == Usage(328, 128, 52, 20, 380, None)


def test_absent_details_count_nothing_and_an_absent_total_is_the_sum() -> None:
    assert read_usage("responses", {"input_tokens": 3, "output_tokens": 4}) == Usage(3, 0, 4, 0, 7, None)
    assert read_usage(
        "responses", FULL | {"input_tokens_details": None, "output_tokens_details": [1], "total_tokens": "380"}
    ) == (Usage(328, 0, 52, 0, 380, None))


@pytest.mark.parametrize("count", [None, True, -1, 1.5, "5", MAX_COUNT + 1, float("nan"), float("inf"), 1e300, [], {}])
@pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
def test_a_report_without_sound_counts_is_no_usage(name: str, count: object) -> None:
    assert read_usage("responses", FULL | {name: count}) is None


def test_a_whole_number_written_as_a_float_is_that_number() -> None:
    assert read_usage("responses", FULL | {"output_tokens": 52.0}) == read_usage("responses", FULL)


@pytest.mark.parametrize(
    ("cost", "kept"),
    [
        (0.00125, "0.00125"),
        (1e-07, "0.0000001"),
        ("0.10", "0.10"),
        ("2.5E-3", "0.0025"),
        (0, "0"),
        (3, "3"),
        *((bad, None) for bad in (None, True, -1, -0.5, "", "-1", "NaN", "1_0", " 1", "1e999999", "٣", 1e300)),
    ],
    ids=repr,
)
def test_the_upstreams_own_cost_is_kept_as_written_or_not_at_all(cost: object, kept: str | None) -> None:
    usage = read_usage("responses", FULL | {"cost": cost})
    assert usage is not None
    assert usage.cost_usd == kept


def test_an_integer_too_long_to_write_is_no_cost() -> None:
    usage = read_usage("responses", FULL | {"cost": 10**5000})
    assert usage is not None
    assert usage.cost_usd is None


@given(st.decimals(0, 1000, places=9))
def test_a_cost_of_nine_places_survives_the_way_through_json(cost: Decimal) -> None:
    usage = read_usage("responses", json.loads(json.dumps(FULL | {"cost": float(cost)})))
    assert usage is not None
    assert usage.cost_usd is not None
    assert Decimal(usage.cost_usd) == cost


@given(anything)
def test_no_value_raises_and_every_count_is_in_range(value: object) -> None:
    usage = read_usage("responses", value)
    if usage is not None:
        counts = (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens)
        assert all(0 <= count <= MAX_COUNT for count in counts)


def test_the_last_whole_usage_is_found_in_a_tail() -> None:
    tail = b'AAAA"],"usage" : ' + json.dumps(FULL).encode() + b',"metadata":{"usage":{"note":"\\"usage\\":{"}}}}\n\n'
    assert find_usage(tail) == FULL


@given(st.binary(max_size=60) | st.builds(lambda rest: b'"usage":' + rest, st.binary(max_size=60)))
def test_a_tail_of_any_bytes_raises_nothing(tail: bytes) -> None:
    assert find_usage(tail) is None
