"""Tags of the header and of the body: what is taken, what is refused, and what stays bounded."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.protocol.attribution import (
    DEFAULT,
    MAX_VALUE,
    NO_LABELS,
    NOBODY,
    BodyLabels,
    counted_as,
    named_by,
    read_labels,
    tag_names,
    tags_of,
)

NAMES = st.text("abcdefghijklmnopqrstuvwxyzABC019_.-", min_size=1, max_size=64)
PRINTABLE = st.characters(exclude_categories=["C", "Z"], include_characters=" ")  # as `str.isprintable` says
VALUES = st.text(PRINTABLE, min_size=1, max_size=MAX_VALUE)


def tags(
    header: str | None = None, body: dict[str, Any] | None = None, **policy: Any
) -> tuple[dict[str, str], str | None]:
    """The tags and the end user of a request."""
    labels = NO_LABELS if body is None else read_labels(body)
    lines = tags_of(None if header is None else header.encode(), labels, DEFAULT._replace(**policy))
    return tag_names(lines) if lines else ({}, None)


@given(st.dictionaries(NAMES, VALUES, max_size=8))
def test_what_a_header_says_is_taken_as_it_was_meant(wanted: dict[str, str]) -> None:
    header = ", ".join(f"{name}={quote(value)}" for name, value in wanted.items())
    assert tags(header) == (wanted, None)


@pytest.mark.parametrize(
    "header",
    [
        "project",
        "project=",
        "=alpha",
        "pro ject=alpha",
        "project=a%0Ab",
        "project=" + "x" * 129,
        "x" * 65 + "=a",
        "a=1,a=2",
        ",".join(f"n{number}=1" for number in range(9)),
    ],
)
def test_a_header_that_is_wrong_is_refused_and_says_why(header: str) -> None:
    with pytest.raises(GatewayError) as refused:
        tags(header)
    assert (refused.value.code, refused.value.param) == ("invalid_field", "x-gateway-tags")


def test_an_empty_header_has_no_tags() -> None:
    assert tags(" , ") == ({}, None)


@given(st.dictionaries(st.text(max_size=80), st.none() | st.text() | st.integers() | st.lists(st.text()), max_size=40))
def test_of_metadata_whatever_it_holds_what_is_no_tag_is_left_out(metadata: dict[str, Any]) -> None:
    labels = read_labels({"metadata": metadata})
    assert len(labels.metadata) <= 16
    found, end_user = tags(None, {"metadata": metadata})
    assert len(found) <= DEFAULT.max_tags
    for name, value in found.items():
        assert "\n" not in name + value
        assert "=" not in name
        assert 0 < len(value) <= MAX_VALUE
        assert value.isprintable()
    assert end_user is None or "\n" not in end_user


def test_the_header_goes_before_the_metadata() -> None:
    body = {"metadata": {"project": "beta", "run": "7"}}
    assert tags("project=alpha", body) == ({"project": "alpha", "run": "7"}, None)


def test_only_the_members_that_the_configuration_names_count() -> None:
    body = {"metadata": {"project": "alpha", "request": "8"}}
    assert tags(None, body, metadata=frozenset({"project"})) == ({"project": "alpha"}, None)
    assert tags(None, body, metadata=frozenset()) == ({}, None)


@pytest.mark.parametrize(
    ("body", "user"),
    [
        ({"user": "bob"}, "bob"),
        ({"user": "bob", "safety_identifier": "sid"}, "sid"),
        ({"metadata": {"user_id": "claude"}}, "claude"),
        ({"metadata": {"user_id": "claude"}, "user": "bob"}, "bob"),
        ({"user": 7, "safety_identifier": None}, None),
        ({"user": "  "}, None),
        ({"user": "a\nb"}, "a b"),
    ],
)
def test_who_the_end_user_is(body: dict[str, Any], user: str | None) -> None:
    assert tags(None, body)[1] == user


@pytest.mark.parametrize(
    ("header", "user"),
    [
        (b"bob", "bob"),
        (b"%C3%9Cn%20k%2Cd", "\u00dcn k,d"),
        ("\u00dcn".encode(), "\u00dcn"),
        ("\u00dcn".encode("latin-1"), "\u00dcn"),
        (b"a%0Ab", "a b"),
        (b"", "body"),
        (b" %20 ", "body"),
        (None, "body"),
    ],
)
def test_the_header_names_the_end_user_before_the_body(header: bytes | None, user: str) -> None:
    labels = read_labels({"user": "body", "metadata": {"project": "alpha"}})
    assert named_by(header, labels) == labels._replace(end_user=user)


@given(name=st.text(PRINTABLE, min_size=1, max_size=5 * MAX_VALUE))
def test_a_name_is_the_same_end_user_in_the_header_and_in_the_body(name: str) -> None:
    assert named_by(quote(name).encode(), NO_LABELS) == read_labels({"user": name})


def test_an_end_user_can_be_hashed_or_left_out() -> None:
    body = {"user": "bob@example.com"}
    policy = {"end_users": "hashed", "hash_key": b"k" * 32}
    _, hashed = tags(None, body, **policy)
    assert hashed is not None
    assert "bob" not in hashed
    assert len(hashed) == 32
    assert hashed == tags(None, body, **policy)[1]
    assert hashed != tags(None, body, **{**policy, "hash_key": b"l" * 32})[1]
    assert tags(None, body, end_users="off") == ({}, None)


def test_what_says_nothing_costs_nothing() -> None:
    assert tags_of(None, BodyLabels(), DEFAULT) == ""


@given(
    one=st.text(PRINTABLE, min_size=1, max_size=3 * MAX_VALUE),
    other=st.text(min_size=1, max_size=9),
    times=st.integers(1, 90),
)
def test_end_users_whose_names_begin_alike_stay_two(one: str, other: str, times: int) -> None:
    """However long they are, what is kept of a name is bounded."""
    names = {one * times, one * times + other}
    found = {read_labels({"user": name}).end_user for name in names if not name.isspace()}
    assert all(len(name) <= MAX_VALUE for name in found)
    assert len(found) == len({" ".join(name.split()) for name in names if not name.isspace()}) or any(
        not letter.isprintable() for letter in other
    )


def test_limits_know_an_end_user_by_a_digest() -> None:
    bob, eve = (read_labels({"user": name}) for name in ("bob", "eve"))
    keyed = DEFAULT._replace(hash_key=b"k" * 32)
    digests = {counted_as(user, policy, NOBODY) for user in (bob, eve) for policy in (DEFAULT, keyed)}
    assert len(digests) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", digest) for digest in digests)
    assert counted_as(NO_LABELS, DEFAULT, NOBODY) == NOBODY
    assert counted_as(read_labels({"metadata": {"run": "1"}}), DEFAULT, "") == ""
