"""What a worker holds for clients that no key vouches for is bounded: connections, heads, bodies, unread answers."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.http.chunked_framing import ChunkedFraming, InvalidChunks
from gateway.http.client_address import ClientAddresses
from gateway.http.connection_budget import ConnectionBudget, ConnectionLimits
from gateway.http.parser import RequestParser
from gateway.identity.api_keys import new_id, new_secret
from gateway.server import bound
from tests.support.any_bytes import CountingOwner
from tests.support.effort import effort
from tests.support.gateway import RunningGateway, StartGateway
from tests.support.sockets import HEALTH, connected, is_open, read_all, send_until_stuck
from tests.support.waiting import wait_until_sync

REFUSED = b"POST /v1/responses HTTP/1.1\r\nhost: gateway\r\ncontent-length: 0\r\n\r\n"
KILOBYTE = 1024
PATIENT = {"head_timeout_s": 600, "body_timeout_s": 600}
ANSWERS = ("gateway_requests_total{", "gateway_errors_total{")


@pytest.mark.parametrize("request_", [HEALTH, REFUSED], ids=["another route", "a refusal"])
def test_no_request_begins_while_answers_wait_to_be_read(start: StartGateway, request_: bytes) -> None:
    """Both buffers of the connection are small, so that few answers go to a client that reads none."""
    with start(server={"port": 0, "client_write_timeout_s": 30}) as gateway:
        gateway.server.shrink_send_buffers()
        before = answered(gateway)
        with connected(gateway, receive_bytes=4096) as (client,):
            sent = send_until_stuck(client, request_ * 500, 10_000 * len(request_)) // len(request_)
            wait_until_sync(lambda: rests(gateway), what="nothing is answered any more")
            assert answered(gateway) - before < sent // 3


def rests(gateway: RunningGateway) -> bool:
    """Whether for a second nothing was answered but the test's own questions."""
    before = answered(gateway)
    time.sleep(1)  # in which nothing may come: there is nothing to wait for
    return answered(gateway) - before < 5


def answered(gateway: RunningGateway) -> int:
    """How many answers were given, by the gateway's own count."""
    with gateway.http() as http:
        lines = http.get("/metrics").text.splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(ANSWERS))


@pytest.mark.parametrize("request_", [HEALTH, REFUSED], ids=["another route", "a refusal"])
def test_a_client_that_never_reads_is_disconnected(start: StartGateway, request_: bytes) -> None:
    with start(server={"port": 0, "client_write_timeout_s": 0.5}) as gateway, connected(gateway) as (client,):
        client.settimeout(20)
        with pytest.raises(ConnectionError):
            send_for_ever(client, request_ * 500)


def send_for_ever(client: socket.socket, data: bytes) -> None:
    while True:
        client.sendall(data)


def test_a_head_of_many_fields_is_refused(start: StartGateway) -> None:
    with start(server={"port": 0, "max_head_fields": 20}) as gateway:
        for fields, status in ((18, b"200"), (21, b"431"), (5000, b"431")):
            with connected(gateway) as (client,):
                client.sendall(b"GET /healthz HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n" + b"a:b\r\n" * fields)
                client.sendall(b"\r\n")
                assert read_all(client).split(b" ")[1] == status


def test_connections_beyond_the_workers_bound_are_refused(start: StartGateway) -> None:
    with start(server={"port": 0, "max_connections": 4}) as gateway:
        with connected(gateway, 4) as clients:
            wait_until_sync(lambda: gateway.server.connections == 4, what="they are accepted")
            with connected(gateway) as (fifth,):
                answer = read_all(fifth)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"
            clients[0].sendall(HEALTH)
            assert clients[0].recv(100).startswith(b"HTTP/1.1 200 ")
        wait_until_sync(lambda: gateway.server.connections == 0, what="they have left")
        with gateway.http() as http:
            assert http.get("/healthz").status_code == 200


