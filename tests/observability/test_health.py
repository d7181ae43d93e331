"""/healthz and /readyz of real processes: from the start on, through outages, to the end."""

import asyncio
import contextlib
import gc
import signal
from pathlib import Path
from typing import Any

import httpx
import structlog

from gateway.app import build_app
from gateway.concurrency.periodic import Periodic
from gateway.server import server_config
from tests.support.configured import Configured, configured
from tests.support.gateway import RunningGateway, ServerThread, gateway_settings, running_gateway
from tests.support.ports import free_port
from tests.support.processes import READY
from tests.support.program import Program, run
from tests.support.servers import Server
from tests.support.unenforcing_store import UnenforcingStore
from tests.support.waiting import wait_until, wait_until_sync

GOOD = {"store": True, "enforcement": True, "upstream": True, "accepting": True, "background": True}
BODY = {"model": "o4-mini", "input": "x"}
ADMIN = {"GATEWAY_ADMIN_KEY": "an-admin-key-of-the-tests-with-32-characters"}


def readiness(one: Configured) -> tuple[int, dict[str, Any]]:
    """Returns the status of /readyz and its body; status 0 while nothing listens."""
    with contextlib.suppress(httpx.TransportError):
        answer = httpx.get(f"http://127.0.0.1:{one.port}/readyz", trust_env=False)
        return answer.status_code, answer.json()
    return 0, {}


def parts(one: Configured) -> dict[str, bool]:
    status, answer = readiness(one)
    assert (status, answer.get("ready", False)) in ((200, True), (503, False), (0, False))
    found: dict[str, bool] = answer.get("parts", {})
    return found


def becomes(one: Configured, **changes: bool) -> None:
    wait_until_sync(lambda: parts(one) == GOOD | changes, what=f"{changes or 'ready'}")


def lives(one: Configured, method: str = "GET") -> bool:
    return httpx.request(method, f"http://127.0.0.1:{one.port}/healthz", trust_env=False).status_code == 200


def test_started_before_its_store_it_names_what_it_waits_for_and_is_ready_when_the_store_is_there(
    own_store: Server, upstream: str, tmp_path: Path
) -> None:
    own_store.kill()
    gateway = configured(own_store.url, upstream, tmp_path)
    with gateway.program() as program:
        becomes(gateway, store=False, enforcement=False)
        assert lives(gateway)
        assert lives(gateway, "HEAD")
        refused = httpx.post(f"http://127.0.0.1:{gateway.port}/v1/responses", json=BODY, trust_env=False)
        assert refused.status_code in (401, 503)
        own_store.start()
        becomes(gateway)
        program.wait_for(READY)
        assert program.stop(signal.SIGTERM) == 0


def test_a_store_that_goes_makes_it_not_ready_and_not_dead(own_store: Server, upstream: str, tmp_path: Path) -> None:
    gateway = configured(own_store.url, upstream, tmp_path)
    with gateway.serving():
        becomes(gateway)
        own_store.kill()
        becomes(gateway, store=False)
        assert lives(gateway)
        assert httpx.head(f"http://127.0.0.1:{gateway.port}/readyz", trust_env=False).status_code == 503
        own_store.start()
        becomes(gateway)


def test_where_requests_go_on_without_a_store_it_stays_ready_and_says_that_it_is_degraded(
    own_store: Server, upstream: str, tmp_path: Path
) -> None:
    gateway = configured(own_store.url, upstream, tmp_path)
    text = gateway.file.read_text().replace("[ledger]", 'on_failure = "open"\n[ledger]')
    gateway.file.write_text(text)
    with gateway.serving():
        becomes(gateway)
        own_store.kill()
        wait_until_sync(lambda: readiness(gateway)[1]["degraded"], what="it is degraded")
        assert readiness(gateway)[0] == 200
        own_store.start()
        wait_until_sync(lambda: not readiness(gateway)[1]["degraded"], what="it is as ever")


def test_without_a_usable_upstream_it_is_not_ready_and_names_each(
    gateway: RunningGateway, store: Server, tmp_path: Path
) -> None:
    own = configured(store.url, f"http://127.0.0.1:{free_port()}/v1", tmp_path)
    own.file.write_text(
        own.file.read_text().replace("breaker_failures = 1000000", "breaker_failures = 1\nbreaker_open_s = 600")
    )
    with own.serving() as served:
        becomes(own)
        with gateway.http(gateway.new_key()) as http:
            assert http.post(f"{served.url}/v1/responses", json=BODY).status_code == 502
        becomes(own, upstream=False)
        assert readiness(own)[1]["upstreams"] == {"simulator": False}
        assert lives(own)


