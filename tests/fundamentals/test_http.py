"""HTTP as clients really use it, on a bare socket: other methods, other paths, upgrades, early refusals."""

import json
from collections.abc import Iterator

import pytest

from tests.fundamentals.raw import RawAnswer, RawConnection, bearer, head
from tests.support.gateway import NewKey, RunningGateway

BODY = b'{"model":"o4-mini","input":"Hello"}'
STREAM = b'{"model":"o4-mini","input":"Hello","stream":true}'
UNKNOWN_KEY = bearer("sk-gw-no")


@pytest.fixture
def wire(gateway: RunningGateway) -> Iterator[RawConnection]:
    with RawConnection(gateway.url) as connection:
        yield connection


@pytest.fixture
def authorization(key: NewKey) -> str:
    return bearer(key.text)


def code(answer: RawAnswer) -> str:
    error = json.loads(answer.body)["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert isinstance(error["param"], str)
    assert answer.headers["x-request-id"].startswith("req_")
    found: str = error["code"]
    return found


H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ")


def test_an_http2_upgrade_is_answered_over_http1(wire: RawConnection, authorization: str) -> None:
    """Java's HttpClient asks for one unless it is set to HTTP/1.1, and so does `curl --http2`."""
    for upgrade in (H2C, (), H2C):
        answer = wire.request(BODY, authorization, *upgrade)
        assert (answer.status, json.loads(answer.body)["object"]) == (200, "response")


def test_an_http2_upgrade_does_not_keep_a_connection_that_is_to_end(wire: RawConnection, authorization: str) -> None:
    answer = wire.request(BODY, authorization, "Connection: close, Upgrade", "Upgrade: h2c")
    assert answer.status == 200
    assert wire.closed


def test_a_websocket_upgrade_of_a_post_is_refused_instead_of_losing_its_body(
    wire: RawConnection, authorization: str
) -> None:
    answer = wire.request(BODY, authorization, "Connection: Upgrade", "Upgrade: websocket")
    assert (answer.status, code(answer)) == (426, "upgrade_unsupported")
    assert wire.closed


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        ("GET", "/v1/responses", 405, "method_not_allowed"),
        ("PUT", "/v1/responses", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/responses", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/responses/", 404, "unknown_url"),
        ("POST", "//v1/responses", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/v1/files/file-1", 405, "method_not_allowed"),
        ("GET", "/v1/../v1/key", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("GET", "/docs", 404, "unknown_url"),
        ("GET", "/openapi.json", 404, "unknown_url"),
        ("GET", "/v1/%FF", 404, "unknown_url"),
    ],
)
def test_anything_else_is_refused_in_the_error_format(
    wire: RawConnection, authorization: str, method: str, path: str, status: int, expected: str
) -> None:
    answer = wire.request(b"", authorization, method=method, path=path)
    assert (answer.status, code(answer)) == (status, expected)
    assert ("allow" in answer.headers) == (status == 405)
    assert path != "/v1/responses" or answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "status"), [("/healthz", 200), ("/v1/models", 200), ("/v1/responses", 405), ("/v1/nowhere", 404)]
)
def test_a_head_request_gets_what_get_does_without_its_body(
    wire: RawConnection, authorization: str, path: str, status: int
) -> None:
    found = wire.request(b"", authorization, method="HEAD", path=path)
    assert (found.status, found.body) == (status, b"")
    assert found.headers["content-length"] != "0"
    assert wire.request(BODY, authorization).status == 200


@pytest.mark.parametrize("path", ["/v1/%72esponses", "/v1/responses?api-version=1", "http://gateway/v1/responses"])
def test_other_spellings_of_the_path_are_the_same_path(wire: RawConnection, authorization: str, path: str) -> None:
    assert wire.request(BODY, authorization, path=path).status == 200


def test_a_connection_serves_on_after_every_kind_of_answer(wire: RawConnection, authorization: str) -> None:
    for body, key, status in [
        (b"{", authorization, 400),
        (BODY, UNKNOWN_KEY, 401),
        (STREAM, authorization, 200),
        (b'{"model":"sim/error-500","input":"x"}', authorization, 500),
        (b'{"model":"sim/html","input":"x"}', authorization, 502),
        (b'{"model":"sim/cut-3","input":"x","stream":true}', authorization, 200),
        (BODY, authorization, 200),
    ]:
        assert wire.request(body, key).status == status