def test_connections_of_one_address_are_bounded_but_for_a_trusted_proxys(start: StartGateway) -> None:
    with (
        start(server={"port": 0, "max_connections_per_address": 2}) as gateway,
        connected(gateway, 3) as (_, _, third),
    ):
        assert read_all(third).startswith(b"HTTP/1.1 503 ")
    with (
        start(server={"port": 0, "max_connections_per_address": 2, "trusted_proxies": ["127.0.0.0/8"]}) as gateway,
        connected(gateway, 5) as clients,
    ):
        for client in clients:
            client.sendall(HEALTH)
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_proxys_requests_count_against_the_address_that_they_are_forwarded_for(start: StartGateway) -> None:
    server = {"port": 0, "max_connections_per_address": 2, "trusted_proxies": ["127.0.0.0/8"]}
    with start(server=server) as gateway, connected(gateway, 4) as clients:
        secret = gateway.new_key().text
        body = b'{"model":"o4-mini","input":"x"}'
        for client, address in zip(clients, ("203.0.113.1", "203.0.113.1", "203.0.113.2", "203.0.113.1"), strict=True):
            # Its body is not whole: it runs.
            client.sendall(
                f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n"
                f"x-forwarded-for: {address}\r\ncontent-length: {len(body)}\r\n\r\n{{".encode()
            )
            time.sleep(0.1)  # so that they are begun in this order
        assert clients[3].recv(100).startswith(b"HTTP/1.1 503 ")
        for client in clients[:3]:
            client.sendall(body[1:])
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        clients[3].sendall(HEALTH.replace(b"\r\n\r\n", b"\r\nx-forwarded-for: 203.0.113.1\r\n\r\n"))


@pytest.mark.parametrize(
    "piece",
    [
        b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 60_000,
        REFUSED[:-2] + b"x-forwarded-for: a\r\nauthorization: Bearer %b\r\n\r\n",
    ],
    ids=["heads", "bodies"],
)
def test_what_is_held_for_nobody_in_particular_is_bounded(start: StartGateway, piece: bytes) -> None:
    """The largest go first, and no more of them than has to; a client that sends slowly, but little, is served."""
    bound = 1024 * KILOBYTE
    if b"%b" in piece:  # a key of the right form, which nobody has: its body is read before it is looked up
        piece = (piece % unknown_key()).replace(b"content-length: 0", b"content-length: 60001") + b"{" * 60_000
    with (
        start(server={"port": 0, "max_unverified_bytes": bound, **PATIENT}) as gateway,
        connected(gateway) as (slow,),
        connected(gateway, 60) as clients,
    ):
        slow.sendall(HEALTH[:-2])
        for client in clients:
            send_and_see(gateway, client, piece)
            assert held(gateway) <= bound
        held_by_open = sum(map(is_open, clients)) * len(piece)
        assert bound // 2 - len(piece) < held_by_open <= bound, "nobody is ended below half of it"
        slow.sendall(b"\r\n")
        assert slow.recv(100).startswith(b"HTTP/1.1 200 ")


def send_and_see(gateway: RunningGateway, client: socket.socket, data: bytes) -> None:
    """Sends what is no whole request, and waits until it is held or refused."""
    before = held(gateway)
    with contextlib.suppress(ConnectionError):
        client.sendall(data)
    wait_until_sync(lambda: held(gateway) != before or not is_open(client), what="it is held, or refused")


def held(gateway: RunningGateway) -> int:
    return gateway.run(gateway.server.unverified_bytes())


def unknown_key() -> bytes:
    return new_secret(new_id(), new_id())[0].encode()


@pytest.mark.parametrize("chunk", [1, 2, 16])
def test_a_body_in_tiny_chunks_is_refused_early(start: StartGateway, chunk: int) -> None:
    with start() as gateway, connected(gateway) as (client,):
        secret = gateway.new_key().text
        client.sendall(
            f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n"
            "transfer-encoding: chunked\r\n\r\n".encode()
        )
        with contextlib.suppress(ConnectionError):
            client.sendall((b"%x\r\n%b\r\n" % (chunk, b"a" * chunk)) * 200_000)
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"invalid_http" in answer


