"""Browsers, ports and headers."""

import http.client
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.support.gateway import ADMIN_KEY, NewKey, RunningGateway, StartGateway
from tests.support.ports import free_port

ORIGIN = "https://app.example"
BODY = {"model": "o4-mini", "input": "hello"}
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


@pytest.fixture(scope="module")
def key(gateway: RunningGateway) -> NewKey:
    return gateway.new_key()


@pytest.fixture
def browsable(start: StartGateway) -> Iterator[RunningGateway]:
    with start(server={"port": 0, "cors_origins": [ORIGIN]}) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/models", "/healthz", "/nothing", "/admin/v1/teams"])
def test_no_answer_says_what_serves_it_and_every_one_is_what_it_says(gateway: RunningGateway, path: str) -> None:
    answer = httpx.get(gateway.url + path)
    assert "server" not in answer.headers
    assert "x-powered-by" not in answer.headers
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_an_answer_of_the_request_line_is_what_it_says(gateway: RunningGateway, key: NewKey) -> None:
    with gateway.http(key) as http:
        for stream in (False, True):
            answer = http.post("/v1/responses", json={**BODY, "stream": stream})
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
            assert "server" not in answer.headers


def test_by_default_no_page_may_use_the_gateway_and_is_told_why(gateway: RunningGateway, key: NewKey) -> None:
    preflight = httpx.options(f"{gateway.url}/v1/responses", headers=PREFLIGHT)
    assert preflight.status_code == 403
    assert preflight.json()["error"]["code"] == "origin_not_allowed"
    assert "server.cors_origins" in preflight.json()["error"]["message"]
    with gateway.http(key) as http:
        answer = http.post("/v1/responses", json=BODY, headers={"origin": ORIGIN})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_an_allowed_origin_s_preflight_says_what_it_may(browsable: RunningGateway) -> None:
    answer = httpx.options(f"{browsable.url}/v1/responses", headers=PREFLIGHT)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["vary"] == "origin"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("stream", [False, True])
def test_an_allowed_origin_may_read_answers_and_streams(browsable: RunningGateway, stream: bool) -> None:
    with browsable.http(browsable.new_key()) as http:
        answer = http.post("/v1/responses", json={**BODY, "stream": stream}, headers={"origin": ORIGIN})
    assert answer.status_code == 200
    assert answer.headers.get_list("access-control-allow-origin") == [ORIGIN]
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(("path", "status"), [("/v1/responses", 401), ("/v1/models", 401), ("/v1/nothing", 404)])
def test_an_allowed_origin_may_read_refusals(browsable: RunningGateway, path: str, status: int) -> None:
    method = "POST" if path == "/v1/responses" else "GET"
    answer = httpx.request(method, browsable.url + path, headers={"origin": ORIGIN}, json={})
    assert answer.status_code == status
    assert answer.headers.get_list("access-control-allow-origin") == [ORIGIN]


@pytest.mark.parametrize("origin", ["https://evil.example", "https://app.example.evil", "http://app.example", "null"])
def test_another_origin_is_refused_and_told_why(browsable: RunningGateway, origin: str) -> None:
    answer = httpx.options(f"{browsable.url}/v1/responses", headers={**PREFLIGHT, "origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert origin in answer.json()["error"]["message"]
    assert "access-control-allow-origin" not in answer.headers


def test_no_page_of_another_origin_reaches_the_admin_api(browsable: RunningGateway) -> None:
    answer = httpx.options(f"{browsable.url}/admin/v1/teams", headers=PREFLIGHT)
    assert answer.status_code == 403
    answer = httpx.get(f"{browsable.url}/admin/v1/teams", headers={"origin": ORIGIN})
    assert "access-control-allow-origin" not in answer.headers


def test_operators_have_a_port_of_their_own(start: StartGateway) -> None:
    port = free_port()
    with start(admin={"port": port}) as gateway, gateway.http(ADMIN_KEY) as http:
        for path in ("/admin/v1/teams", "/metrics", "/admin/nothing"):
            assert http.get(path).json()["error"]["code"] == "unknown_url"
        assert http.get("/healthz").status_code == 200
        spoofed = http.get("/metrics", headers={"host": f"127.0.0.1:{port}", "x-forwarded-port": str(port)})
        assert spoofed.status_code == 404
        key = gateway.new_key()
        assert (
            openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key.text)
            .responses.create(model="o4-mini", input="x")
            .status
        )


def test_a_path_writes_no_header(gateway: RunningGateway) -> None:
    host = gateway.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.request("GET", "/nothing%0d%0aset-cookie:%20x=1")
    answer = connection.getresponse()
    assert answer.getheader("set-cookie") is None
    assert answer.status == 400
    connection.close()
