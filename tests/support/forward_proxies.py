"""A forward proxy on a real socket: it passes requests for http:// on, and makes tunnels for https://.

    async with forward_proxy() as proxy:    proxy.url; proxy.heads: what it was sent first, on each connection

Bytes, ends and resets pass in both directions as they come; absolute targets become paths, as a proxy makes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.support.waiting import wait_until

_ABSOLUTE = re.compile(rb"\b([A-Z]+) http://([^/ ]+)(/[^ ]*) HTTP/1\.1\r\n")


@dataclass
class ForwardProxy:
    """What the test sees of the proxy (mutable)."""

    url: str = ""
    heads: list[bytes] = field(default_factory=list)


@contextlib.asynccontextmanager
async def forward_proxy(wanted: bytes | None = None) -> AsyncIterator[ForwardProxy]:
    """Run one on loopback. `wanted`: the value of Proxy-Authorization without which it answers 407."""
    proxy = ForwardProxy()
    running: list[list[asyncio.StreamWriter]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections = [writer]
        running.append(connections)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, RuntimeError):
                await _serve(proxy, wanted, reader, connections)  # uvloop raises RuntimeError for what is closed
        finally:
            writer.transport.abort()
            running.remove(connections)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for writer in itertools.chain.from_iterable(running):
            writer.transport.abort()
        await wait_until(lambda: not running, what="the proxy's connections have ended")


async def _serve(
    proxy: ForwardProxy, wanted: bytes | None, reader: asyncio.StreamReader, connections: list[asyncio.StreamWriter]
) -> None:
    [writer] = connections
    head = await reader.readuntil(b"\r\n\r\n")
    proxy.heads.append(head)
    if wanted is not None and b"\r\nproxy-authorization: " + wanted + b"\r\n" not in head:
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        return
    tunnel = head.startswith(b"CONNECT ")
    found = _ABSOLUTE.match(head)
    address = head.split(b" ")[1] if tunnel else found[2] if found else b""
    host, _, port = address.decode().rpartition(":")
    try:
        there, onward = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError:
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        return
    connections.append(onward)
    if tunnel:
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    else:
        onward.write(_as_path(head))
    try:
        await asyncio.gather(_pass(reader, onward, as_paths=not tunnel), _pass(there, writer, as_paths=False))
    finally:
        onward.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, as_paths: bool) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(_as_path(data) if as_paths else data)
            await writer.drain()
        writer.write_eof()
        if as_paths or writer.is_closing():
            writer.close()
    except ConnectionResetError:
        if writer.is_closing():
            return
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def _as_path(data: bytes) -> bytes:
    """Heads in a read, as the upstream is sent them: without the proxy's own field, too."""
    data = _ABSOLUTE.sub(rb"\1 \3 HTTP/1.1\r\n", data)
    return re.sub(rb"proxy-authorization: [^\r]*\r\n", b"", data)
