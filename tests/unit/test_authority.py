"""Who may lift a restriction of a key: whatever a lead sends, no key of its team may do more than an operator set."""

from collections.abc import Mapping

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.accounts import limit_names
from gateway.accounts.authority import operator_fields
from gateway.accounts.entities import RESTRICTIONS, Changes, Key, read_key
from gateway.errors import GatewayError
from gateway.protocol.operations import names_of
from gateway.routing.model_patterns import specificity

MODELS = ("a/x", "a/y", "b/x", "c")
PATTERNS = (*MODELS, "a/*", "b/*", "*")
OPERATIONS = ("responses", "responses.delete", "images.edits", "messages")
LISTED = (*OPERATIONS, "responses.*", "images.*", "*")
LIMITS = (*limit_names.LIMITS, "budget_usd_7d", "budget_tokens_36h")
HOLDABLE = (*RESTRICTIONS, *LIMITS)
RANK = ("active", "disabled", "revoked")

limits = st.dictionaries(st.sampled_from(LIMITS), st.none() | st.integers(0, 5), max_size=3)
changes = st.builds(
    Changes,
    status=st.none() | st.sampled_from(RANK),
    models=st.none() | st.lists(st.sampled_from(PATTERNS), max_size=3, unique=True).map(tuple),
    operations=st.none() | st.lists(st.sampled_from(LISTED), max_size=3, unique=True).map(tuple),
    limits=limits,
    expires_ms=st.none() | st.integers(0, 5),
    cut_at_cap=st.none() | st.booleans(),
)
steps = st.lists(st.tuples(st.booleans(), changes), max_size=6)

KEY: Mapping[str, str] = {"name": "k", "status": "active", "created_ms": "1", "version": "1"}


def apply(stored: Mapping[str, str], written: Mapping[str, str]) -> dict[str, str]:
    merged = {**stored, **written}
    return {name: value for name, value in merged.items() if value != ""}


def key_of(stored: Mapping[str, str]) -> Key:
    return read_key("team", "key", stored)


def permits(stored: Mapping[str, str], model: str) -> bool:
    allowed = stored.get("models", "")
    return not allowed or not set(specificity(model)).isdisjoint(allowed.split("\n"))


def permits_operation(stored: Mapping[str, str], operation: str) -> bool:
    allowed = stored.get("operations", "")
    return not allowed or not set(names_of(operation)).isdisjoint(allowed.split("\n"))


def as_tight(stored: Mapping[str, str], bound: Mapping[str, str]) -> bool:
    """Whether a key may do nothing that the bound does not permit."""
    for name in ("expires_ms", *LIMITS):
        if name in bound and (name not in stored or int(stored[name]) > int(bound[name])):
            return False
    if "cut_at_cap" in bound and "cut_at_cap" not in stored:
        return False
    if bound.get("status") == "disabled" and stored["status"] == "active":
        return False
    if not all(permits(bound, model) for model in MODELS if permits(stored, model)):
        return False
    return all(permits_operation(bound, one) for one in OPERATIONS if permits_operation(stored, one))


@given(steps)
def test_whatever_leads_send_a_key_stays_within_what_operators_set(history: list[tuple[bool, Changes]]) -> None:
    stored = apply(KEY, operator_fields(None, Changes(), by_operator=True))
    bound: dict[str, str] = {}
    for by_operator, change in history:
        try:
            held = operator_fields(key_of(stored), change, by_operator=by_operator)
        except GatewayError:
            assert not by_operator
            continue
        stored = apply(stored, {**change.fields(), **held})
        if by_operator:
            bound = apply(bound, {name: value for name, value in change.fields().items() if name in HOLDABLE})
        assert as_tight(stored, bound)


@given(steps)
def test_what_leads_set_they_may_lift(history: list[tuple[bool, Changes]]) -> None:
    stored = apply(KEY, operator_fields(None, Changes(), by_operator=False))
    for _, change in history:
        stored = apply(stored, {**change.fields(), **operator_fields(key_of(stored), change, by_operator=False)})
    assert key_of(stored).operator_values == {}


@given(changes, changes)
def test_what_restricts_a_key_of_an_older_version_counts_as_an_operators(before: Changes, change: Changes) -> None:
    stored = apply(KEY, before.fields())
    assume(stored["status"] != "revoked")
    try:
        held = operator_fields(key_of(stored), change, by_operator=False)
    except GatewayError:
        return
    after = apply(stored, {**change.fields(), **held})
    assert as_tight(after, stored)
    assert key_of(after).origins_known
    assert key_of(after).operator_values == key_of(stored).operator_values, (
        "what a lead tightened may be lifted up to what was there before"
    )


def test_an_operator_releases_a_restriction_without_lifting_it() -> None:
    stored = apply(KEY, {"rpm": "5", **operator_fields(None, Changes(limits={"rpm": 5}), by_operator=True)})
    with pytest.raises(GatewayError, match="not lift"):
        operator_fields(key_of(stored), Changes(limits={"rpm": None}), by_operator=False)
    with pytest.raises(GatewayError, match="Only an operator"):
        operator_fields(key_of(stored), Changes(release=("rpm",)), by_operator=False)
    stored = apply(stored, operator_fields(key_of(stored), Changes(release=("rpm",)), by_operator=True))
    assert stored["rpm"] == "5"
    operator_fields(key_of(stored), Changes(limits={"rpm": None}), by_operator=False)
