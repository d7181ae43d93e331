"""The nginx and Caddy examples, run for real in front of two gateways: what they pass, and what they never lose.

The files are used as they stand, but for the addresses, ports and certificates that a reader is told to put in.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import openai
import pytest
import trustme
from websockets.asyncio.client import connect

from tests.deploy.operators import ADMIN_KEY, PATHS, spellings, told
from tests.deploy.stack import ROOT, Answered, Load, sdk, stream_once, trust
from tests.support.gateway import NewKey, RunningGateway, running_gateway, simulator
from tests.support.ports import free_port
from tests.support.program import Program
from tests.support.servers import valkey_server
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import LAST

NGINX: Final = ROOT / "deploy" / "nginx" / "gateway.conf"
CADDY: Final = ROOT / "deploy" / "caddy" / "Caddyfile"
DELAY_S: Final = 1.5  # longer than Caddy's health_interval
NAME: Final = "localhost"


class GatewayProcess:
    """`gateway serve` in a process of its own, on a port that stays when it is started anew."""

    def __init__(self, directory: Path, *, store_url: str, upstream_url: str) -> None:
        self.port = free_port()
        self._directory = directory / f"gateway-{self.port}"
        self._directory.mkdir()
        (self._directory / "gateway.toml").write_text(f"""
[server]
port = {self.port}
shutdown_delay_s = {DELAY_S}
trusted_proxies = ["127.0.0.1"]
[store]
url = "{store_url}"
data_dir = "{directory}"
accept_data_loss = true
[admin]
key = "env:TEST_ADMIN_KEY"
[log]
level = "error"
[upstreams.simulator]
base_url = "{upstream_url}"
api_keys = ["env:TEST_UPSTREAM_KEY"]
on_client_leave = "abort"
[[routes]]
model = "*"
upstreams = ["simulator"]
[prices."*"]
input = "5"
output = "25"
""")
        self.start()

    def start(self) -> None:
        env = {"TEST_UPSTREAM_KEY": "key", "TEST_ADMIN_KEY": ADMIN_KEY}
        self._program = Program(("serve", "--config", "gateway.toml"), self._directory, env)
        wait_until_sync(lambda: is_ready(f"http://127.0.0.1:{self.port}"), what="a gateway is ready")

    def is_used(self) -> bool:
        """Whether it has answered a request since it started."""
        metrics = httpx.get(f"http://127.0.0.1:{self.port}/metrics", trust_env=False).text
        return re.search(r'gateway_requests_total\{[^}]*outcome="completed"', metrics) is not None

    def stop(self) -> None:
        """SIGTERM; returns when it has ended by itself."""
        assert self._program.stop(signal.SIGTERM) == 0

    def kill(self) -> None:
        self._program.kill()


@dataclass
class Pair:
    """Two gateways on one store, and a key."""

    gateways: tuple[GatewayProcess, GatewayProcess]
    key: NewKey
    books: RunningGateway

    def roll(self) -> None:
        """Replaces them one by one, each when the front uses the last one again."""
        for gateway in self.gateways:
            gateway.stop()
            gateway.start()
            wait_until_sync(gateway.is_used, what="the front uses a gateway that is back")


def is_ready(url: str, ca_file: Path | None = None) -> bool:
    try:
        verify = trust(ca_file) if ca_file else True
        return httpx.get(f"{url}/readyz", trust_env=False, verify=verify).is_success
    except (httpx.TransportError, FileNotFoundError):  # no certificate yet
        return False


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("pair")
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(valkey_server())
        upstream = stack.enter_context(simulator())
        # A third one, that no front knows: it makes the key and reads the books.
        books = stack.enter_context(running_gateway(store.url, upstream, directory / "books"))
        gateways = [GatewayProcess(directory, store_url=store.url, upstream_url=upstream) for _ in range(2)]
        for gateway in gateways:
            stack.callback(gateway.kill)
        yield Pair((gateways[0], gateways[1]), books.new_key(credits_usd="1000"), books)


@dataclass(frozen=True, slots=True)
class Front:
    """Where a proxy listens, and the certificate to trust."""

    url: str
    ca_file: Path


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def front(request: pytest.FixtureRequest, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    program = shutil.which(request.param, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    directory = tmp_path_factory.mktemp(request.param)
    start = {"nginx": start_nginx, "caddy": start_caddy}[request.param]
    with start(program, directory, pair) as front:
        wait_until_sync(lambda: is_ready(front.url, front.ca_file), what=f"{request.param} answers")
        yield front


@contextlib.contextmanager
def start_nginx(
    program: str, directory: Path, pair: Pair, more_changes: Mapping[str, str] | None = None
) -> Iterator[Front]:
    authority = trustme.CA()
    certificate = authority.issue_cert(NAME)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(directory / "chain.pem", append=True)
    port = free_port()
    changes = {
        "127.0.0.1:8080": f"127.0.0.1:{pair.gateways[0].port}",
        "127.0.0.1:8090": f"127.0.0.1:{pair.gateways[1].port}",
        "listen 443": f"listen 127.0.0.1:{port}",
        "gateway.example.com": NAME,
        "/etc/ssl/gateway/fullchain.pem": str(directory / "chain.pem"),
        "/etc/ssl/gateway/privkey.pem": str(directory / "key.pem"),
        **(more_changes or {}),
    }
    text = NGINX.read_text(encoding="utf-8")
    for written, here in changes.items():
        assert written in text
        text = text.replace(written, here)
    (directory / "gateway.conf").write_text(text)
    places = "".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; pid {directory}/pid; error_log {directory}/error.log; events {{}}\n"
        f"http {{ access_log off; {places} include {directory}/gateway.conf; }}\n"
    )
    command = [program, "-p", str(directory), "-e", str(directory / "error.log"), "-c", str(directory / "nginx.conf")]
    with running(command, {}):
        yield Front(f"https://{NAME}:{port}", directory / "ca.pem")


def before_2_7(program: str) -> bool:
    told = subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout
    major, minor = re.findall(r"\d+", told)[:2]
    return (int(major), int(minor)) < (2, 7)


@contextlib.contextmanager
def start_caddy(program: str, directory: Path, pair: Pair) -> Iterator[Front]:
    port, plain = free_port(), free_port()
    # Two global options for the test alone: ports that need no privilege.
    text = CADDY.read_text(encoding="utf-8").replace(
        "admin off", f"admin off\n\thttp_port {plain}\n\thttps_port {port}"
    )
    (directory / "Caddyfile").write_text(text.replace("\theader -Server", "\theader -Server\n\ttls internal"))
    environment = {
        "HOME": str(directory),
        "XDG_DATA_HOME": str(directory),
        "SITE_ADDRESS": NAME,
        **({"BUFFER_REQUESTS": "buffer_requests"} if before_2_7(program) else {}),
        "GATEWAYS": " ".join(f"127.0.0.1:{gateway.port}" for gateway in pair.gateways),
    }
    command = [program, "run", "--config", str(directory / "Caddyfile"), "--adapter", "caddyfile"]
    with running(command, environment):
        yield Front(f"https://{NAME}:{port}", directory / "caddy" / "pki" / "authorities" / "local" / "root.crt")


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    with subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def test_a_stream_passes_as_it_is_made(front: Front, pair: Pair) -> None:
    with (
        sdk(front.url, pair.key.text, ca_file=front.ca_file) as client,
        client.responses.create(model="sim/slow-20+tokens-100", input="hello", stream=True) as events,
    ):
        arrivals = [(time.monotonic(), event.type) for event in events]
    assert arrivals[-1][1] == "response.completed"
    # 100 tokens, 20 ms apart: held back until the end they would come at once.
    assert arrivals[-1][0] - arrivals[0][0] > 0.5


def test_a_client_that_leaves_ends_the_request_behind_the_front(front: Front, pair: Pair) -> None:
    with (
        sdk(front.url, pair.key.text, ca_file=front.ca_file) as client,
        client.responses.create(model="sim/slow-50+tokens-1000", input="hello", stream=True) as events,
    ):
        assert next(iter(events)).type == "response.created"
        assert pair.books.balance(pair.key).held > 0
    wait_until_sync(lambda: pair.books.balance(pair.key).held == 0, what="the hold is resolved")


def test_clients_may_speak_http_2(front: Front) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    command: list[str] = [
        curl,
        "-sS",
        "--cacert",
        str(front.ca_file),
        "-o",
        os.devnull,
        "-w",
        "%{http_version}",
        f"{front.url}/healthz",
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "2"


@pytest.mark.parametrize("path", PATHS)
def test_no_spelling_of_an_operators_path_passes(front: Front, path: str) -> None:
    """These gateways have everything on one port and take the key that is sent: only the front stands in between."""
    answers = {target: told(front.url, target, ca_file=front.ca_file) for target in spellings(path)}
    assert {target: answer for target, answer in answers.items() if not answer.is_refused} == {}
    answer = httpx.get(front.url + path, verify=trust(front.ca_file), trust_env=False)
    assert answer.status_code == 404
    assert "x-request-id" not in answer.headers, "the gateway was asked"


def test_the_gateways_themselves_would_have_answered(pair: Pair) -> None:
    """What the test above relies on."""
    url = f"http://127.0.0.1:{pair.gateways[0].port}"
    assert b"gateway_build_info" in told(url, "/metrics").raw
    assert b"<form" in told(url, "/dashboard/login").raw
    assert told(url, "/dashboard").status == 303
    assert told(url, "/admin/v1/teams").status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/healthz", "/readyz", "/api/hello"])
def test_what_is_for_clients_passes(front: Front, pair: Pair, path: str) -> None:
    assert told(front.url, path, ca_file=front.ca_file, key=pair.key.text).status == 200


@pytest.mark.parametrize("forged", [{}, {"x-forwarded-for": "203.0.113.9"}], ids=["plain", "forged"])
def test_the_gateway_sees_its_clients_addresses(front: Front, pair: Pair, forged: dict[str, str]) -> None:
    """With `server.trusted_proxies`, as compose has it; and not what a client says of itself."""
    transport = httpx.HTTPTransport(local_address="127.0.0.2", verify=trust(front.ca_file))
    headers = {"authorization": f"Bearer {pair.key.text}", **forged}
    with httpx.Client(transport=transport) as client:
        answer = client.post(
            f"{front.url}/v1/responses", json={"model": "sim/tokens-5", "input": "hello"}, headers=headers
        )
    assert answer.status_code == 200
    operators = f"http://127.0.0.1:{pair.gateways[0].port}/admin/v1"
    found = f"{operators}/requests/{answer.headers['x-request-id']}"

    def client_of() -> str | None:
        shown = httpx.get(found, headers={"authorization": f"Bearer {ADMIN_KEY}"}, trust_env=False).json()
        address: str | None = shown.get("client")
        return address

    wait_until_sync(lambda: client_of() is not None, what="the request's parts are written")
    assert client_of() == "127.0.0.2"


async def test_a_websocket_passes(front: Front, pair: Pair) -> None:
    # Not the client that reads in a thread of its own: before Python 3.13, what one thread writes on a TLS connection
    # that another one reads may be lost.
    address = f"{front.url.replace('https', 'wss')}/v1/responses"
    headers = {"authorization": f"Bearer {pair.key.text}"}
    async with connect(address, ssl=trust(front.ca_file), additional_headers=headers, proxy=None) as socket:
        for _ in range(2):
            await socket.send(json.dumps({"type": "response.create", "model": "sim/tokens-20", "input": "hello"}))
            types: list[str] = []
            while not types or types[-1] not in LAST:
                types.append(json.loads(await socket.recv())["type"])
            assert types[-1] == "response.completed"


@contextlib.contextmanager
def limited_nginx(pair: Pair, directory: Path, changes: Mapping[str, str]) -> Iterator[Front]:
    """nginx with the shipped file and smaller numbers, so that a test reaches them."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    with start_nginx(program, directory, pair, changes) as front:
        wait_until_sync(lambda: is_ready(front.url, front.ca_file), what="nginx answers")
        yield front


