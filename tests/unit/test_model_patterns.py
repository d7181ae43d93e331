"""Model patterns: which match, and which of them wins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.model_patterns import is_pattern, specificity

models = st.lists(st.text("abc.-:", min_size=1, max_size=4), min_size=1, max_size=5).map("/".join)


@pytest.mark.parametrize(
    ("model", "patterns"),
    [
        ("o4-mini", ("o4-mini", "*")),
        ("openai/gpt-5.2", ("openai/gpt-5.2", "openai/*", "*")),
        ("a/b/c", ("a/b/c", "a/b/*", "a/*", "*")),
    ],
)
def test_the_most_specific_pattern_comes_first(model: str, patterns: tuple[str, ...]) -> None:
    assert specificity(model) == patterns


@given(models)
def test_each_pattern_is_one_and_matches_more_than_the_one_before(model: str) -> None:
    found = specificity(model)
    assert found[0] == model
    assert found[-1] == "*"
    assert all(is_pattern(pattern) for pattern in found)
    assert all(model.startswith(pattern.removesuffix("*")) for pattern in found[1:])
    assert sorted(found[1:], key=len, reverse=True) == list(found[1:])


@pytest.mark.parametrize("text", ["", "**", "a*", "*/a", "a/*/b", "a b", "a/", "/*", "a/**", "a\n"])
def test_what_is_no_pattern(text: str) -> None:
    assert is_pattern(text) is (text == "a/")  # an id may end in a slash, odd as it is