def test_an_upstream_that_an_operator_took_out_is_not_usable(own_store: Server, upstream: str, tmp_path: Path) -> None:
    gateway = configured(own_store.url, upstream, tmp_path, more='[admin]\nkey = "env:GATEWAY_ADMIN_KEY"')
    with gateway.serving(env=ADMIN) as served:
        becomes(gateway)
        env = ADMIN | {"GATEWAY_URL": served.url}
        assert run("upstreams", "disable", "simulator", "--yes", cwd=tmp_path, env=env).code == 0
        becomes(gateway, upstream=False)
        assert run("upstreams", "enable", "simulator", cwd=tmp_path, env=env).code == 0
        becomes(gateway)


def test_told_to_stop_it_says_so_and_serves_on_for_its_delay(
    gateway: RunningGateway, store: Server, upstream: str, tmp_path: Path
) -> None:
    own = configured(store.url, upstream, tmp_path, server="shutdown_delay_s = 30")
    with own.serving() as served, gateway.http(gateway.new_key()) as http:
        served.program.process.send_signal(signal.SIGTERM)
        becomes(own, accepting=False)
        assert lives(own)
        assert http.post(f"{served.url}/v1/responses", json=BODY).status_code == 200
        assert served.program.stop(signal.SIGTERM) == 0, "a second signal ends the delay"


def test_an_application_leaves_the_collector_and_the_logging_of_its_process_alone(
    store: Server, upstream: str, tmp_path: Path
) -> None:
    before, processors = gc.get_threshold(), structlog.get_config()["processors"]
    app = build_app(gateway_settings(store.url, upstream, tmp_path, log={"level": "error"}))
    server = ServerThread(server_config(app.settings, app))
    try:
        server.start()
        assert gc.get_threshold() == before
        assert structlog.get_config()["processors"] is processors
    finally:
        server.stop()


def test_background_work_that_stays_dead_makes_it_not_ready_and_is_named(
    store: Server, upstream: str, tmp_path: Path
) -> None:
    broken = True

    async def work() -> None:
        if broken:
            raise LookupError("a bug")

    def answer() -> tuple[int, list[str]]:
        read = httpx.get(f"{gateway.url}/readyz", trust_env=False)
        return read.status_code, read.json()["dead_work"]

    def of_metrics() -> str:
        return httpx.get(f"{gateway.url}/metrics", trust_env=False).text

    with running_gateway(store.url, upstream, tmp_path, log={"level": "info"}) as gateway:
        assert answer() == (200, [])

        async def begin() -> tuple[Periodic, asyncio.Task[None]]:
            one = Periodic("count-sheep", 0.01, work, dead_after_s=0.2)
            gateway.services.periodics = (*gateway.services.periodics, one)
            return one, asyncio.create_task(one.run())

        one, task = gateway.run(begin())
        wait_until_sync(lambda: answer() == (503, ["count-sheep"]), what="it is not ready")
        assert 'gateway_background_dead{work="count-sheep"} 1' in of_metrics()
        assert 'gateway_background_dead{work="renew-holds"} 0' in of_metrics()
        broken = False
        gateway.loop.call_soon_threadsafe(one.wake)
        wait_until_sync(lambda: answer() == (200, []), what="it is ready again")
        assert 'gateway_background_rounds_total{result="failed",work="count-sheep"}' in of_metrics()
        assert 'gateway_background_rounds_total{result="done",work="count-sheep"}' in of_metrics()
        gateway.loop.call_soon_threadsafe(task.cancel)


async def test_a_store_that_does_not_enforce_is_named(own_store: Server, upstream: str, tmp_path: Path) -> None:
    proxy = UnenforcingStore(own_store)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        gateway = configured(url, upstream, tmp_path)
        with contextlib.ExitStack() as stack:
            program: Program = await asyncio.to_thread(stack.enter_context, gateway.program())
            stack.callback(program.kill)
            await wait_until(lambda: proxy.admissions > 2, what="the canary has tried")
            status, answer = await asyncio.to_thread(readiness, gateway)
            assert status == 503
            assert answer["parts"] == GOOD | {"enforcement": False}
            assert "admitted a second request to a limit of one" in program.err
