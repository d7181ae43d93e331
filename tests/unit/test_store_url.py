"""The forms of `store.url`."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.url import Address, Mode, StoreUrl


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("unix:///run/v.sock", StoreUrl(Mode.SINGLE, (Address(path="/run/v.sock"),))),
        ("unix:///a%20b?db=2", StoreUrl(Mode.SINGLE, (Address(path="/a b"),), db=2)),
        ("redis://h", StoreUrl(Mode.SINGLE, (Address("h", 6379),))),
        ("redis://:p%40w@[::1]:7/3", StoreUrl(Mode.SINGLE, (Address("::1", 7),), password="p@w", db=3)),
        ("rediss://u:p@h:1", StoreUrl(Mode.SINGLE, (Address("h", 1),), tls=True, username="u", password="p")),
        (
            "redis+sentinel://u:p@a,b:2/main/4",
            StoreUrl(
                Mode.SENTINEL,
                (Address("a", 26379), Address("b", 2)),
                username="u",
                password="p",
                db=4,
                primary_name="main",
            ),
        ),
        ("rediss+cluster://a:1,b:2", StoreUrl(Mode.CLUSTER, (Address("a", 1), Address("b", 2)), tls=True)),
    ],
)
def test_urls_name_the_nodes(url: str, expected: StoreUrl) -> None:
    assert StoreUrl.parse(url) == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://secret@h", 'unknown scheme; "embedded", or one of unix://, redis://'),
        ("h:6379", "unknown scheme"),
        ("redis://:secret@h:70000", "a host or its port"),
        ("redis://:secret@h:port", "a host or its port"),
        ("redis://:secret", "a host or its port"),
        ("redis://u:1/secret@h", "must be a number"),
        ("redis://:secret@/0", "a host is missing"),
        ("redis://a,b", r"several hosts need redis\+sentinel"),
        ("redis://h/x", "must be a number"),
        ("redis://h/1/2", "too many parts"),
        ("redis+cluster://h/1", "too many parts"),
        ("redis+sentinel://h", "the name of the primary is missing"),
        ("redis://[::1", "Invalid IPv6"),
        ("unix://", "the socket's path is missing"),
    ],
)
def test_a_bad_url_is_a_clear_error_that_shows_no_secret(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        StoreUrl.parse(url)
    assert "secret" not in str(caught.value)


@given(st.text())
def test_any_text_is_a_url_or_an_error(text: str) -> None:
    for url in (text, f"redis://{text}", f"redis+sentinel://{text}/main"):
        with contextlib.suppress(ValueError):
            assert StoreUrl.parse(url).addresses