def test_what_tiny_chunks_take_to_read_does_not_grow_with_the_bound_of_heads() -> None:
    parser = RequestParser(CountingOwner(), max_head_bytes=1 << 20, max_head_fields=10)
    parser.feed(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    with pytest.raises(GatewayError, match="framing"):
        parser.feed(b"1\r\na\r\n" * 5_000)


LIMITS = ConnectionLimits(
    max_head_bytes=1000,
    max_head_fields=10,
    head_timeout_s=1,
    write_timeout_s=1,
    max_connections=1000,
    max_connections_per_address=1000,
    max_unverified_bytes=1000,
)


class Holds:
    """A connection that holds bytes."""

    def __init__(self, budget: ConnectionBudget) -> None:
        self.budget = budget
        self.size = 0
        self.dropped = False

    def set(self, size: int, *, tells: bool = True) -> None:
        self.size = size
        if tells:
            self.budget.hold(self, size)

    def unverified_bytes(self) -> int:
        return self.size

    def drop(self) -> None:
        self.dropped, self.size = True, 0


@settings(max_examples=effort(300))
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 700), st.booleans()), max_size=60))
def test_the_budget_holds_at_most_its_bound_and_ends_nobody_below_it(moves: list[tuple[int, int, bool]]) -> None:
    """Who holds less than before may not have told: what is counted is never less than what is held."""
    budget = ConnectionBudget(LIMITS, ClientAddresses([]))
    holders = [Holds(budget) for _ in range(10)]
    bound, largest = LIMITS.max_unverified_bytes, 700
    for number, size, tells in moves:
        one = holders[number]
        if one.dropped:
            continue
        living = [other for other in holders if not other.dropped]
        wanted = size + sum(other.size for other in living if other is not one)
        one.set(size, tells=tells or size > one.size)
        held = sum(other.size for other in holders)
        assert held <= budget.unverified_bytes <= bound
        dropped = [other for other in living if other.dropped]
        if dropped:
            assert wanted > bound, "nobody is ended while all of them hold less than the bound"
            assert held > bound // 8 * 7 - largest, "no more of them than has to"


CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=12)


@settings(max_examples=effort(200))
@given(CHUNKS, st.binary(max_size=20), st.data(), st.booleans())
def test_the_end_of_a_chunked_body_is_found_however_it_is_cut(
    chunks: list[bytes], behind: bytes, data: st.DataObject, trailer: bool
) -> None:
    body = b"".join(b"%X;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    body += b"0\r\n" + (b"a: b\r\n" if trailer else b"") + b"\r\n"
    sent, at, framing = body + behind, 0, ChunkedFraming(10_000)
    while True:
        size = data.draw(st.integers(1, len(sent)))
        end = framing.end(sent[at : at + size])
        if end is not None:
            assert at + end == len(body)
            return
        at += size
        assert at < len(body)


def test_framing_is_allowed_an_eighth_of_the_content() -> None:
    framing = ChunkedFraming(1000)
    assert framing.end((b"40\r\n" + b"a" * 64 + b"\r\n") * 100_000) is None
    framing = ChunkedFraming(1000)
    with pytest.raises(InvalidChunks):
        framing.end((b"10\r\n" + b"a" * 16 + b"\r\n") * 100_000)


def test_connections_that_a_listener_accepts_are_asked_whether_they_live() -> None:
    with bound("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            if hasattr(socket, "TCP_KEEPIDLE"):
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


def test_dry_runs_count_against_a_rate_of_their_own(start: StartGateway) -> None:
    headers = {"x-gateway-dry-run": "true"}
    with start(limits={"dry_runs_per_minute": 2}) as gateway:
        key = gateway.new_key(limits={"rpm": 1})
        with gateway.http(key) as http:
            answers = [http.post("/v1/responses", json={"model": "m", "input": "x"}, headers=headers) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 429]
            assert int(answers[-1].headers["retry-after"]) > 0
            assert http.post("/v1/responses", json={"model": "o4-mini", "input": "x"}).status_code == 200


@pytest.mark.parametrize("piece", [b"[],", b'"data:;base64,",', b"1,"])
def test_a_heavy_body_keeps_nobody_waiting(start: StartGateway, piece: bytes) -> None:
    body = b'{"model":"m","input":[%b0]}' % (piece * (30_000_000 // len(piece)))
    with start() as gateway, gateway.http(gateway.new_key()) as http:
        answer = http.post("/v1/responses", content=body, headers={"x-gateway-dry-run": "true"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
