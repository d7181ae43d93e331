"""The counters match what happened."""

import json
import socket
import threading
from pathlib import Path

import httpx
import pytest

from gateway.billing.money import format_usd
from tests.observability.scrape import reaches, scrape, value
from tests.support.gateway import RunningGateway, StartGateway, running_gateway
from tests.support.servers import valkey_server
from tests.support.waiting import wait_until_sync

BODY = {"model": "o4-mini", "input": "hello"}


def test_a_request_is_counted_by_route_status_and_outcome(gateway: RunningGateway) -> None:
    with gateway.http(gateway.new_key()) as http:
        response_id = http.post("/v1/responses", json=BODY).json()["id"]
        http.post("/v1/responses", json={**BODY, "stream": True})
        http.get(f"/v1/responses/{response_id}")
    name = "gateway_requests_total"
    reaches(2, gateway.url, name, route="/v1/responses", status="200", outcome="completed", code="")
    reaches(1, gateway.url, name, route="/v1/responses/{id}")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"input": "no model"}, "400", "missing_field"),
        ({**BODY, "model": "sim/html"}, "502", "upstream_invalid_response"),
    ],
)
def test_a_refusal_is_counted_by_its_code(
    gateway: RunningGateway, fields: dict[str, str], status: str, code: str
) -> None:
    with gateway.http(gateway.new_key()) as http:
        http.post("/v1/responses", json=fields)
    reaches(1, gateway.url, "gateway_requests_total", status=status, code=code)


@pytest.mark.parametrize(
    ("path", "route", "code"),
    [
        ("/healthz", "/healthz", ""),
        ("/v1/models/some/model", "/v1/models/{model:path}", "invalid_api_key"),
        ("/admin/v1/teams/abc/keys/def", "/admin/v1/teams/{team}/keys/{key}", "invalid_admin_key"),
        ("/whatever/comes", "other", "unknown_url"),
    ],
)
def test_other_routes_are_counted_by_their_pattern(gateway: RunningGateway, path: str, route: str, code: str) -> None:
    with gateway.http() as http:
        http.get(path)
    reaches(1, gateway.url, "gateway_requests_total", route=route, code=code)


@pytest.mark.parametrize("numeric", [False, True])
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 2000, 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nx: y" + b"z" * 2000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nx: ", 408, "request_timeout"),
        (b"\x16\x03\x01 no HTTP\r\n\r\n", 400, "invalid_http"),
    ],
    ids=["large", "large at once", "slow", "no HTTP"],
)
def test_a_head_that_is_refused_before_it_is_a_request_is_counted(
    start: StartGateway, sent: bytes, status: int, code: str, numeric: bool
) -> None:
    bounds = {"port": 0, "max_head_bytes": 1024, "head_timeout_s": 0.3}
    with start(server=bounds, errors={"numeric_codes": numeric}) as gateway:
        address = httpx.URL(gateway.url)
        with socket.create_connection((address.host, address.port or 0), timeout=10) as connection:
            connection.sendall(sent)
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nx-content-type-options: nosniff\r\n" in answer
        assert answer.count(b"\r\ncontent-length: ") == 1
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == (status if numeric else code)
        labels = {"route": "-", "status": str(status), "code": code}
        reaches(1, gateway.url, "gateway_requests_total", **labels)


def test_tokens_and_spend_are_those_of_the_ledger(gateway: RunningGateway) -> None:
    key = gateway.new_key()
    with gateway.http(key) as http:
        usages = [http.post("/v1/responses", json=BODY).json()["usage"] for _ in range(3)]
    reaches(3, gateway.url, "gateway_settled_total", settled_by="usage")
    labels = {"team": key.team.id, "model": "o4-mini"}
    for kind in ("input", "output"):
        wanted = sum(usage[f"{kind}_tokens"] for usage in usages)
        assert value(gateway.url, "gateway_tokens_total", kind=kind, **labels) == wanted
    spent = value(gateway.url, "gateway_spend_usd_total", **labels)
    assert spent == float(format_usd(gateway.balance(key).spent)) > 0


def test_what_is_taken_back_has_a_counter_of_its_own_so_that_none_falls(gateway: RunningGateway) -> None:
    key = gateway.new_key()
    labels = {"team": key.team.id}
    with gateway.sdk(key) as client:
        made = client.responses.create(model="sim/slow-20", input="x", background=True, max_output_tokens=500)
        wait_until_sync(lambda: gateway.balance(key).spent > 0, what="it is charged by an estimate")
        most = float(format_usd(gateway.balance(key).spent))
        wait_until_sync(lambda: value(gateway.url, "gateway_spend_usd_total", **labels) == most, what="it is counted")
        wait_until_sync(lambda: client.responses.retrieve(made.id).usage is not None, what="its usage is seen")
        usage = client.responses.retrieve(made.id).usage
    wait_until_sync(
        lambda: value(gateway.url, "gateway_spend_corrections_usd_total", **labels) > 0, what="it is corrected"
    )
    assert value(gateway.url, "gateway_spend_usd_total", **labels) == most
    taken_back = value(gateway.url, "gateway_spend_corrections_usd_total", **labels)
    assert most - taken_back == pytest.approx(float(format_usd(gateway.balance(key).spent)))
    assert usage is not None
    tokens, taken_back = (
        value(gateway.url, f"gateway_{name}_total", kind="output", **labels) for name in ("tokens", "token_corrections")
    )
    assert tokens - taken_back == usage.output_tokens


