"""The address of an upstream, and how it is reached if some of its addresses do not answer."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from gateway.upstream.dial import AddressInfo, dial, interleave, race
from gateway.upstream.origin import Origin, parse_origin
from gateway.upstream.transport import TransportConfig
from tests.support.scripted_upstream import serve
from tests.support.waiting import let_run, wait_until


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://llm.example/v1/", Origin(True, "llm.example", 443, b"llm.example", b"/v1")),
        ("http://llm.example", Origin(False, "llm.example", 80, b"llm.example", b"")),
        ("HTTP://LLM.example:8080/a", Origin(False, "llm.example", 8080, b"llm.example:8080", b"/a")),
        ("http://llm.example:80", Origin(False, "llm.example", 80, b"llm.example", b"")),
        ("https://[::1]:8443/v1", Origin(True, "::1", 8443, b"[::1]:8443", b"/v1")),
        ("https://bücher.example", Origin(True, "xn--bcher-kva.example", 443, b"xn--bcher-kva.example", b"")),
    ],
)
def test_a_base_url_is_taken_apart(url: str, origin: Origin) -> None:
    assert parse_origin(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "llm.example/v1",
        "ftp://llm.example",
        "http://",
        "http://user:password@llm.example",
        "http://llm.example/v1?x=1",
        "http://llm.example/v1#x",
        "http://llm.example:port",
        "http://llm.example/v 1",
        "http://llm.example/\r\nx: y",
        "http://llm.example/ü",
        f"http://{'a' * 64}.example",
    ],
)
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"base_url|[Pp]ort|label"):
        parse_origin(url)


@pytest.mark.parametrize(
    "setting",
    [
        {"connect_timeout_s": 0.0},
        {"first_byte_timeout_s": -1.0},
        {"chunk_timeout_s": float("inf")},
        {"idle_expiry_s": float("nan")},
        {"max_connections": 0},
        {"max_head_bytes": 0},
        {"max_unread_bytes": 0},
        {"max_idle": -1},
        {"client_key_file": "key.pem"},
    ],
)
def test_a_bound_that_bounds_nothing_is_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        TransportConfig(base_url="http://llm.example", **setting)  # type: ignore[arg-type]  # one field, by name


def address(port: int, host: str = "127.0.0.1") -> AddressInfo:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


def test_families_alternate_beginning_with_the_first_choice() -> None:
    infos = [address(1, "::1"), address(2, "::1"), address(3, "::1"), address(4), address(5)]
    assert [info[4][1] for info in interleave(infos)] == [1, 4, 2, 5, 3]


@pytest.fixture
def black_hole() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for filler in fillers:
            filler.close()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


async def test_an_address_that_does_not_answer_delays_the_next_only_briefly(black_hole: int) -> None:
    async with serve([]) as upstream:
        with closing(await race([address(black_hole), address(port_of(upstream.url))])) as sock:
            assert sock.getpeername()[1] == port_of(upstream.url)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_an_address_that_refuses_is_passed_over(unused_port: int) -> None:
    async with serve([]) as upstream:
        with closing(await race([address(unused_port), address(port_of(upstream.url))])) as sock:
            assert sock.getpeername()[1] == port_of(upstream.url)


async def test_when_every_address_refuses_the_first_error_is_raised(unused_port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        await race([address(unused_port), address(unused_port)])


async def test_cancelling_a_race_closes_its_sockets(black_hole: int) -> None:
    tasks = asyncio.all_tasks()
    racing = asyncio.create_task(race([address(black_hole), address(black_hole)]))
    await let_run()
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    await wait_until(lambda: asyncio.all_tasks() == tasks)
    # A socket that is left open would be a ResourceWarning, which is an error here.


async def test_dialling_resolves_names() -> None:
    async with serve([]) as upstream:
        with closing(await dial("localhost", port_of(upstream.url))) as sock:
            assert sock.getpeername()[1] == port_of(upstream.url)


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