def test_nginx_bounds_what_runs_for_one_address(pair: Pair, tmp_path: Path) -> None:
    changes = {"limit_conn gateway_connections 200": "limit_conn gateway_connections 2"}
    with (
        limited_nginx(pair, tmp_path, changes) as front,
        sdk(front.url, pair.key.text, ca_file=front.ca_file) as client,
        client.responses.create(model="sim/slow-50+tokens-1000", input="hello", stream=True) as one,
        client.responses.create(model="sim/slow-50+tokens-1000", input="hello", stream=True) as two,
    ):
        assert [next(iter(events)).type for events in (one, two)] == ["response.created"] * 2
        with pytest.raises(openai.RateLimitError) as refused:
            client.responses.create(model="sim/tokens-20", input="hello")
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.response.headers["retry-after"] == "1"


def test_nginx_bounds_how_often_one_address_asks(pair: Pair, tmp_path: Path) -> None:
    with limited_nginx(pair, tmp_path, {"rate=100r/s": "rate=1r/m", "burst=200": "burst=5"}) as front:
        statuses = [told(front.url, "/healthz", ca_file=front.ca_file).status for _ in range(8)]
    assert statuses[0] == 200
    assert statuses[-1] == 429


@pytest.mark.timeout(180)  # each gateway is served by until its delay is over, and then starts
def test_two_gateways_replaced_one_by_one_fail_no_request(front: Front, pair: Pair) -> None:
    with Load(front.url, pair.key.text, ca_file=front.ca_file) as load:
        streamed: list[Answered] = []
        with sdk(front.url, pair.key.text, ca_file=front.ca_file) as client:
            running = threading.Thread(target=lambda: streamed.append(stream_once(client, "sim/slow-20+tokens-150")))
            running.start()
            pair.roll()
            running.join(timeout=60)
        load.wait_for(10)
    assert load.failures == []
    assert len(streamed) == 1, "the stream was cut"
    wait_until_sync(lambda: pair.books.balance(pair.key).held == 0, what="nothing is held")
