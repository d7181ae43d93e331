"""One connection: batching, order, deadlines, scripts, and what a store that fails says."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.store.connection import ConnectionSettings, StoreConnection, open_connection, pack, pack_large
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.script import Script
from gateway.store.topology import tls_context
from gateway.store.url import Address
from tests.support.servers import STORES, Server, binary_of, valkey_server
from tests.support.waiting import wait_until, wait_until_found

LIMITS = ConnectionSettings(timeout_s=5.0, connect_timeout_s=5.0, max_pending=10_000)
HASTY = ConnectionSettings(timeout_s=0.1, connect_timeout_s=0.1, max_pending=10_000)
COUNT = Script.of("count", "return redis.call('INCRBY', KEYS[1], ARGV[1])")
SPIN = Script.of("spin", "while true do end")


def evalsha(script: Script, key: str, *args: int) -> bytes:
    return pack((b"EVALSHA", script.sha, 1, key, *args))


def reads(server: Server) -> int:
    """How often the server has read from a connection."""
    return int(server.run("INFO", "stats")["total_reads_processed"])


@pytest.fixture(scope="module", params=STORES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with valkey_server(binary=binary_of(request.param), busy_reply_threshold="20") as server:
        yield server


@pytest.fixture
def address(server: Server) -> Address:
    server.resume()
    server.run("FLUSHALL")
    server.run("SCRIPT", "FLUSH")
    server.run("CONFIG", "RESETSTAT")
    return Address(path=str(server.socket_path))


@pytest.fixture
async def connection(address: Address) -> AsyncIterator[StoreConnection]:
    connection = await open_connection(address, LIMITS)
    yield connection
    connection.close()


async def failure(future: asyncio.Future[object]) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as caught:
        await future
    return caught.value


async def test_calls_of_one_turn_of_the_loop_leave_in_one_write(connection: StoreConnection, server: Server) -> None:
    before = reads(server)
    assert await asyncio.gather(*(connection.run("INCR", "n") for _ in range(50))) == list(range(1, 51))
    after = reads(server)
    reads_to_ask = reads(server) - after
    assert after - before - reads_to_ask == 1


async def test_a_call_makes_no_task(connection: StoreConnection) -> None:
    tasks = asyncio.all_tasks()
    calls = [connection.run("PING") for _ in range(10)]
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    await asyncio.gather(*calls)


async def test_replies_of_every_kind_come_as_python_values(connection: StoreConnection) -> None:
    assert await connection.run("SET", "key", b"\x00\xff") == b"OK"
    assert await connection.run("GET", "key") == b"\x00\xff"
    assert await connection.run("GET", "none") is None
    assert await connection.run("STRLEN", "key") == 2
    assert await connection.run("MGET", "key", "none") == [b"\x00\xff", None]
    big = b"x" * 1_000_000
    assert await connection.run("ECHO", big) == big


async def test_a_caller_that_leaves_does_not_shift_the_replies(connection: StoreConnection) -> None:
    calls = [connection.run("ECHO", str(number)) for number in range(3)]
    calls[1].cancel()
    assert [await calls[0], await calls[2]] == [b"0", b"2"]


@given(st.lists(st.binary(max_size=40) | st.text(max_size=9) | st.integers(), max_size=9))
def test_a_large_command_is_packed_as_any_other(words: list[bytes | str | int]) -> None:
    assert pack_large((b"SET", *words)) == pack((b"SET", *words))


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@given(turns=st.lists(st.lists(st.binary(max_size=40), max_size=6), max_size=6))
@settings(max_examples=30)
def test_every_call_gets_its_own_reply_however_calls_are_spread_over_turns(
    turns: list[list[bytes]], server: Server, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def run() -> None:
        connection = await open_connection(Address(path=str(server.socket_path)), LIMITS)
        with contextlib.closing(connection):
            calls = []
            for turn in turns:
                calls += [(word, connection.run("ECHO", word)) for word in turn]
                await asyncio.sleep(0)
            for word, reply in calls:
                assert await reply == word

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


async def test_a_script_that_the_store_does_not_know_is_loaded_once_and_run(
    connection: StoreConnection, server: Server
) -> None:
    calls = [connection.send(evalsha(COUNT, "n", 1), COUNT) for _ in range(20)]
    assert await asyncio.gather(*calls) == list(range(1, 21))
    assert server.run("INFO", "commandstats")["cmdstat_script|load"]["calls"] == 1
    server.run("SCRIPT", "FLUSH")
    assert await connection.send(evalsha(COUNT, "n", 1), COUNT) == 21


async def test_a_script_that_does_not_compile_is_a_store_error(connection: StoreConnection) -> None:
    broken = Script.of("broken", "this is not Lua")
    calls = [connection.send(evalsha(broken, "n"), broken) for _ in range(3)]
    for call in calls:
        with pytest.raises(StoreError, match="compil"):
            await call
    assert await connection.run("PING") == b"PONG"


async def test_a_refused_call_is_a_store_error_and_leaves_the_link_up(connection: StoreConnection) -> None:
    bad = Script.of("bad", "return redis.call('INCRBY', KEYS[1])")
    for call in (connection.run("INCR"), connection.run("NONSENSE"), connection.send(evalsha(bad, "n"), bad)):
        with pytest.raises(StoreError):
            await call
    assert connection.fault is None


async def test_a_hung_store_fails_all_pending_calls_as_maybe_applied(address: Address, server: Server) -> None:
    connection = await open_connection(address, HASTY)
    server.pause()
    calls = [connection.run("INCR", "n") for _ in range(3)]
    faults = [await failure(call) for call in calls]
    assert [(fault.reason, fault.maybe_applied) for fault in faults] == [("timeout", True)] * 3
    late = connection.run("INCR", "n")
    assert late.done()
    assert not (await failure(late)).maybe_applied
    server.resume()
    await wait_until(lambda: server.run("GET", "n") == b"3", what="the calls were applied after all")


async def test_the_deadline_is_that_of_the_oldest_call(address: Address, server: Server) -> None:
    connection = await open_connection(address, HASTY)
    for _ in range(30):  # longer, all in all, than one deadline: each answered call moves it on
        await connection.run("PING")
        await asyncio.sleep(0.01)  # thirty of these are longer than a deadline
    assert connection.fault is None
    connection.close()


async def test_replies_that_wait_in_the_socket_are_read_before_the_deadline_condemns(address: Address) -> None:
    connection = await open_connection(address, HASTY)
    call = connection.run("PING")
    await asyncio.sleep(0)
    time.sleep(2 * HASTY.timeout_s)  # noqa: ASYNC251 - the loop itself is to stall, which is no fault of the store
    assert await call == b"PONG"
    connection.close()


async def test_every_pause_of_the_gateway_is_forgiven_not_only_the_first(address: Address) -> None:
    connection = await open_connection(address, HASTY)
    for _ in range(3):
        call = connection.run("PING")
        await asyncio.sleep(0)
        time.sleep(2 * HASTY.timeout_s)  # noqa: ASYNC251 - as above
        assert await call == b"PONG"
        await asyncio.sleep(2 * HASTY.timeout_s)  # its timer finds nothing to watch
    assert connection.fault is None
    connection.close()


async def test_a_permission_that_the_user_lacks_is_an_outage(address: Address, server: Server) -> None:
    """An operator can set it right: it is no mistake of the gateway's."""
    name = f"poor-{time.time_ns()}"
    server.run("ACL", "SETUSER", name, "on", ">secret", "~*", "+@all", "-incrby")
    connection = await open_connection(address, replace(LIMITS, username=name, password="secret"))
    try:
        for call in (connection.run("INCRBY", "n", 1), connection.send(evalsha(COUNT, "n", 1), COUNT)):
            assert (await failure(call)).reason == "NOPERM"
        assert connection.fault is None
    finally:
        connection.close()
        server.run("ACL", "DELUSER", name)


