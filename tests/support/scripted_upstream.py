"""An upstream that does exactly what a test says, on a real socket.

    async with serve([request(), send(b"HTTP/1.1 200 OK\\r\\n..."), reset()]) as upstream:
        ...                                            one list of steps per connection, the last list for all others

| step                | the upstream                                                                       |
|---------------------|------------------------------------------------------------------------------------|
| request()           | reads one whole request (Content-Length framing), keeps it in `upstream.requests`   |
| head()              | reads a request's head only                                                        |
| send(bytes, ...)    | sends; several pieces arrive as several reads                                      |
| wait_for(event)     | waits for the test                                                                 |
| hang()              | waits until the client closes, and notes that it did                               |
| half_close()        | ends its side, goes on listening                                                   |
| close(), reset()    | FIN, RST                                                                           |
At the end of its steps it hangs.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field


@dataclass
class Upstream:
    """What the test sees of the server (mutable)."""

    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    accepted: int = 0
    gone: int = 0  # connections closed by the client or by the script

    stop: Callable[[], None] = lambda: None  # accept no more connections

    @property
    def open(self) -> int:
        return self.accepted - self.gone


@dataclass
class Peer:
    upstream: Upstream
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


Step = Callable[[Peer], Awaitable[None]]


def request() -> Step:
    async def step(peer: Peer) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        peer.upstream.requests.append(head + await peer.reader.readexactly(length))

    return step


def head() -> Step:
    async def step(peer: Peer) -> None:
        peer.upstream.requests.append(await peer.reader.readuntil(b"\r\n\r\n"))

    return step


def send(*pieces: bytes) -> Step:
    async def step(peer: Peer) -> None:
        for piece in pieces:
            peer.writer.write(piece)
            await peer.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.002)  # apart on the wire: each arrives as a read of its own

    return step


def wait_for(event: asyncio.Event) -> Step:
    async def step(_peer: Peer) -> None:
        await event.wait()

    return step


def hang() -> Step:
    async def step(peer: Peer) -> None:
        while await peer.reader.read(65536):
            pass

    return step


def half_close() -> Step:
    async def step(peer: Peer) -> None:
        peer.writer.write_eof()

    return step


def close() -> Step:
    async def step(peer: Peer) -> None:
        peer.writer.close()
        await peer.writer.wait_closed()

    return step


def reset() -> Step:
    async def step(peer: Peer) -> None:
        sock: socket.socket = peer.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.writer.transport.abort()

    return step


def answer(body: bytes, *, status: bytes = b"200 OK", headers: bytes = b"") -> Step:
    return send(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), headers, body))


@contextlib.asynccontextmanager
async def serve(*scripts: Sequence[Step], tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """Run a server on loopback."""
    upstream = Upstream()
    running: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            running.add(task)
        peer = Peer(upstream, reader, writer)
        steps = scripts[min(upstream.accepted, len(scripts) - 1)]
        upstream.accepted += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                for step in (*steps, hang()):
                    await step(peer)
        except asyncio.CancelledError:
            return  # the test is over
        finally:
            upstream.gone += 1
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    upstream.stop = server.close
    port = server.sockets[0].getsockname()[1]
    upstream.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield upstream
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
