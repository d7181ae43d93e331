"""The error catalogue and its rendering: a form that a program can read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import CATALOGUE, CLOSING, GatewayError

CODES = sorted(CATALOGUE)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("numeric", [False, True])
def test_a_body_has_the_four_fields_as_strings(code: str, numeric: bool) -> None:
    status, headers, body = GatewayError(code, "Why.").render(numeric_codes=numeric)
    error = json.loads(body)["error"]
    kind = CATALOGUE[code]
    expected = status if numeric else code
    assert error == {"message": "Why.", "type": kind.type, "param": "", "code": expected}
    assert status == kind.status
    assert dict(headers)[b"content-length"] == b"%d" % len(body)


@pytest.mark.parametrize("code", CODES)
def test_a_known_wait_is_told_in_three_places(code: str) -> None:
    error = GatewayError(code, "Why.", wait_ms=1_001)
    headers = dict(error.headers())
    assert headers[b"retry-after"] == b"2"
    assert headers[b"retry-after-ms"] == b"1001"
    assert error.body()["error"]["retry_after"] == 2
    assert b"x-should-retry" not in headers


@given(st.integers(0, 10**9))
def test_who_waits_as_told_has_waited_long_enough(wait_ms: int) -> None:
    headers = dict(GatewayError("rate_limit_exceeded", "", wait_ms=wait_ms).headers())
    assert max(1, int(headers[b"retry-after"]) - 1) * 1000 <= max(wait_ms, 1000)
    assert int(headers[b"retry-after"]) * 1000 >= wait_ms


@pytest.mark.parametrize("code", CODES)
def test_where_a_repeat_cannot_help_the_sdk_is_told_not_to(code: str) -> None:
    headers = dict(GatewayError(code, "Why.").headers())
    kind = CATALOGUE[code]
    told = headers.get(b"x-should-retry") == b"false"
    assert told == (kind.retry == "never" or kind.status in (402, 429))


@pytest.mark.parametrize("code", CODES)
def test_a_connection_that_lost_bytes_of_a_request_is_ended(code: str) -> None:
    assert dict(GatewayError(code, "").headers()).get(b"connection", b"").startswith(b"close") == (code in CLOSING)


def test_what_explains_a_refusal_stands_beside_the_four_fields() -> None:
    error = GatewayError("insufficient_quota", "Why.", param="model", explain={"limit": "credits", "resets_at": None})
    fields = error.body()["error"]
    assert fields["param"] == "model"
    assert fields["limit"] == "credits"
    assert fields["resets_at"] is None


def test_a_code_that_the_catalogue_does_not_have_is_a_bug() -> None:
    with pytest.raises(KeyError):
        GatewayError("no_such_code", "")


@given(st.text())
def test_any_message_can_be_told(message: str) -> None:
    _, _, body = GatewayError("invalid_json", message.encode("utf-8", "replace").decode()).render()
    assert json.loads(body)["error"]["type"] == "invalid_request"
