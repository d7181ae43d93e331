"""The command line's HTTP calls, on real sockets: connections, ends, proxies, certificates."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
import trustme

from gateway.cli.calls import Answer, Calls, NoAnswerError, NoConnectionError, UrlError
from tests.support.forward_proxies import forward_proxy
from tests.support.scripted_upstream import Step, answer, close, hang, head, request, reset, send, serve
from tests.support.waiting import wait_until

T = TypeVar("T")
HEADERS = {"authorization": "Bearer secret"}
CUT = send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - nothing listens on it: connecting to it leads here, and it is not called loopback
STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):  # the machine that runs the tests may be behind a proxy itself
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


async def called(url: str, work: Callable[[Calls], T]) -> T:
    """Makes calls in a thread: they block, and the server of the test is in this one."""

    def run() -> T:
        with Calls(url, HEADERS) as calls:
            return work(calls)

    return await asyncio.to_thread(run)


def get(calls: Calls) -> Answer:
    return calls.request("GET", "/a", {"q": "b c"})


def test_a_url_that_is_none_is_refused_before_anything_is_sent() -> None:
    for url in ("ftp://x", "nonsense", "http://x:port", "http://", "http://[::1", "http://x:0"):
        with pytest.raises(UrlError):
            Calls(url, {})


async def test_calls_share_a_connection() -> None:
    async with serve([request(), answer(b"{}"), request(), answer(b'{"a": 1}'), hang()]) as server:
        answers = await called(f"{server.url}/prefix/", lambda calls: [get(calls), get(calls)])
    assert [found.json() for found in answers] == [{}, {"a": 1}]
    assert server.accepted == 1
    assert server.requests[0].startswith(b"GET /prefix/a?q=b+c HTTP/1.1\r\n")
    assert b"\r\nauthorization: Bearer secret\r\n" in server.requests[1]


async def test_a_connection_that_the_server_ended_meanwhile_is_replaced() -> None:
    ended = asyncio.Event()

    async def note(_peer: object) -> None:
        ended.set()

    async with serve([request(), answer(b"1"), close(), note], [request(), answer(b"2")]) as server:

        def twice(calls: Calls) -> list[bytes]:
            first = get(calls)
            asyncio.run_coroutine_threadsafe(ended.wait(), loop).result(10)
            return [first.body, get(calls).body]

        loop = asyncio.get_running_loop()
        assert await called(server.url, twice) == [b"1", b"2"]
    assert server.accepted == 2


async def test_what_a_stream_did_not_read_is_not_the_next_answer() -> None:
    def left_early(calls: Calls) -> list[object]:
        with calls.opened("GET", "/events") as stream:
            first = next(stream.lines())
        return [first, get(calls).body]

    async with serve(
        [request(), send(STREAM + b"c\r\ndata: 1\n\ndata\r\n"), hang()], [request(), answer(b"next")]
    ) as server:
        assert await called(server.url, left_early) == ["data: 1", b"next"]


async def test_lines_come_whole_however_they_are_cut() -> None:
    async with serve([request(), send(STREAM, b"5\r\ndata:", b"\r\n9\r\n \xc3\xa4\r\n\nda\r\n0\r\n\r\n")]) as server:

        def lines(calls: Calls) -> list[str]:
            with calls.opened("POST", "/events", body={"a": 1}) as stream:
                return list(stream.lines())

        assert await called(server.url, lines) == ["data: ä", "", "da"]
    assert server.requests[0].endswith(b'\r\n\r\n{"a": 1}')


@pytest.mark.parametrize(
    "steps",
    [[close()], [reset()], [CUT, close()], [send(b"nonsense\r\n\r\n"), close()]],
    ids=["no answer", "reset", "cut", "no HTTP"],
)
async def test_an_answer_that_does_not_come_whole_may_have_been_given(steps: list[Step]) -> None:
    async with serve([request(), *steps]) as server:
        with pytest.raises(NoAnswerError):
            await called(server.url, get)


async def test_a_header_that_cannot_be_sent_is_told() -> None:
    async with serve([request()]) as server:
        with pytest.raises(NoAnswerError):
            await called(server.url, lambda calls: calls.request("GET", "/", headers={"x": "a\r\nb"}))
        await wait_until(lambda: server.gone == 1, what="the connection has ended")


async def test_a_redirect_is_not_followed() -> None:
    moved = answer(b"", status=b"308 Permanent Redirect", headers=b"location: http://elsewhere.example/\r\n")
    async with serve([request(), moved]) as server:
        found = await called(server.url, get)
    assert (found.status, found.is_success) == (308, False)


async def test_a_plain_call_goes_to_the_environment_s_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve([request(), answer(b"by proxy")]) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//name:a%20b@"))
        assert (await called("http://gateway.example:81/base", get)).body == b"by proxy"
    [sent] = proxy.requests
    assert sent.startswith(b"GET http://gateway.example:81/base/a?q=b+c HTTP/1.1\r\nHost: gateway.example:81\r\n")
    assert b"\r\nProxy-Authorization: Basic bmFtZTphIGI=\r\n" in sent


async def test_a_tls_call_goes_through_a_tunnel_and_the_proxy_sees_no_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(ANY_ADDRESS).configure_cert(context)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with serve([request(), answer(b"secret")], tls=context) as server, forward_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        url = server.url.replace("127.0.0.1", ANY_ADDRESS)
        assert (await called(url, get)).body == b"secret"
        await wait_until(lambda: server.open == 0, what="the connection has ended")
    [sent] = proxy.heads
    assert sent.startswith(b"CONNECT %b " % url.removeprefix("https://").encode())
    assert b"Bearer" not in sent
    assert b"Bearer" in server.requests[0]


def test_a_certificate_that_nobody_vouches_for_ends_the_call_before_the_key_is_sent() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    def serve_one() -> str:
        accepted, _ = listener.accept()
        with accepted, pytest.raises(ssl.SSLError) as refused:
            context.wrap_socket(accepted, server_side=True)
        return str(refused.value)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        told = pool.submit(serve_one)
        with (
            Calls(f"https://127.0.0.1:{listener.getsockname()[1]}", HEADERS) as calls,
            pytest.raises(NoConnectionError, match="certificate"),
        ):
            get(calls)
        assert "ALERT_UNKNOWN_CA" in told.result(10)


async def test_a_proxy_is_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve([request(), answer(b"direct")]) as server, serve([head()]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert (await called(server.url, get)).body == b"direct"
    assert proxy.accepted == 0
