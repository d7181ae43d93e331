"""Two gateways as they come, behind a plain nginx that checks nothing, replaced in turn while clients stream.

nginx takes a refused connection for a server that is down, avoids it for 10 s (`fail_timeout`), and answers 502 once it
avoids both. A POST that was sent is not repeated.
"""

import asyncio
import contextlib
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from gateway.server import Server as GatewayServer
from gateway.server import bound
from gateway.worker.signals import MAX_DELAY_S
from tests.security.test_rolling_restart import NGINX, begin, close
from tests.support.configured import Configured, configured
from tests.support.gateway import RunningGateway
from tests.support.ports import free_port
from tests.support.servers import Server
from tests.support.waiting import wait_until, wait_until_found, wait_until_sync

PLAIN = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  {fronts}
}}
"""
FRONT = """
  upstream {name} {{
    server 127.0.0.1:{first};
    server 127.0.0.1:{second};
    {kept}
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://{name};
      proxy_buffering off;
      {more}
    }}
  }}
"""
FRONTS = {
    "connection-each": {"kept": "", "more": ""},
    "kept-connections": {"kept": "keepalive 16;", "more": 'proxy_http_version 1.1; proxy_set_header Connection "";'},
}
AS_THEY_COME = 'drain_timeout_s = 30.0\nshutdown_delay_s = "auto"'
CLIENTS = 8  # of each front
PACE_S = 0.5
HURRY_S = 0.5


@contextlib.contextmanager
def plain_nginx(directory: Path, gateways: list[Configured]) -> Iterator[dict[str, str]]:
    """One nginx with all fronts, each of which knows for itself which gateway it avoids. Yields their URLs."""
    directory.mkdir()
    first, second = (one.port for one in gateways)
    ports = {name: free_port() for name in FRONTS}
    fronts = [FRONT.format(name=n, port=ports[n], first=first, second=second, **kept) for n, kept in FRONTS.items()]
    config = directory / "nginx.conf"
    config.write_text(PLAIN.format(directory=directory, fronts="".join(fronts)))
    log = str(directory / "error.log")
    assert NGINX is not None
    with subprocess.Popen([NGINX, "-e", log, "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        wait_until_sync((directory / "nginx.pid").exists, what="nginx runs")
        try:
            yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        finally:
            process.send_signal(signal.SIGTERM)


class Pace:
    """How fast clients ask: with a pause after each answer, and without one where a gateway is about to leave."""

    def __init__(self) -> None:
        self._hurry = asyncio.Event()

    async def pause(self) -> None:
        """Clients that never pause load the machine for nothing, all the time that a front avoids a server."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PACE_S):
                await self._hurry.wait()

    async def end(self, running: contextlib.ExitStack, *, after_s: float) -> None:
        """SIGTERM and the gateway's exit. It listens until `after_s` from now, and everybody hurries around then."""
        timer = asyncio.get_running_loop().call_later(max(0.0, after_s - HURRY_S), self._hurry.set)
        await asyncio.to_thread(running.close)
        timer.cancel()
        self._hurry.clear()


async def ask(
    http: httpx.AsyncClient, url: str, number: int, pace: Pace, stop: asyncio.Event, ends: Counter[str]
) -> None:
    """One client: short answers, and streams of a second, each to its end."""
    turn = number
    while not stop.is_set():
        turn += 1
        streams = turn % 4 == 0
        body = {"model": "sim/slow-100+tokens-10" if streams else "o4-mini", "input": "hello", "stream": streams}
        try:
            answer = await http.post(f"{url}/v1/responses", json=body)
            whole = b"response.completed" in answer.content if streams else answer.is_success
            ends[str(answer.status_code) if whole or answer.is_error else "cut"] += 1
        except httpx.HTTPError as error:
            ends[type(error).__name__] += 1
        await pace.pause()


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: nginx)")
@pytest.mark.timeout(240)  # each replacement takes as long as a front avoids a server
async def test_two_gateways_replaced_in_turn_behind_a_plain_nginx_fail_no_request(
    gateway: RunningGateway, store: Server, upstream: str, tmp_path: Path
) -> None:
    both = [configured(store.url, upstream, tmp_path / name, server=AS_THEY_COME) for name in "ab"]
    running = [await begin(one) for one in both]
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: close(running))
        urls = stack.enter_context(plain_nginx(tmp_path / "nginx", both))
        headers = {"authorization": f"Bearer {gateway.new_key(credits_usd='1000').text}"}
        stop, pace, ends = asyncio.Event(), Pace(), {front: Counter[str]() for front in urls}
        async with httpx.AsyncClient(headers=headers, timeout=30) as http:
            clients = [
                asyncio.create_task(ask(http, url, number, pace, stop, ends[front]))
                for front, url in urls.items()
                for number in range(CLIENTS)
            ]
            await wait_until(lambda: all(counted["200"] > CLIENTS for counted in ends.values()))
            for place, one in enumerate(both):
                await pace.end(running[place], after_s=MAX_DELAY_S)
                running[place] = await begin(one)
            stop.set()
            await asyncio.gather(*clients)
    for front, counted in ends.items():
        assert set(counted) == {"200"}, (front, counted)
        assert counted["200"] > 100, front