def test_teams_and_models_beyond_the_bound_are_other(start: StartGateway) -> None:
    with start(server={"port": 0, "metrics_max_series": 2}) as gateway:
        keys = [gateway.new_key() for _ in range(4)]
        for key in keys:
            with gateway.http(key) as http:
                http.post("/v1/responses", json=BODY)
        reaches(4, gateway.url, "gateway_settled_total", settled_by="usage")
        spend = {dict(labels)["team"] for (name, labels) in scrape(gateway.url) if name == "gateway_spend_usd_total"}
        assert spend == {keys[0].team.id, keys[1].team.id, "other"}
        total = value(gateway.url, "gateway_spend_usd_total")
        assert total == pytest.approx(sum(float(format_usd(gateway.balance(key).spent)) for key in keys))


def test_times_are_observed_once_a_request(gateway: RunningGateway) -> None:
    with gateway.http(gateway.new_key()) as http:
        http.post("/v1/responses", json=BODY)
        http.post("/v1/responses", json={**BODY, "stream": True})
    route = "/v1/responses"
    reaches(2, gateway.url, "gateway_overhead_seconds_count", route=route)
    reaches(1, gateway.url, "gateway_request_seconds_count", route=route, stream="true")
    reaches(1, gateway.url, "gateway_first_event_seconds_count", route=route)
    reaches(2, gateway.url, "gateway_store_seconds_count", call="admit")
    reaches(2, gateway.url, "gateway_store_seconds_count", call="settle")
    reaches(2, gateway.url, "gateway_upstream_seconds_count", upstream="simulator")
    overhead = value(gateway.url, "gateway_overhead_seconds_sum")
    assert 0 < overhead < value(gateway.url, "gateway_request_seconds_sum")


def test_waiting_for_the_upstream_is_no_overhead(gateway: RunningGateway) -> None:
    with gateway.http(gateway.new_key()) as http:
        http.post("/v1/responses", json={**BODY, "model": "sim/slow-50+tokens-10", "stream": True})
    reaches(1, gateway.url, "gateway_request_seconds_count", stream="true")
    total = value(gateway.url, "gateway_request_seconds_sum")
    assert total >= 0.5, "ten tokens, 50 ms each"
    assert 0 < value(gateway.url, "gateway_overhead_seconds_sum") <= total - 0.5


def test_attempts_at_an_upstream_are_counted_by_what_came_of_them(gateway: RunningGateway) -> None:
    with gateway.http(gateway.new_key()) as http:
        http.post("/v1/responses", json=BODY)
        http.post("/v1/responses", json={**BODY, "model": "sim/error-500"})
    name = "gateway_upstream_requests_total"
    reaches(1, gateway.url, name, upstream="simulator", result="200")
    reaches(1, gateway.url, name, upstream="simulator", result="500")


def test_an_upstream_that_is_away_is_a_fault_and_an_open_breaker(start: StartGateway) -> None:
    unreachable = {"base_url": "http://127.0.0.1:9/v1", "breaker_failures": 2, "breaker_open_s": 60}
    with start(upstream=unreachable) as gateway:
        with gateway.http(gateway.new_key()) as http:
            for _ in range(3):
                http.post("/v1/responses", json=BODY)
        reaches(2, gateway.url, "gateway_upstream_requests_total", upstream="simulator", result="connect")
        name = "gateway_upstream_breakers"
        reaches(1, gateway.url, name, upstream="simulator", state="open")
        reaches(0, gateway.url, name, upstream="simulator", state="closed")


def test_open_streams_and_their_holds_are_seen(start: StartGateway) -> None:
    with (
        start(upstream={"on_client_leave": "abort"}) as gateway,
        gateway.http(gateway.new_key()) as http,
        http.stream("POST", "/v1/responses", json={**BODY, "model": "sim/stall-3", "stream": True}) as answer,
    ):
        body = answer.iter_raw()  # kept: a generator that goes closes the stream
        next(body)
        for name in ("gateway_open_requests", "gateway_open_streams", "gateway_holds_open"):
            reaches(1, gateway.url, name)
        answer.close()
        wait_until_sync(lambda: value(gateway.url, "gateway_open_streams") == 0, what="the stream has ended")
        reaches(0, gateway.url, "gateway_holds_open")


def test_an_outage_of_the_store_is_seen(upstream: str, tmp_path: Path) -> None:
    with valkey_server() as store, running_gateway(store.url, upstream, tmp_path) as gateway:
        reaches(1, gateway.url, "gateway_store_breakers", state="closed")
        key = gateway.new_key()
        with gateway.http(key) as http:
            with http.stream("POST", "/v1/responses", json={**BODY, "model": "sim/slow-20", "stream": True}) as answer:
                store.kill()
                answer.read()
            wait_until_sync(lambda: value(gateway.url, "gateway_store_breakers", state="open") == 1, what="it is seen")
            assert http.post("/v1/responses", json=BODY).status_code == 503
        reaches(1, gateway.url, "gateway_requests_total", status="503", code="store_unavailable")
        reaches(1, gateway.url, "gateway_spool_lines_total", event="spooled")
        reaches(1, gateway.url, "gateway_spool_pending")
        store.start()
        wait_until_sync(lambda: value(gateway.url, "gateway_store_breakers", state="closed") == 1, what="it is back")


def test_with_a_token_metrics_are_for_who_has_it(start: StartGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_METRICS_TOKEN", "token-of-the-tests")
    with start(server={"port": 0, "metrics_token": "env:TEST_METRICS_TOKEN"}) as gateway:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic token-of-the-tests"}):
            assert httpx.get(f"{gateway.url}/metrics", headers=headers).status_code == 401
        assert scrape(gateway.url, authorization="Bearer token-of-the-tests")


def test_counting_from_many_connections_loses_nothing(gateway: RunningGateway) -> None:
    key = gateway.new_key()

    def ask() -> None:
        with gateway.http(key) as http:
            for _ in range(5):
                http.post("/v1/responses", json=BODY)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reaches(40, gateway.url, "gateway_requests_total", outcome="completed")
