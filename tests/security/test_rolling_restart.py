"""Two gateways behind nginx, replaced one after the other while clients send requests: no request fails.

With max_fails=0, nginx tries the other gateway for each request. Otherwise it would avoid a gateway that is back, and
answer 502 when the second one leaves within that time.
"""

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.support.configured import Configured, configured
from tests.support.gateway import RunningGateway
from tests.support.ports import free_port
from tests.support.servers import Server
from tests.support.waiting import wait_until

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CLIENTS = 4
CONFIG = """
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
    server 127.0.0.1:{first} max_fails=0;
    server 127.0.0.1:{second} max_fails=0;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://gateways;
      proxy_buffering off;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_next_upstream error timeout http_503 non_idempotent;
    }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(directory: Path, first: int, second: int) -> Iterator[str]:
    assert NGINX is not None
    directory.mkdir()
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(CONFIG.format(directory=directory, port=port, first=first, second=second))
    with subprocess.Popen(
        [NGINX, "-e", str(directory / "error.log"), "-c", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)


async def ask(sdk: openai.AsyncOpenAI, stop: asyncio.Event) -> int:
    """Sends streams and plain requests in turn until told to stop. Returns their number. A failed one raises."""
    count = 0
    while not stop.is_set():
        count += 1
        if count % 2:
            answer = await sdk.responses.create(model="sim/slow-5", input="hello")
            assert answer.status == "completed"
        else:
            events = [event.type async for event in await sdk.responses.create(model="o4-mini", input="x", stream=True)]
            assert events[-1] == "response.completed"
    return count


async def begin(gateway: Configured) -> contextlib.ExitStack:
    """Starts it. Closing the stack sends SIGTERM and waits for its exit."""
    running = contextlib.ExitStack()
    await asyncio.to_thread(running.enter_context, gateway.serving())
    return running


def close(running: list[contextlib.ExitStack]) -> None:
    """Closes those that run at the time of the call."""
    for each in running:
        each.close()


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: nginx)")
@pytest.mark.timeout(180)  # six starts and stops of real processes
async def test_a_rolling_restart_behind_nginx_loses_no_request(
    gateway: RunningGateway, store: Server, upstream: str, tmp_path: Path
) -> None:
    both = [configured(store.url, upstream, tmp_path / name, server="shutdown_delay_s = 0.5") for name in ("a", "b")]
    running = [await begin(one) for one in both]
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: close(running))
        url = stack.enter_context(nginx(tmp_path / "nginx", both[0].port, both[1].port))
        key = gateway.new_key().text
        stop = asyncio.Event()
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as sdk:
            await wait_until((tmp_path / "nginx" / "nginx.pid").exists, what="nginx runs")
            clients = [asyncio.create_task(ask(sdk, stop)) for _ in range(CLIENTS)]
            for place, one in enumerate(both):
                await asyncio.to_thread(running[place].close)
                running[place] = await begin(one)
            stop.set()
            counts = await asyncio.gather(*clients)
        assert all(counts), "each client asked all the time"
