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
  upstream gateways {{
    server 127.0.0.1:{first};
    server 127.0.0.1:{second};
    {kept}
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://gateways;
      proxy_buffering off;
      {more}
    }}
  }}
}}
"""
KEPT = {"kept": "keepalive 16;", "more": 'proxy_http_version 1.1; proxy_set_header Connection "";'}
EACH = {"kept": "", "more": ""}
AS_THEY_COME = 'drain_timeout_s = 30.0\nshutdown_delay_s = "auto"'
CLIENTS = 12


@contextlib.contextmanager
def plain_nginx(directory: Path, gateways: list[Configured], kept: dict[str, str]) -> Iterator[str]:
    directory.mkdir()
    port, (first, second) = free_port(), (one.port for one in gateways)
    config = directory / "nginx.conf"
    config.write_text(PLAIN.format(directory=directory, port=port, first=first, second=second, **kept))
    log = str(directory / "error.log")
    assert NGINX is not None
    with subprocess.Popen([NGINX, "-e", log, "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        wait_until_sync((directory / "nginx.pid").exists, what="nginx runs")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)


async def ask(http: httpx.AsyncClient, number: int, stop: asyncio.Event, ends: Counter[str]) -> None:
    """One client: short answers, and streams of a second, each to its end."""
    turn = number
    while not stop.is_set():
        turn += 1
        streams = turn % 4 == 0
        body = {"model": "sim/slow-40" if streams else "o4-mini", "input": "hello", "stream": streams}
        try:
            answer = await http.post("/v1/responses", json=body)
            whole = b"response.completed" in answer.content if streams else answer.is_success
            ends[str(answer.status_code) if whole or answer.is_error else "cut"] += 1
        except httpx.HTTPError as error:
            ends[type(error).__name__] += 1


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: nginx)")
@pytest.mark.timeout(240)  # each replacement takes as long as a front avoids a server
@pytest.mark.parametrize("kept", [EACH, KEPT], ids=["a connection each", "kept connections"])
async def test_two_gateways_replaced_in_turn_behind_a_plain_nginx_fail_no_request(
    gateway: RunningGateway, store: Server, upstream: str, tmp_path: Path, kept: dict[str, str]
) -> None:
    both = [configured(store.url, upstream, tmp_path / name, server=AS_THEY_COME) for name in "ab"]
    running = [await begin(one) for one in both]
    ends: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: close(running))
        url = stack.enter_context(plain_nginx(tmp_path / "nginx", both, kept))
        headers = {"authorization": f"Bearer {gateway.new_key(credits_usd='1000').text}"}
        stop = asyncio.Event()
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
            clients = [asyncio.create_task(ask(http, number, stop, ends)) for number in range(CLIENTS)]
            await wait_until(lambda: ends["200"] > CLIENTS, what="they are under way")
            for place, one in enumerate(both):
                await asyncio.to_thread(running[place].close)
                running[place] = await begin(one)
            stop.set()
            await asyncio.gather(*clients)
    assert set(ends) == {"200"}, ends
    assert ends["200"] > 300


async def straight(url: str, key: str, ends: Counter[str], gone: asyncio.Event) -> None:
    """One client without a front: each request on a connection of its own, until nobody listens."""
    headers, body = {"authorization": f"Bearer {key}"}, {"model": "o4-mini", "input": "hello"}
    while not gone.is_set():
        try:
            async with httpx.AsyncClient(headers=headers, timeout=20) as http:
                ends[str((await http.post(f"{url}/v1/responses", json=body)).status_code)] += 1
        except httpx.ConnectError:
            ends["refused"] += 1
            return
        except httpx.HTTPError as error:
            ends[type(error).__name__] += 1


@pytest.mark.timeout(120)  # the delay, and two starts of Python
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("delay", ["auto", "0"])
async def test_no_request_after_sigterm_hangs_or_is_reset(
    gateway: RunningGateway, store: Server, upstream: str, tmp_path: Path, workers: int, delay: str
) -> None:
    server = f"drain_timeout_s = 30.0\nshutdown_delay_s = {delay if delay == '0' else repr(delay)}"
    own = configured(store.url, upstream, tmp_path, workers=workers, server=server)
    key, ends, gone = gateway.new_key(credits_usd="1000").text, Counter[str](), asyncio.Event()
    running = await begin(own)
    url = f"http://127.0.0.1:{own.port}"
    clients = [asyncio.create_task(straight(url, key, ends, gone)) for _ in range(6)]
    await wait_until(lambda: ends["200"] > 10, what="they are under way")
    await asyncio.to_thread(running.close)  # SIGTERM, and its exit
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
