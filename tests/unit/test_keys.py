"""The format of an API key: what it names, and what is refused without asking anybody."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.identity.api_keys import (
    ALPHABET,
    ID_LENGTH,
    SECRET_LENGTH,
    ApiKey,
    invalid_api_key,
    is_id,
    key_of_request,
    new_id,
    new_secret,
    parse_api_key,
    parse_authorization,
)

ids = st.text(ALPHABET, min_size=ID_LENGTH, max_size=ID_LENGTH)
KEY, STORED = new_secret(
    "t" * ID_LENGTH, "k" * ID_LENGTH, bytes(range(64))
)  # the same in every process: names of tests


OTHER, _ = new_secret("t" * ID_LENGTH, "k" * ID_LENGTH, bytes(range(1, 65)))


def refused(text: str | None) -> None:
    with pytest.raises(GatewayError) as caught:
        parse_authorization(text)
    assert caught.value.code == invalid_api_key().code
    if text is not None and text.startswith("Bearer ") and text.removeprefix("Bearer ").strip():
        assert caught.value.body() == invalid_api_key().body(), "what looks like a key is refused in one way"
    if text is not None and KEY in text:
        assert KEY not in caught.value.message


@given(ids, ids)
def test_a_key_names_its_team_and_itself_and_only_its_digest_is_kept(team_id: str, key_id: str) -> None:
    text, stored = new_secret(team_id, key_id)
    assert parse_api_key(text) == ApiKey(team_id, key_id, stored)
    secret = text.rpartition("-")[2][:SECRET_LENGTH]
    assert stored == hashlib.sha256(secret.encode()).hexdigest()


def test_a_secret_holds_more_than_256_bits_and_comes_once() -> None:
    assert len(ALPHABET) ** SECRET_LENGTH > 2**256
    assert len({new_secret("t" * 10, "k" * 10)[1] for _ in range(500)}) == 500
    assert len({new_id() for _ in range(500)}) == 500


@given(st.binary(min_size=64, max_size=64))
def test_a_seed_gives_the_same_key_again(seed: bytes) -> None:
    assert new_secret("t" * 10, "k" * 10, seed) == new_secret("t" * 10, "k" * 10, seed)


@given(st.integers(0, len(KEY) - 1), st.characters())
def test_one_wrong_letter_is_noticed(place: int, letter: str) -> None:
    mistyped = KEY[:place] + letter + KEY[place + 1 :]
    if mistyped == KEY:
        assert parse_api_key(mistyped).secret_hash == STORED
    else:
        refused(f"Bearer {mistyped}")


@given(st.text(max_size=120))
def test_garbage_is_refused(text: str) -> None:
    refused(text)
    refused(f"Bearer {text}")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        KEY,
        f"Basic {KEY}",
        f"Bearer {KEY}0",
        f"Bearer {KEY[:-1]}",
        f"Bearer{KEY}",
        f"Bearer {KEY} {KEY}",
        f"Bearer {KEY},",
        f"Bearer {KEY.upper()}",
        f"Bearer \u0660{KEY[1:]}",
    ],
)
def test_what_is_no_bearer_key_is_refused(header: str | None) -> None:
    refused(header)


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER   {KEY}  "])
def test_a_bearer_key_is_read(header: str) -> None:
    assert parse_authorization(header) == ApiKey("t" * ID_LENGTH, "k" * ID_LENGTH, STORED)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"x-api-key": KEY},
        {"api-key": f" {KEY} "},
        {"authorization": f"Bearer {KEY}", "x-api-key": KEY},
        {"authorization": f"Bearer {KEY}", "x-api-key": ""},
        {"api-key": KEY, "x-api-key": KEY},
    ],
)
def test_a_key_is_read_wherever_sdks_send_one(headers: dict[str, str]) -> None:
    sent = {name.encode(): value.encode() for name, value in headers.items()}
    assert key_of_request(sent) == ApiKey("t" * ID_LENGTH, "k" * ID_LENGTH, STORED)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": "sk-ant-1"},
        {"authorization": f"Bearer {KEY}", "x-api-key": "sk-ant-1"},
        {"authorization": "Basic YTpi", "x-api-key": KEY},
        {"authorization": f"Bearer {KEY}", "x-api-key": OTHER},
        {"api-key": OTHER, "x-api-key": KEY},
    ],
)
def test_what_is_no_key_and_keys_that_differ_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(GatewayError) as caught:
        key_of_request({name.encode(): value.encode() for name, value in headers.items()})
    assert caught.value.code == "invalid_api_key"


@given(st.text(max_size=12))
def test_an_id_has_ten_letters_and_digits(text: str) -> None:
    assert is_id(text) == (len(text) == ID_LENGTH and set(text) <= set(ALPHABET))
