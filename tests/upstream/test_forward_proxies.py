"""Forward proxies: what they are sent, what they never see, and which transport an upstream gets."""

import asyncio
import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.upstream import factory
from gateway.upstream.factory import build_transport
from gateway.upstream.http2_pool import Http2Transport
from gateway.upstream.pool import NativeTransport
from gateway.upstream.transport import FaultKind, TransportConfig
from tests.support.forward_proxies import forward_proxy
from tests.support.scripted_upstream import Peer, Step, answer, close, hang, head, request, send, serve
from tests.support.upstream_exchange import fault, fetch, post
from tests.support.waiting import wait_until


def tunnel_to(url: str) -> Step:
    """Answer CONNECT and pass bytes both ways."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def step(peer: Peer) -> None:
        host, port = url.removeprefix("https://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        peer.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(pump(peer.reader, writer), pump(reader, peer.writer))
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)

    return step


def through(proxy: str, base_url: str, **settings: Any) -> NativeTransport:
    return NativeTransport(TransportConfig(base_url=base_url, proxy=proxy, **settings))


async def test_a_plain_request_goes_to_the_proxy_with_its_whole_url() -> None:
    async with serve([request(), answer(b"by proxy")]) as proxy:
        transport = through(proxy.url, "http://upstream.invalid/base")
        assert await fetch(transport) == (200, b"by proxy")
        await transport.close()
    assert proxy.requests[0].startswith(b"POST http://upstream.invalid/base/v1/responses HTTP/1.1\r\n")


async def test_a_tls_request_goes_through_a_tunnel_and_the_proxy_sees_no_key(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with (
        serve([request(), answer(b"secret")], tls=context) as upstream,
        serve([head(), tunnel_to(upstream.url)]) as proxy,
    ):
        transport = through(proxy.url, upstream.url, ca_file=str(tmp_path / "ca.pem"))
        assert await fetch(transport) == (200, b"secret")
        await transport.close()
    assert proxy.requests[0].startswith(b"CONNECT 127.0.0.1:")
    assert b"Bearer" not in proxy.requests[0]
    assert b"Bearer" in upstream.requests[0]


async def test_a_proxy_that_refuses_the_tunnel_is_a_connect_fault_with_nothing_sent() -> None:
    async with serve(
        [head(), send(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")]
    ) as proxy:
        transport = through(proxy.url, "https://upstream.invalid")
        with fault(FaultKind.CONNECT, sent=False):
            await post(transport)
        await transport.close()
        assert transport.open_connections == 0


@pytest.mark.parametrize(
    "proxy",
    [
        "ftp://127.0.0.1",
        "https://127.0.0.1:3128",
        "socks5://127.0.0.1:1080",
        "http://127.0.0.1:port",
        "http://127.0.0.1:99999",
        "http://[::1",
        "http://",
        "http://127.0.0.1:3128/path",
        "http://127.0.0.1:3128?q",
        "nonsense",
    ],
)
def test_a_proxy_that_is_no_url_is_refused(proxy: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)proxy|url"):
        through(proxy, "http://upstream.invalid")


async def test_a_plain_request_has_the_credentials_for_the_proxy_and_the_caller_s_do_not_pass() -> None:
    async with serve([request(), answer(b"by proxy")]) as proxy:
        transport = through(proxy.url.replace("//", "//us%40er:p%3Aw@"), "http://upstream.invalid")
        found = await transport.send(b"POST", b"/v1", [(b"proxy-authorization", b"theirs")], b"{}")
        assert found.status == 200
        await transport.close()
    credentials = base64.b64encode(b"us@er:p:w")
    assert proxy.requests[0].count(b"proxy-authorization: ") == 1
    assert b"\r\nproxy-authorization: Basic " + credentials + b"\r\n" in proxy.requests[0]


async def test_a_tunnel_is_asked_for_with_credentials_which_the_upstream_does_not_see(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    credentials = b"Basic " + base64.b64encode(b"user:secret")
    async with (
        serve([request(), answer(b"1")], tls=context) as upstream,
        forward_proxy(wanted=credentials) as proxy,
    ):
        refused = through(proxy.url, upstream.url, ca_file=str(tmp_path / "ca.pem"))
        with fault(FaultKind.CONNECT, sent=False):
            await post(refused)
        await refused.close()
        url = proxy.url.replace("//", "//user:secret@")
        transport = through(url, upstream.url, ca_file=str(tmp_path / "ca.pem"))
        assert await fetch(transport) == (200, b"1")
        await transport.close()
    assert b"roxy" not in upstream.requests[0]


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
        b"HTTP/1.1 2xx\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 5000,
    ],
)
async def test_whatever_else_a_proxy_answers_is_a_connect_fault_and_leaves_nothing(said: bytes) -> None:
    async with serve([head(), send(said), close()]) as proxy:
        transport = through(proxy.url, "https://upstream.invalid")
        with fault(FaultKind.CONNECT, sent=False):
            await post(transport)
        assert transport.open_connections == 0
        await transport.close()


async def test_a_proxy_that_says_nothing_is_given_up_when_connecting_takes_too_long() -> None:
    async with serve([head(), hang()]) as proxy:
        transport = through(proxy.url, "https://upstream.invalid", connect_timeout_s=0.2)
        with fault(FaultKind.CONNECT_TIMEOUT, sent=False):
            await post(transport)
        await wait_until(lambda: proxy.gone == 1, what="the connection is closed")
        await transport.close()


def test_http2_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="http2 extra"):
        build_transport(TransportConfig(base_url="https://upstream.invalid", http2=True), "auto")


@pytest.mark.parametrize("kind", ["auto", "httpx"])
def test_http2_is_used_where_it_is_wanted_and_there_is_tls(kind: factory.TransportKind) -> None:
    secure = TransportConfig(base_url="https://upstream.invalid", http2=True)
    plain = TransportConfig(base_url="http://upstream.invalid", http2=True)
    assert isinstance(build_transport(secure, kind), Http2Transport)
    assert isinstance(build_transport(plain, kind), NativeTransport)


def test_http2_and_the_transport_that_does_not_speak_it_are_refused() -> None:
    with pytest.raises(ValueError, match="native"):
        build_transport(TransportConfig(base_url="https://upstream.invalid", http2=True), "native")


@pytest.mark.parametrize("kind", ["auto", "native", "httpx"])
def test_without_http2_every_kind_is_the_native_one(kind: factory.TransportKind) -> None:
    for proxy in (None, "http://127.0.0.1:3128"):
        config = TransportConfig(base_url="http://upstream.invalid", proxy=proxy)
        assert isinstance(build_transport(config, kind), NativeTransport)