async def test_calls_beyond_the_bound_fail_at_once(address: Address, server: Server) -> None:
    connection = await open_connection(address, ConnectionSettings(timeout_s=0.1, connect_timeout_s=1, max_pending=2))
    server.pause()
    calls = [connection.run("PING") for _ in range(3)]
    assert [call.done() for call in calls] == [False, False, True]
    fault = await failure(calls[2])
    assert (fault.reason, fault.maybe_applied) == ("overload", False)
    assert (await failure(calls[0])).reason == (await failure(calls[1])).reason == "timeout"


async def test_only_calls_that_were_written_may_have_been_applied(address: Address) -> None:
    connection = await open_connection(address, LIMITS)
    written = connection.run("BLPOP", "nothing", 0)
    await asyncio.sleep(0)
    unwritten = connection.run("INCR", "n")
    connection.close()
    assert (await failure(written)).maybe_applied
    assert not (await failure(unwritten)).maybe_applied


async def test_a_killed_store_fails_pending_calls_as_lost() -> None:
    with valkey_server() as server:
        connection = await open_connection(Address(path=str(server.socket_path)), LIMITS)
        downs: list[str] = []
        connection.on_down = lambda _, fault: downs.append(fault.reason)
        call = connection.run("BLPOP", "nothing", 0)
        await asyncio.sleep(0)
        server.kill()
        fault = await failure(call)
        assert (fault.reason, fault.maybe_applied, downs) == ("lost", True, ["lost"])


