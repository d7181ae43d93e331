"""A proxy before a store's primary, behind which its replica lags: what the primary passes on arrives later.

    with lagging_proxy(port, lag_s=0.5) as proxy:     proxy.port; other connections are not delayed

What is on its way when the proxy is cut never arrives, as where a machine dies with its network.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator


class LaggingProxy:
    """`port` is where it listens."""

    def __init__(self, target: int, lag_s: float) -> None:
        self.port = 0
        self._target = target
        self._lag_s = lag_s
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def begin(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def cut(self) -> None:
        """Everything that is on its way is lost, and nobody connects any more."""
        if self._thread.is_alive() and self._loop is not None and self._end is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(10)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(lambda _loop, _context: None)  # connections end as they like
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind, before = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, before}
        is_replica = asyncio.Event()

        async def up() -> None:
            while data := await reader.read(65536):
                if b"PSYNC" in data:
                    is_replica.set()
                before.write(data)
            before.close()

        async def down() -> None:
            while data := await behind.read(1 << 20):
                if is_replica.is_set():
                    asyncio.get_running_loop().call_later(self._lag_s, writer.write, data)
                else:
                    writer.write(data)
            writer.close()

        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(up(), down())


@contextlib.contextmanager
def lagging_proxy(target: int, *, lag_s: float) -> Iterator[LaggingProxy]:
    proxy = LaggingProxy(target, lag_s)
    proxy.begin()
    try:
        yield proxy
    finally:
        proxy.cut()