def test_a_refusal_before_the_body_was_read_can_be_read_by_a_client_that_still_sends(
    wire: RawConnection, authorization: str
) -> None:
    """The refusal needs only the head.

    The rest of the body is read and dropped, so that the connection can be used again.
    """
    size = 4_000_000
    wire.send(head("POST", "/v1/responses", UNKNOWN_KEY, f"Content-Length: {size}"))
    answer = wire.read()
    assert (answer.status, code(answer)) == (401, "invalid_api_key")
    wire.send(b"x" * size)
    assert wire.request(BODY, authorization).status == 200


def test_a_client_that_asks_first_is_told_to_go_on(wire: RawConnection, authorization: str) -> None:
    wire.send(head("POST", "/v1/responses", authorization, f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
    assert wire.interim() == 100
    wire.send(BODY)
    assert wire.read().status == 200


def test_a_client_that_asks_first_is_spared_a_body_that_would_be_refused(wire: RawConnection) -> None:
    wire.send(head("POST", "/v1/responses", UNKNOWN_KEY, "Content-Length: 1000000", "Expect: 100-continue"))
    assert wire.read().status == 401


def test_a_chunked_body_is_read(wire: RawConnection, authorization: str) -> None:
    wire.send(head("POST", "/v1/responses", authorization, "Transfer-Encoding: chunked"))
    for byte in BODY:
        wire.send(b"1\r\n%c\r\n" % byte)
    wire.send(b"0\r\n\r\n")
    assert wire.read().status == 200


def test_requests_that_do_not_wait_for_answers_are_answered_in_order(wire: RawConnection, authorization: str) -> None:
    wire.send((head("POST", "/v1/responses", authorization, f"Content-Length: {len(BODY)}") + BODY) * 3)
    identifiers = [wire.read().headers["x-request-id"] for _ in range(3)]
    assert len(set(identifiers)) == 3


def test_an_http_1_0_client_gets_a_stream_that_its_connection_ends(wire: RawConnection, authorization: str) -> None:
    answer = wire.request(STREAM, authorization, version="1.0")
    assert "transfer-encoding" not in answer.headers
    assert answer.body.startswith(b"event: response.created\n")
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert wire.closed


def test_an_http_1_0_client_is_served_and_its_connection_closed(wire: RawConnection, authorization: str) -> None:
    assert wire.request(BODY, authorization, version="1.0").status == 200
    assert wire.closed


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), "No API key was sent."),
        (("Authorization: Bearer ",), "No API key was sent."),
        (("X-Api-Key: sk-gw-a",), "The API key is not valid."),
        (("api-key: sk-gw-a",), "The API key is not valid."),
        (("Authorization: Basic eDp5",), "the scheme 'Basic'"),
        (("Authorization: Bearer sk-gw-a",), "The API key is not valid."),
    ],
)
def test_a_refusal_says_what_is_wrong_with_the_key(wire: RawConnection, lines: tuple[str, ...], words: str) -> None:
    for method, path in (("POST", "/v1/responses"), ("GET", "/v1/models")):
        answer = wire.request(BODY, *lines, method=method, path=path)
        assert (answer.status, code(answer)) == (401, "invalid_api_key")
        assert words in json.loads(answer.body)["error"]["message"]
        assert answer.headers["www-authenticate"] == 'Bearer realm="gateway"'


def test_a_404_names_the_path_that_was_meant(wire: RawConnection, authorization: str) -> None:
    answer = wire.request(BODY, authorization, path="/v1/v1/responses/")
    assert json.loads(answer.body)["error"]["message"].endswith("Did you mean /v1/responses?")


@pytest.mark.parametrize("lines", [("Authorization:",), ("Authorization: Bearer",), ("Authorization: Basic eDp5",), ()])
def test_without_a_key_there_is_no_entry(wire: RawConnection, lines: tuple[str, ...]) -> None:
    answer = wire.request(BODY, *lines)
    assert (answer.status, code(answer)) == (401, "invalid_api_key")


def test_the_name_of_the_scheme_is_read_in_any_case(wire: RawConnection, key: NewKey) -> None:
    assert wire.request(BODY, f"authorization: bEARER  {key.text} ").status == 200


def test_every_answer_names_its_request_once(wire: RawConnection, authorization: str) -> None:
    for method, path in [("GET", "/v1/models"), ("GET", "/v1/key"), ("GET", "/healthz"), ("GET", "/v1/nowhere")]:
        identifier = wire.request(b"", authorization, method=method, path=path).headers["x-request-id"]
        assert identifier.startswith("req_")
        assert len(identifier) == 36