async def test_a_link_that_is_told_to_go_elsewhere_finishes_what_is_on_its_way(
    connection: StoreConnection, server: Server
) -> None:
    server.run("CONFIG", "SET", "maxmemory", 1)
    try:
        refused, served = connection.send(evalsha(COUNT, "n", 1), COUNT), connection.run("ECHO", "still")
        assert (await failure(refused)).reason == "OOM"
        assert await served == b"still"
        assert (await failure(connection.run("PING"))).reason == "OOM"
    finally:
        server.run("CONFIG", "SET", "maxmemory", 0)


async def test_a_store_busy_with_a_script_says_so(
    connection: StoreConnection, address: Address, server: Server
) -> None:
    spinning = connection.send(evalsha(SPIN, "n"), SPIN)
    other = await open_connection(address, LIMITS)

    async def is_busy() -> bool:
        try:
            await other.run("GET", "n")
        except StoreUnavailable as fault:
            return fault.reason == "BUSY"
        return False  # asked before the script began

    await wait_until_found(is_busy)
    server.run("SCRIPT", "KILL")
    with pytest.raises(StoreError, match="killed"):
        await spinning
    other.close()


async def test_the_connection_introduces_itself(address: Address, server: Server) -> None:
    server.run("ACL", "SETUSER", "gw", "on", ">secret word", "~*", "+@all")
    known = ConnectionSettings(5, 5, 10, username="gw", password="secret word", db=3, client_name="gateway-7")
    with contextlib.closing(await open_connection(address, known)) as connection:
        fields = (await connection.run("CLIENT", "INFO")).decode()
        assert "name=gateway-7 " in fields
        assert "user=gw " in fields
        assert "db=3 " in fields


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (ConnectionSettings(5, 5, 10, username="gw", password="wrong"), "WRONGPASS"),
        (ConnectionSettings(5, 5, 10, db=4000), "out of range"),
    ],
)
async def test_wrong_credentials_are_a_store_error(address: Address, changed: ConnectionSettings, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        await open_connection(address, changed)


async def test_a_full_store_is_unavailable() -> None:
    with valkey_server(maxclients="1") as server:
        address = Address(path=str(server.socket_path))
        connection = await open_connection(address, LIMITS)
        with pytest.raises(StoreUnavailable) as caught:
            await open_connection(address, LIMITS)
        assert caught.value.reason in {"connect", "lost"}  # its words, or the broken pipe that races them
        connection.close()


@pytest.mark.parametrize(
    "address", [Address(path="/nowhere/s.sock"), Address("127.0.0.1", 1), Address("no.such.host.invalid", 1)]
)
async def test_an_unreachable_store_is_unavailable(address: Address) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await open_connection(address, LIMITS)
    assert caught.value.reason == "connect"


async def test_a_connection_that_is_never_made_ends_at_its_deadline() -> None:
    settings = ConnectionSettings(5, 0.1, 10, tls=tls_context(None))  # waits for a TLS handshake
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address("127.0.0.1", silent.getsockname()[1])
        with pytest.raises(StoreUnavailable, match=r"no connection within 0\.1 s"):
            await open_connection(address, settings)


@contextlib.asynccontextmanager
async def tls_in_front_of(server: Server, certificate: trustme.LeafCert) -> AsyncIterator[int]:
    """A port that speaks TLS and passes what it hears to the server: the shipped one is built without."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            while data := await reader.read(65536):
                writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        store_reader, store_writer = await asyncio.open_unix_connection(server.socket_path)
        await asyncio.gather(copy(reader, store_writer), copy(store_reader, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    front = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with front:
        yield front.sockets[0].getsockname()[1]


async def test_tls_trusts_the_given_authority_and_no_other(server: Server, address: Address, tmp_path: Path) -> None:
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    async with tls_in_front_of(server, authority.issue_cert("127.0.0.1")) as port:
        trusting = ConnectionSettings(5, 5, 10, tls=tls_context(str(ca_file)))
        with contextlib.closing(await open_connection(Address("127.0.0.1", port), trusting)) as connection:
            assert await connection.run("ECHO", "secret") == b"secret"
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            await open_connection(Address("127.0.0.1", port), ConnectionSettings(5, 5, 10, tls=tls_context(None)))
        with pytest.raises(StoreUnavailable, match="certificate is not valid for 'localhost'"):
            await open_connection(Address("localhost", port), trusting)


async def test_what_is_not_resp_closes_the_connection() -> None:
    async def speak_http(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    web = await asyncio.start_server(speak_http, "127.0.0.1", 0)
    with pytest.raises(StoreUnavailable) as caught:
        await open_connection(Address("127.0.0.1", web.sockets[0].getsockname()[1]), LIMITS)
    assert caught.value.reason in {"protocol", "lost"}
    web.close()
