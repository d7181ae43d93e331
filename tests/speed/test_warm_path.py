"""What a request on the warm path may cost, in counts: times would depend on the machine.

Each test warms the gateway up, then sends a number of requests and divides.
"""

import asyncio
import contextlib
import gc
import socket
import socketserver
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import orjson
import pytest

import gateway as gateway_package
from gateway.concurrency import periodic
from gateway.http import connection
from gateway.store import connection as store_connection
from tests.support.gateway import NewKey, RunningGateway, running_gateway, simulator
from tests.support.servers import Server, valkey_server
from tests.support.waiting import wait_until_sync

REQUESTS = 20
WHOLE = {"model": "sim/echo", "input": "hello"}
STREAM = {**WHOLE, "stream": True}
MAX_CALLS_WHOLE, MAX_CALLS_STREAM = 274, 355
"""Calls of the gateway's own functions per request whose head and body, and whose answer, arrive in one read each."""
ROUTES = [
    {"model": "*", "upstreams": ["simulator"], "foreign_ids": "pass"},
    {"model": "kept/*", "upstreams": ["simulator"], "state": "gateway"},
]
"""Requests on a route of its provider's cost the same where the gateway keeps the state of another route."""
LIMITS = {"rpm": 10**6, "tpm": 10**9, "concurrency": 1000, "budget_usd_day": 10**13}


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(store: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    data_dir: Path = tmp_path_factory.mktemp("data")
    rare = {"hold_ttl_s": 3000, "lease_s": 3000}  # upkeep asks the store too, three times in each of them
    prices = {"*": {"input": "1", "output": "10"}}  # no maximum: a bound on the output is added to the body
    settings: dict[str, Any] = {"ledger": rare, "prices": prices, "routes": ROUTES}
    with simulator() as upstream, running_gateway(store.url, upstream, data_dir, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def key(gateway: RunningGateway) -> NewKey:
    return gateway.new_key(limits=LIMITS, key_limits={"rpm": 10**6, "tpm": 10**9})


@pytest.fixture
def ask(store: Server, gateway: RunningGateway, key: NewKey) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Sends a request over an open connection."""
    with gateway.http(key) as client:

        def send(body: dict[str, Any]) -> None:
            answer = client.post("/v1/responses", json=body)
            assert answer.status_code == 200, answer.text
            assert ("response.completed" in answer.text) == bool(body.get("stream"))

        for body in (WHOLE, STREAM):
            send(body)
            send(body)
        wait_until_sync(lambda: _calls(store)["pttl"] > 0, what="the script that counts what was seen is known")
        gateway.wait_until_settled()
        yield send


Ask = Callable[[dict[str, Any]], None]


@pytest.mark.parametrize("body", [WHOLE, STREAM], ids=["whole", "stream"])
def test_the_store_is_asked_twice_for_a_request(store: Server, ask: Ask, body: dict[str, Any]) -> None:
    store.run("CONFIG", "RESETSTAT")
    begun_s = time.monotonic()
    for _ in range(REQUESTS):
        ask(body)
    calls = _settled_calls(store)
    beside_requests = _of_requests(calls) - 2 * REQUESTS  # leases, and rounds for other work
    most = 2 + WORKERS_CALLS_PER_S * (time.monotonic() - begun_s)
    assert 0 <= beside_requests <= most, f"one to admit, one to settle: {calls}"
    beside = {name for name, count in calls.items() if count >= REQUESTS} - IN_SCRIPTS - OF_WORKERS
    assert beside == {"evalsha"}


def _calls(store: Server) -> Counter[str]:
    """Returns how often each command ran, by the store's own count, including those that scripts run.

    A script that the store does not know yet does not count as run.
    """
    counted = store.run("INFO", "commandstats")
    return Counter(
        {name.removeprefix("cmdstat_"): found["calls"] - found["failed_calls"] for name, found in counted.items()}
    )


def _settled_calls(store: Server) -> Counter[str]:
    """Returns the same after the last request was settled. Its client has its answer before that."""
    wait_until_sync(lambda: _of_requests(_calls(store)) >= 2 * REQUESTS, what="all is settled")
    return _calls(store)


def _of_requests(calls: Counter[str]) -> int:
    """Returns the number of scripts run, without those by which a worker reports, a few times per second at most.

    Only those scripts read a key's TTL, twice each.
    """
    return calls["evalsha"] - calls["pttl"] // 2


WORKERS_CALLS_PER_S = 3
"""The other scripts that a worker runs each second, at most."""
OF_WORKERS = frozenset({"hincrby", "hexists", "hlen", "pttl"})
"""The commands of those scripts, which run more often on a slow machine."""
# fmt: off
IN_SCRIPTS = frozenset({
    "time", "hmget", "hget", "hset", "hdel", "hincrby",
    "zadd", "zrem", "zrangebyscore", "xadd", "get", "set", "pexpire",
})
# fmt: on


def test_a_script_reads_and_writes_the_state_once(store: Server, ask: Ask) -> None:
    store.run("CONFIG", "RESETSTAT")
    for _ in range(REQUESTS):
        ask(WHOLE)
    calls = _settled_calls(store)
    # Rounded down, because background calls in between belong to no request.
    commands = sum(count // REQUESTS for name, count in calls.items() if name in IN_SCRIPTS)
    assert commands <= MAX_COMMANDS, calls


MAX_COMMANDS = 25
"""Commands of admission and settlement together, including remembering the response.

One more is written later by the worker, together with others: the entry of the request's timings. Four roll usage up by
hour and day. Each row is packed into one field.
"""


@pytest.mark.parametrize("body", [WHOLE, STREAM], ids=["whole", "stream"])
def test_no_task_is_made_but_the_servers_own(gateway: RunningGateway, ask: Ask, body: dict[str, Any]) -> None:
    made: Counter[str] = Counter()
    loop = gateway.loop

    def count(of: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made[coroutine.__qualname__] += 1
        return asyncio.Task(coroutine, loop=of, **options)

    loop.call_soon_threadsafe(loop.set_task_factory, count)
    wait_until_sync(lambda: loop.get_task_factory() is count, what="tasks are counted")
    try:
        for _ in range(REQUESTS):
            ask(body)
    finally:
        loop.call_soon_threadsafe(loop.set_task_factory, None)
    assert made == {"ClientConnection._serve": REQUESTS}


@pytest.mark.parametrize("body", [WHOLE, STREAM], ids=["whole", "stream"])
def test_traces_that_are_off_call_nothing(gateway: RunningGateway, ask: Ask, body: dict[str, Any]) -> None:
    called: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            called[frame.f_globals.get("__name__", "")] += 1

    async def watch(function: Any) -> None:
        sys.setprofile(function)  # of the loop's thread

    gateway.run(watch(note))
    try:
        for _ in range(REQUESTS):
            ask(body)
    finally:
        gateway.run(watch(None))
    assert called["gateway.proxy.handler"] > REQUESTS, "calls are seen"
    assert [name for name in called if name.startswith(("opentelemetry", "gateway.observability.tracing"))] == []


def test_a_body_that_is_here_already_sets_no_timer(
    gateway: RunningGateway, key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[float | None] = []
    timeout = asyncio.timeout

    def noted(delay_s: float | None) -> asyncio.Timeout:
        asks: str = sys._getframe(1).f_globals["__name__"]  # noqa: SLF001 - nothing else tells who it is for
        if asks.startswith("gateway.") and asks != periodic.__name__:  # background work is no request's
            timers.append(delay_s)
        return timeout(delay_s)

    body = orjson.dumps(WHOLE)
    head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key.text}\r\ncontent-length: {len(body)}"
    address = httpx.URL(gateway.url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        for warm in (True, False):
            if not warm:
                monkeypatch.setattr(asyncio, "timeout", noted)
            connection.sendall(head.encode() + b"\r\n\r\n" + body)  # in one write, like most programs
            answer = b""
            while b'"usage"' not in answer:
                answer += connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200")
    assert timers == []


def test_calls_of_one_turn_of_the_loop_go_to_the_store_in_one_write(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    flush = store_connection.StoreConnection._flush  # noqa: SLF001 - nothing else shows what is written at once

    def counting(self: store_connection.StoreConnection) -> None:
        if unwritten := len(self._unwritten):
            writes.append(unwritten)
        flush(self)

    monkeypatch.setattr(store_connection.StoreConnection, "_flush", counting)

    async def together() -> None:
        await asyncio.gather(*(gateway.services.store.run("PING") for _ in range(REQUESTS)))

    gateway.run(together())
    assert max(writes) >= REQUESTS  # a worker's own calls may be part of the write, or precede it


@pytest.mark.parametrize("body", [WHOLE, STREAM], ids=["whole", "stream"])
def test_a_request_leaves_nothing_for_the_garbage_collector(ask: Ask, body: dict[str, Any]) -> None:
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(REQUESTS):
            ask(body)
        gc.collect()
        left = Counter(type(one).__qualname__ for one in gc.garbage if _is_ours(type(one).__module__))
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()
    assert not left, "cycles: the collector runs rarely, and would have to"


def _is_ours(module: str) -> bool:
    return module.startswith("gateway.") and not module.startswith("gateway.simulator")


def test_a_whole_answer_is_one_write(gateway: RunningGateway, key: NewKey, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []

    class Counted:
        """A connection's transport that records what is written."""

        def __init__(self, transport: Any) -> None:
            self.transport = transport

        def __getattr__(self, name: str) -> Any:
            return getattr(self.transport, name)

        def write(self, data: bytes) -> None:
            writes.append(data)
            self.transport.write(data)

    made = connection.ClientConnection.connection_made

    def made_counted(protocol: connection.ClientConnection, transport: Any) -> None:
        counted: Any = Counted(transport)
        made(protocol, counted)

    monkeypatch.setattr(connection.ClientConnection, "connection_made", made_counted)
    with gateway.http(key) as client:
        for _ in range(REQUESTS):
            assert client.post("/v1/responses", json=WHOLE).status_code == 200
    assert len(writes) == REQUESTS


@pytest.mark.parametrize(
    ("body", "most"), [(WHOLE, MAX_CALLS_WHOLE), (STREAM, MAX_CALLS_STREAM)], ids=["whole", "stream"]
)
def test_a_request_makes_few_calls(store: Server, tmp_path: Path, body: dict[str, Any], most: int) -> None:
    with (
        simulator() as simulated,
        _upstream_of_one_write(simulated, body) as upstream,
        running_gateway(store.url, upstream, tmp_path, routes=ROUTES) as gateway,
    ):
        calls = _calls_of_one_request(gateway, gateway.new_key(limits=LIMITS), body)
    assert calls.total() <= most, calls.most_common()


def _calls_of_one_request(gateway: RunningGateway, key: NewKey, body: dict[str, Any]) -> Counter[str]:
    """The gateway's own calls for one request, by function.

    Head and body arrive in one read, and so does the upstream's answer: a busy machine cannot cut them in other ways.
    What runs in the background is no part of most requests, so that the median of some requests counts.
    """
    made: Counter[str] = Counter()
    ours = str(Path(gateway_package.__file__).parent)

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ours):
            made[f"{frame.f_code.co_filename[len(ours) :]} {frame.f_code.co_qualname}"] += 1

    content = orjson.dumps(body)
    head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key.text}\r\n"
    request = f"{head}content-length: {len(content)}\r\n\r\n".encode() + content
    ends_with = b"0\r\n\r\n" if body.get("stream") else b"}"
    each: list[Counter[str]] = []
    address = httpx.URL(gateway.url)
    with socket.create_connection((address.host, address.port), timeout=10) as client:
        gateway.run(_profile(count))
        try:
            for _ in range(2 * REQUESTS):
                before = made.copy()
                client.sendall(request)
                answer = b""
                while not (b"usage" in answer and answer.endswith(ends_with)):
                    answer += client.recv(65_536)
                gateway.wait_until_settled()
                each.append(made - before)
        finally:
            gateway.run(_profile(None))
    return sorted(each, key=Counter.total)[len(each) // 2]


@contextlib.contextmanager
def _upstream_of_one_write(simulated: str, body: dict[str, Any]) -> Iterator[str]:
    """An upstream that answers each request with what the simulator answers to `body`, in one write. Yields its URL."""
    answered = httpx.post(f"{simulated}/responses", json=body, headers={"authorization": "Bearer x"})
    kind, content = answered.headers["content-type"], answered.content
    assert answered.status_code == 200
    answer = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content

    class OneWrite(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = 0
            for line in self.rfile:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
                elif line == b"\r\n":
                    self.rfile.read(length)
                    self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OneWrite) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()


async def _profile(count: Callable[[FrameType, str, object], None] | None) -> None:
    sys.setprofile(count)
