"""Requests wait for their turn instead of being refused: first come, first served, over all workers."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger.admissions import AdmissionRefused
from gateway.ledger.slot_times import SlotTimes
from gateway.protocol.rate_limit_headers import NO_RATES
from gateway.store.keyspace import TeamKeys
from tests.support.admins import admin_client, done
from tests.support.dashboard_client import signed_in
from tests.support.gateway import NewKey, RunningGateway, running_gateway, simulator
from tests.support.journals import journal_entries
from tests.support.servers import Server, valkey_server
from tests.support.waiting import wait_until_sync

QUICK = {"model": "sim/echo", "input": "x"}
QUEUED = "x-gateway-queued-ms"
ABORTS = {"on_client_leave": "abort"}


class Workers:
    """Two gateways on one store, and a slot that a slow stream keeps as long as a test wants."""

    def __init__(self, store: Server, gateways: list[RunningGateway]) -> None:
        self.store = store
        self.gateways = gateways
        self._pool = ThreadPoolExecutor(40)

    def new_key(self, *, team: dict[str, int] | None = None, key: dict[str, int] | None = None) -> NewKey:
        return self.gateways[0].new_key(credits_usd="100", limits=team or {}, key_limits=key or {})

    @contextlib.contextmanager
    def slot_kept(self, key: NewKey, gateway: int = 0) -> Iterator[None]:
        """Keeps a slot until the block ends."""
        slow = {"model": "sim/slow-50+tokens-2000", "input": "x", "stream": True}
        with self.gateways[gateway].http(key) as client, client.stream("POST", "/v1/responses", json=slow) as answer:
            assert answer.status_code == 200, answer.read()
            yield

    def sent(self, key: NewKey, gateway: int = 0, body: dict[str, Any] = QUICK) -> Future[httpx.Response]:
        """Sends a request in a thread."""

        def send() -> httpx.Response:
            with self.gateways[gateway].http(key) as client:
                return client.post("/v1/responses", json=body)

        return self._pool.submit(send)

    def served(self, key: NewKey, answers: list[Future[httpx.Response]]) -> list[int]:
        """The places of these answers in the order in which they were settled, once no request runs."""
        wait_until_sync(lambda: not self.held_usd(key), what="all are settled")
        ids = [answer.result().headers["x-request-id"] for answer in answers]
        entries = journal_entries(self.store, key.team.id)
        return [
            ids.index(entry["id"]) for entry in entries if entry["type"] in ("settle", "void") and entry["id"] in ids
        ]

    def waiting(self, key: NewKey) -> int:
        return int(self.store.run("HLEN", TeamKeys(key.team.id).queue))

    def wait_for(self, key: NewKey, count: int) -> None:
        wait_until_sync(lambda: self.waiting(key) == count, what=f"{count} wait")

    def wait_until_settled(self) -> None:
        for gateway in self.gateways:
            gateway.wait_until_settled()

    def held_usd(self, key: NewKey) -> int:
        return self.gateways[0].balance(key).held


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with valkey_server() as store, simulator() as upstream, contextlib.ExitStack() as stack:
        gateways = [
            stack.enter_context(running_gateway(store.url, upstream, tmp_path_factory.mktemp("data"), upstream=ABORTS))
            for _ in range(2)
        ]
        yield Workers(store, gateways)


ONE = {"concurrency": 1, "queue_s": 30, "queue_length": 20}


@pytest.mark.parametrize("scope", ["key", "team"])
def test_a_request_waits_for_a_slot_and_is_told_how_long(workers: Workers, scope: str) -> None:
    key = workers.new_key(**{scope: ONE})
    with workers.slot_kept(key):
        answer = workers.sent(key, 1)
        workers.wait_for(key, 1)
        assert not answer.done()
    assert answer.result().status_code == 200
    assert int(answer.result().headers[QUEUED]) > 0
    workers.wait_until_settled()
    workers.wait_for(key, 0)
    assert QUEUED not in workers.sent(key).result().headers, "who does not wait is not told so"


def test_without_a_queue_a_request_is_refused_at_once(workers: Workers) -> None:
    for limits in (
        {"concurrency": 1},
        {**ONE, "queue_s": 0},
        {**ONE, "queue_length": 0},
        {"concurrency": 1, "queue_s": 9},
    ):
        key = workers.new_key(key=limits)
        with workers.slot_kept(key):
            answer = workers.sent(key).result()
            assert (answer.status_code, QUEUED in answer.headers) == (429, False), limits
        assert workers.waiting(key) == 0


def test_who_came_first_is_served_first_over_all_workers(workers: Workers) -> None:
    key, answers = workers.new_key(team=ONE), []
    with workers.slot_kept(key):
        for number in range(8):
            answers.append(workers.sent(key, number % 2))
            workers.wait_for(key, number + 1)
    assert [answer.result().status_code for answer in answers] == [200] * 8
    assert workers.served(key, answers) == list(range(8))


def test_nobody_who_comes_later_goes_first(workers: Workers) -> None:
    """A slot is free, and the first of the queue has not asked again yet."""
    key = workers.new_key(team=ONE)
    names, soon_ms = TeamKeys(key.team.id), time.time_ns() // 1_000_000 + 2000
    workers.store.run("HSET", names.queue, "the first", f"1 {soon_ms} {key.id} team")
    workers.store.run("HSET", names.state, "queued", str(soon_ms))
    answers = []
    for number in range(2):
        answers.append(workers.sent(key, number).result())
        workers.wait_until_settled()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert QUEUED in answers[0].headers, "it waited until the other's place had lapsed"
    assert QUEUED not in answers[1].headers


def test_a_full_queue_refuses_at_once(workers: Workers) -> None:
    for scope in ("key", "team"):
        key = workers.new_key(**{scope: {**ONE, "queue_length": 2}})
        with workers.slot_kept(key):
            waiting = [workers.sent(key, number) for number in range(2)]
            workers.wait_for(key, 2)
            refused = workers.sent(key).result()
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "concurrency_exceeded")
            assert workers.waiting(key) == 2
        assert [answer.result().status_code for answer in waiting] == [200, 200]


def test_who_has_waited_long_enough_is_refused_and_told_how_long(workers: Workers) -> None:
    key = workers.new_key(key={**ONE, "queue_s": 1})
    with workers.slot_kept(key):
        refused = workers.sent(key).result()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "concurrency_exceeded")
    assert int(refused.headers[QUEUED]) >= 1000
    workers.wait_for(key, 0)


def test_a_client_that_leaves_frees_its_place_at_once_and_nothing_is_held_while_it_waits(workers: Workers) -> None:
    key = workers.new_key(key=ONE)
    with workers.slot_kept(key):
        held = workers.held_usd(key)
        with contextlib.suppress(httpx.ReadTimeout), workers.gateways[1].http(key) as client:
            client.post("/v1/responses", json=QUICK, timeout=httpx.Timeout(20, read=1.0))
        wait_until_sync(lambda: workers.waiting(key) == 0, what="its place is free")  # nobody else would clear it
        assert workers.held_usd(key) == held
        waits = workers.sent(key)
        workers.wait_for(key, 1)
        assert workers.held_usd(key) == held
    assert waits.result().status_code == 200


def test_the_place_of_a_worker_that_died_lapses(workers: Workers) -> None:
    key = workers.new_key(key=ONE)
    with workers.slot_kept(key):
        names, now_ms = TeamKeys(key.team.id), time.time_ns() // 1_000_000
        workers.store.run("HSET", names.queue, "dead", f"1 {now_ms} {key.id} key")
        answer = workers.sent(key)
        workers.wait_for(key, 2)
    assert answer.result().status_code == 200
    assert workers.waiting(key) == 0


def test_a_key_that_waits_for_itself_does_not_stop_its_team(workers: Workers) -> None:
    key = workers.new_key(key=ONE, team={"concurrency": 10, "queue_s": 30, "queue_length": 20})
    with admin_client(workers.gateways[0]) as admin:
        other = done(admin.post(f"/teams/{key.team.id}/keys", json={"name": "other"}))["key"]
    with workers.slot_kept(key):
        waits = workers.sent(key)
        workers.wait_for(key, 1)
        with workers.gateways[1].http(other) as client:
            assert client.post("/v1/responses", json=QUICK).status_code == 200
        assert not waits.done()
    assert waits.result().status_code == 200


@pytest.mark.parametrize("scope", ["team", "key"])
def test_who_waits_for_a_model_stops_no_other_model_and_is_served_in_order(workers: Workers, scope: str) -> None:
    limits = {"concurrency@sim/*": 1, "queue_s": 30, "queue_length": 20}
    key, answers = workers.new_key(**{scope: limits}), []
    with workers.slot_kept(key):
        for number in range(4):
            answers.append(workers.sent(key, number % 2))
            workers.wait_for(key, number + 1)
        for number in range(2):
            free = workers.sent(key, number, {"model": "other/echo", "input": "x"}).result()
            assert free.status_code == 200, "another model passes those that wait"
        assert not any(answer.done() for answer in answers)
    assert [answer.result().status_code for answer in answers] == [200] * 4
    assert all(int(answer.result().headers[QUEUED]) > 0 for answer in answers)
    assert workers.served(key, answers) == list(range(4))
    workers.wait_for(key, 0)


def test_who_waits_for_the_team_goes_before_who_comes_later_for_any_model(workers: Workers) -> None:
    key = workers.new_key(team={**ONE, "concurrency@other/*": 5})
    with workers.slot_kept(key):
        first = workers.sent(key)
        workers.wait_for(key, 1)
        second = workers.sent(key, 1, {"model": "other/slow-20", "input": "x"})
        workers.wait_for(key, 2)
        time.sleep(0.2)  # both ask several times
        assert not first.done()
        assert not second.done()
    assert [one.result().status_code for one in (first, second)] == [200, 200]


def test_a_request_waits_for_a_rate_too(workers: Workers) -> None:
    key = workers.new_key(key={"rpm": 12, "queue_s": 30, "queue_length": 20})
    for number in range(40):
        answer = workers.sent(key, number % 2).result()
        assert answer.status_code == 200
        if QUEUED in answer.headers:
            return
    pytest.fail("the rate was never reached")


def test_what_waiting_does_not_help_is_refused_at_once(workers: Workers) -> None:
    key = workers.new_key(key={**ONE, "max_output_tokens": 5})
    with workers.slot_kept(key):
        answer = workers.sent(key, 0, {**QUICK, "max_output_tokens": 6}).result()
    assert (answer.status_code, QUEUED in answer.headers) == (400, False)


def test_a_worker_that_stops_sends_its_queue_to_the_others(workers: Workers, tmp_path: Path) -> None:
    key = workers.new_key(key=ONE)
    upstream = str(workers.gateways[0].services.settings.upstreams["simulator"].base_url)
    with workers.slot_kept(key):
        with running_gateway(workers.store.url, upstream, tmp_path) as third:
            workers.gateways.append(third)
            answer = workers.sent(key, 2)
            workers.wait_for(key, 1)
            third.services.loop.call_soon_threadsafe(third.services.handler.drain, 5)
            refused = answer.result()
            del workers.gateways[2]
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        workers.wait_for(key, 0)


def test_metrics_api_and_dashboard_show_the_queue(workers: Workers) -> None:
    key, gateway = workers.new_key(team=ONE), workers.gateways[0]
    with admin_client(gateway) as admin, signed_in(gateway) as dashboard, gateway.http() as client:
        with workers.slot_kept(key):
            answer = workers.sent(key)
            workers.wait_for(key, 1)
            shown = done(admin.get(f"/teams/{key.team.id}"))
            assert (shown["waiting"], shown["limits"]["queue_s"]) == (1, {"limit": 30})
            assert "wait for their turn" in dashboard.get(f"/teams/{key.team.id}").text
            metrics = admin.get(f"{gateway.url}/metrics").text or client.get("/metrics").text
            assert "gateway_requests_waiting 1" in metrics
        assert answer.result().status_code == 200
        place = f"/requests/{answer.result().headers['x-request-id']}"
        wait_until_sync(lambda: done(admin.get(place))["timings"], what="it is reported")
        assert done(admin.get(place))["queued_ms"] == int(answer.result().headers[QUEUED])


def refusal(used: int, ahead: int = 0) -> AdmissionRefused:
    error = GatewayError("concurrency_exceeded", "full", wait_ms=1000, explain={"scope": "key"})
    return AdmissionRefused.of(error, NO_RATES, 0, ahead, used)


def test_a_refusal_says_when_a_slot_comes_free_as_slots_are_really_kept() -> None:
    times, key = SlotTimes(), ApiKey("team", "key", "hash")
    assert times.with_wait_time(refusal(2), key).wait_ms == 1000, "a guess"
    for _ in range(50):
        times.note("team", "key", 8.0)
    assert times.with_wait_time(refusal(1), key).wait_ms == 8000
    assert times.with_wait_time(refusal(4), key).wait_ms == 2000
    assert times.with_wait_time(refusal(4, ahead=2), key).wait_ms == 6000
    assert times.with_wait_time(refusal(4), ApiKey("team", "other", "hash")).wait_ms == 1000


def test_a_refusal_over_http_says_so(workers: Workers) -> None:
    key, gateway = workers.new_key(key={"concurrency": 1}), workers.gateways[0]
    with gateway.http(key) as client:
        client.post("/v1/responses", json={"model": "sim/slow-150+tokens-20", "input": "x"})
        wait_until_sync(lambda: gateway.services.ledger.queue.slot_times.wait_ms(key.team.id, key.id, 1) > 1500)
        with workers.slot_kept(key):
            assert float(client.post("/v1/responses", json=QUICK).headers["retry-after-ms"]) > 1500


def test_a_balance_of_nothing_gives_no_advice_that_cannot_help(workers: Workers) -> None:
    poor = workers.gateways[0].new_key(credits_usd="0")
    message = workers.sent(poor).result().json()["error"]["message"]
    assert "max_output_tokens" not in message
    assert "Ask for credits" in message
