"""What the httpx transport is there for: forward proxies and HTTP/2."""

import asyncio
import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.upstream.factory import build_transport
from gateway.upstream.httpx_transport import HttpxTransport
from gateway.upstream.pool import NativeTransport
from gateway.upstream.transport import FaultKind, TransportConfig
from tests.support.scripted_upstream import Peer, Step, answer, head, request, send, serve
from tests.support.upstream_exchange import fault, fetch, post


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


def through(proxy: str, base_url: str, **settings: Any) -> HttpxTransport:
    return HttpxTransport(TransportConfig(base_url=base_url, proxy=proxy, **settings))


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


@pytest.mark.parametrize("proxy", ["ftp://127.0.0.1", "http://127.0.0.1:port", "nonsense"])
def test_a_proxy_that_is_no_url_is_refused(proxy: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)proxy|url"):
        through(proxy, "http://upstream.invalid")


@pytest.mark.skipif(find_spec("h2") is not None, reason="h2 is installed")
def test_http2_without_its_package_says_what_to_install() -> None:
    with pytest.raises(ValueError, match="http2 extra"):
        HttpxTransport(TransportConfig(base_url="https://upstream.invalid", http2=True))


@pytest.mark.skipif(find_spec("h2") is None, reason="h2 is not installed")
def test_http2_is_offered_where_its_package_is_installed() -> None:
    config = TransportConfig(base_url="https://upstream.invalid", http2=True)
    assert isinstance(build_transport(config, "auto"), HttpxTransport)


def test_auto_is_native_unless_a_proxy_is_wanted() -> None:
    plain = TransportConfig(base_url="http://upstream.invalid")
    proxied = TransportConfig(base_url="http://upstream.invalid", proxy="http://127.0.0.1:3128")
    assert isinstance(build_transport(plain, "auto"), NativeTransport)
    assert isinstance(build_transport(plain, "native"), NativeTransport)
    assert isinstance(build_transport(plain, "httpx"), HttpxTransport)
    assert isinstance(build_transport(proxied, "auto"), HttpxTransport)
