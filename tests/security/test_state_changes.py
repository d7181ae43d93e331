"""Changes of state are logged when they happen, not with each request, and contain no secret."""

import io
import json
from pathlib import Path

from tests.support.gateway import ADMIN_KEY, UPSTREAM_KEY, running_gateway
from tests.support.servers import valkey_server
from tests.support.waiting import wait_until_sync

PROMPT = "a-prompt-that-nobody-may-log"
BODY = {"model": "o4-mini", "input": PROMPT}


def events(log: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in log.getvalue().splitlines()]


def test_an_outage_of_the_store_is_two_lines_however_many_ask(upstream: str, tmp_path: Path) -> None:
    log = io.StringIO()
    with (
        valkey_server() as store,
        running_gateway(store.url, upstream, tmp_path, log_to=log, log={"level": "debug"}) as gateway,
    ):
        key = gateway.new_key()
        with gateway.http(key) as http:
            store.kill()
            assert [http.post("/v1/responses", json=BODY).status_code for _ in range(5)] == [503] * 5
            store.start()
            wait_until_sync(lambda: events(log).count("store_reached") == 2, what="the store is reached again")
        assert events(log).count("store_away") == 1
        assert events(log).count("request") == 5
    for secret in (key.text, key.text.rpartition("-")[2], UPSTREAM_KEY, ADMIN_KEY, PROMPT):
        assert secret not in log.getvalue()


def test_an_upstream_that_is_left_alone_is_one_line(upstream: str, tmp_path: Path) -> None:
    log = io.StringIO()
    away = {"base_url": "http://127.0.0.1:9/v1", "breaker_failures": 2, "breaker_open_s": 60}
    with (
        valkey_server() as store,
        running_gateway(store.url, upstream, tmp_path, log_to=log, log={"level": "debug"}, upstream=away) as gateway,
        gateway.http(gateway.new_key()) as http,
    ):
        for _ in range(5):
            http.post("/v1/responses", json=BODY)
        assert events(log).count("upstream_breaker_open") == 1
    assert UPSTREAM_KEY not in log.getvalue()


def test_a_key_that_the_provider_refuses_rests_with_one_line(upstream: str, tmp_path: Path) -> None:
    log = io.StringIO()
    with (
        valkey_server() as store,
        running_gateway(store.url, upstream, tmp_path, log_to=log, log={"level": "debug"}) as gateway,
        gateway.http(gateway.new_key()) as http,
    ):
        for _ in range(3):
            http.post("/v1/responses", json={**BODY, "model": "sim/error-401"})
        assert events(log).count("upstream_key_rests") == 1
    assert UPSTREAM_KEY not in log.getvalue()
