"""A proxy before a store that cuts the connection at one chosen command, before or after the store has run it.

    with cutting_proxy(server.port) as proxy:     proxy.url
        proxy.arm(3, ran=True)                    the third command from now on is run, and its reply is lost
        assert proxy.disarm() == 3                how many of the counted commands have come since

Commands that workers send by themselves, and those that open a connection, pass without being counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import hiredis

from gateway.store.connection import pack

_UNCOUNTED = frozenset(
    {b"AUTH", b"CLIENT", b"CONFIG", b"INFO", b"PING", b"ROLE", b"SCRIPT", b"SELECT", b"SETRANGE", b"TIME", b"WAIT"}
)
_OF_WORKERS = (b"gw:{reaper}", b"gw:worker", b"gw:live", b"gw:generation", b"gw:upstreams-off", b"gw:{canary")
_READS = frozenset({b"GET", b"HGETALL"})


def _is_counted(command: list[bytes]) -> bool:
    word, *rest = command
    key = rest[2] if word == b"EVALSHA" else (rest or [b""])[0]
    orders = key in (b"gw:generation", b"gw:upstreams-off") and word not in _READS
    return word not in _UNCOUNTED and (orders or not key.startswith(_OF_WORKERS))


class CuttingProxy:
    """`port` is where it listens."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._count = 0
        self._at = 0
        self._ran = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def arm(self, at: int, *, ran: bool) -> None:
        """Cuts at the counted command number `at` from now on, after the store has run it if `ran`."""
        self._count, self._at, self._ran = 0, at, ran

    def disarm(self) -> int:
        """Cuts no more, and returns how many counted commands have come."""
        self._at = 0
        return self._count

    def begin(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def end(self) -> None:
        assert self._loop is not None
        assert self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_connection("127.0.0.1", self._target)
        commands, replies = hiredis.Reader(), hiredis.Reader()
        try:
            while data := await reader.read(65536):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    if not await self._pass_on(command, behind, before, replies, writer):
                        writer.transport.abort()
                        return
        except OSError:
            pass
        finally:
            before.close()
            writer.close()

    async def _pass_on(
        self,
        command: list[bytes],
        behind: asyncio.StreamReader,
        before: asyncio.StreamWriter,
        replies: hiredis.Reader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Whether the connection goes on. One command at a time is on its way, so the reply that comes is its own."""
        cut = False
        if _is_counted(command):
            self._count += 1
            cut = self._count == self._at
        if cut and not self._ran:
            return False
        before.write(pack(tuple(command)))
        reply: Any = False
        raw = b""
        while reply is False:
            data = await behind.read(65536)
            if not data:
                return False
            raw += data
            replies.feed(data)
            reply = replies.gets()
        if cut:
            return False
        writer.write(raw)
        return True


@contextlib.contextmanager
def cutting_proxy(target: int) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(target)
    proxy.begin()
    try:
        yield proxy
    finally:
        proxy.end()
