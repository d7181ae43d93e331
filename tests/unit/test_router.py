"""Where a model goes, by tables. Pure."""

import random
from collections import Counter

import pytest

from gateway.billing.price_table import PriceTable
from gateway.errors import GatewayError
from gateway.routing.model_patterns import specificity
from gateway.routing.router import Router, RouteRule
from tests.support.prices import price_row

PRICES = PriceTable({"*": price_row(1, 1, 1)})


def router(*rules: RouteRule, aliases: dict[str, str] | None = None, prices: PriceTable = PRICES) -> Router:
    return Router({rule.pattern: rule for rule in rules}, aliases or {}, prices, draw=random.Random(7))  # noqa: S311 - draws that repeat


def test_the_most_specific_route_wins() -> None:
    table = router(*(RouteRule(pattern, (pattern,)) for pattern in ("*", "a/*", "a/b/*", "a/b/c")))
    for model, pattern in [("a/b/c", "a/b/c"), ("a/b/d", "a/b/*"), ("a/d", "a/*"), ("d", "*"), ("a", "*")]:
        assert table.resolve(model).candidates == (pattern,)


@pytest.mark.parametrize(
    ("rule", "wire"),
    [
        (RouteRule("*", ("u",)), "a/b"),
        (RouteRule("*", ("u",), rename="new"), "new"),
        (RouteRule("*", ("u",), strip_prefix="a/"), "b"),
        (RouteRule("*", ("u",), strip_prefix="x/"), "a/b"),
        (RouteRule("*", ("u",), strip_prefix="a/b"), "a/b"),  # an empty name is not permitted
    ],
)
def test_what_the_upstream_is_told(rule: RouteRule, wire: str) -> None:
    route = router(rule).resolve("a/b")
    assert (route.model, route.upstream_model) == ("a/b", wire)


def test_an_alias_is_resolved_once_and_names_what_is_priced_and_permitted() -> None:
    table = router(RouteRule("a/*", ("u",)), aliases={"fast": "a/b", "a/b": "a/c"})
    route = table.resolve("fast")
    assert (route.model, route.upstream_model, route.patterns) == ("a/b", "a/b", ("a/b", "a/*", "*"))


@pytest.mark.parametrize(
    ("table", "missing"),
    [
        (router(RouteRule("a/*", ("u",))), "route"),
        (router(RouteRule("*", ("u",)), prices=PriceTable({"a/*": price_row(1, 1, 1)})), "price"),
    ],
)
def test_a_model_without_a_route_or_a_price_does_not_exist(table: Router, missing: str) -> None:
    with pytest.raises(GatewayError, match=missing) as caught:
        table.resolve("b")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_upstreams_are_tried_in_their_order_where_they_have_no_weights() -> None:
    assert router(RouteRule("*", ("b", "a", "c"))).resolve("m").candidates == ("b", "a", "c")


def test_weights_draw_the_first_and_leave_the_others_for_failover() -> None:
    table = router(RouteRule("*", ("a", "b", "never"), weights=(3, 1, 0)))
    drawn = [table.resolve("m").candidates for _ in range(2_000)]
    assert all(sorted(one) == ["a", "b"] for one in drawn)
    assert 0.70 < Counter(one[0] for one in drawn)["a"] / len(drawn) < 0.80


@pytest.mark.parametrize(
    ("model", "found"), [("a/b/c", 4), ("a/b/d", 3), ("a/x", 2), ("x", 1), ("a", 1), ("a/b", 2), ("a/b/c/d", 3)]
)
def test_the_most_specific_price_wins(model: str, found: int) -> None:
    rows = {
        pattern: price_row(rate, rate, rate) for pattern, rate in (("*", 1), ("a/*", 2), ("a/b/*", 3), ("a/b/c", 4))
    }
    assert PriceTable(rows).find(specificity(model)) == price_row(found, found, found)
    assert PriceTable({"a/*": price_row(1, 1, 1)}).find(specificity("b")) is None