async def straight(http: httpx.AsyncClient, pace: Pace, ends: Counter[str], gone: asyncio.Event) -> None:
    """One client without a front: each request on a connection of its own, until nobody listens."""
    while not gone.is_set():
        try:
            answer = await http.post("/v1/responses", json={"model": "o4-mini", "input": "hello"})
            ends[str(answer.status_code)] += 1
        except httpx.ConnectError:
            ends["refused"] += 1
            return
        except httpx.HTTPError as error:
            ends[type(error).__name__] += 1
        await pace.pause()


@pytest.mark.timeout(120)  # the delay, and two starts of Python
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("delay", ["auto", "0"])
async def test_no_request_after_sigterm_hangs_or_is_reset(
    gateway: RunningGateway, store: Server, upstream: str, tmp_path: Path, workers: int, delay: str
) -> None:
    server = f"drain_timeout_s = 30.0\nshutdown_delay_s = {delay if delay == '0' else repr(delay)}"
    own = configured(store.url, upstream, tmp_path, workers=workers, server=server)
    headers = {"authorization": f"Bearer {gateway.new_key(credits_usd='1000').text}"}
    ends, gone, pace = Counter[str](), asyncio.Event(), Pace()
    running = await begin(own)
    url, unkept = f"http://127.0.0.1:{own.port}", httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20, limits=unkept) as http:
        clients = [asyncio.create_task(straight(http, pace, ends, gone)) for _ in range(6)]
        await wait_until(lambda: ends["200"] > 10, what="they are under way")
        await pace.end(running, after_s=0.0 if delay == "0" else MAX_DELAY_S)
        gone.set()
        await asyncio.gather(*clients)
    assert set(ends) <= {"200", "refused"}, ends


async def test_a_kept_connection_ends_with_its_next_answer_once_the_gateway_leaves(
    gateway: RunningGateway, store: Server, upstream: str, tmp_path: Path
) -> None:
    own = configured(store.url, upstream, tmp_path, server="shutdown_delay_s = 60")  # it is told twice to stop
    headers, body = {"authorization": f"Bearer {gateway.new_key().text}"}, {"model": "o4-mini", "input": "hello"}
    with own.serving() as serving:
        async with httpx.AsyncClient(base_url=serving.url, headers=headers, timeout=20) as http:
            assert "connection" not in (await http.post("/v1/responses", json=body)).headers
            serving.program.process.send_signal(signal.SIGTERM)

            async def leaves() -> bool:
                async with httpx.AsyncClient(base_url=serving.url, timeout=20) as other:
                    return (await other.get("/readyz")).status_code == httpx.codes.SERVICE_UNAVAILABLE

            await wait_until_found(leaves)
            answer = await http.post("/v1/responses", json=body)
            assert (answer.status_code, answer.headers.get("connection")) == (200, "close")


async def test_what_waits_to_be_accepted_when_listening_ends_is_served() -> None:
    async def application(_scope: object, _receive: object, _send: object) -> None:
        raise AssertionError("nothing is sent")

    listening = bound("127.0.0.1", 0)
    server = GatewayServer(uvicorn.Config(application, http="h11", lifespan="off", log_level="critical"))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup(sockets=[listening])
    address = listening.getsockname()
    with socket.create_connection(address) as early:  # the loop has had no turn to accept it
        leaving = asyncio.create_task(server.shutdown([listening]))
        await wait_until(lambda: len(server.server_state.connections) == 1, what="it is accepted")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address).close()
        early.close()
    await leaving
