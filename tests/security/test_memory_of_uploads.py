"""Many large uploads at once take a worker's slices of memory, not their size; killed, it leaves no file.

It is short within the suite: 5 MB each. `make chaos` sends 25 MB each, OpenAI's bound for a file of sound.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from gateway.proxy.form_spool import SLICES_BYTES
from tests.security.test_memory_under_attack import MIB, OTHER_BYTES, resident_bytes
from tests.support.forms import CONTENT_TYPE, closed, file_part, text_part
from tests.support.gateway import running_gateway
from tests.support.processes import gateway_process
from tests.support.servers import Server
from tests.support.waiting import wait_until

UPLOADS: Final = 50
SHORT_BYTES: Final = 5 * MIB
LONG_BYTES: Final = 25 * MIB
CLOSING: Final = b"\r\n" + text_part("model", b"test/model") + closed()  # the model stands behind the file


@dataclass
class Provider:
    """An upstream that takes uploads, forgets them, and answers when it may (mutable)."""

    url: str = ""
    taken: int = 0
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            while length:
                length -= len(await reader.read(min(length, MIB)))
            self.taken += 1
            await self.may_answer.wait()
            writer.write(
                b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{"text": "hi"}'
            )
            await writer.drain()
        writer.close()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    async with await asyncio.start_server(provider.serve, "127.0.0.1", 0) as server:
        provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        yield provider
        provider.may_answer.set()


def new_key(store: Server, directory: Path) -> str:
    with running_gateway(store.url, "http://127.0.0.1:9/v1", directory) as gateway:
        return gateway.new_key(credits_usd="1000").text


async def upload(url: str, key: str, size_bytes: int) -> int:
    """Sends one file, and returns the status of its answer."""
    where = urlsplit(url)
    opening = file_part("file", "a.wav", b"")[:-2]
    length = len(opening) + size_bytes + len(CLOSING)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        writer.write(
            f"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n"
            f"content-type: {CONTENT_TYPE}\r\ncontent-length: {length}\r\n\r\n".encode()
        )
        writer.write(opening)
        piece = bytes(256 * 1024)
        for _ in range(size_bytes // len(piece)):
            writer.write(piece)
            await writer.drain()
        writer.write(CLOSING)
        await writer.drain()
        return int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])
    finally:
        writer.transport.abort()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize(
    "size_bytes",
    [
        pytest.param(SHORT_BYTES, id="short"),
        pytest.param(LONG_BYTES, id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(0)]),
    ],
)
async def test_parallel_uploads_take_a_bounded_memory(
    store: Server, provider: Provider, tmp_path: Path, size_bytes: int
) -> None:
    key = await asyncio.to_thread(new_key, store, tmp_path / "first")
    started = gateway_process(store.url, provider.url, tmp_path, is_fork=False, server__body_timeout_s="600")
    gateway = await asyncio.to_thread(started.__enter__)
    try:
        pid = gateway.program.process.pid
        assert await warm_up(gateway.url, key, provider) == 200
        before = most = resident_bytes(pid)
        asking = [asyncio.create_task(upload(gateway.url, key, size_bytes)) for _ in range(UPLOADS)]
        while provider.taken < UPLOADS + 1:
            most = max(most, resident_bytes(pid))
            await asyncio.sleep(0.05)  # the memory is looked at in intervals: nothing tells when it grows
        kept = [link for link in links(pid) if link.startswith(f"{tmp_path}/data/") and link.endswith("(deleted)")]
        assert len(kept) == UPLOADS
        assert most - before < UPLOADS * SLICES_BYTES + OTHER_BYTES < UPLOADS * size_bytes
        if size_bytes == SHORT_BYTES:  # and killed now, it leaves none
            gateway.program.kill()
            assert [one.name for one in (tmp_path / "data").iterdir() if one.is_file()] == []
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            return
        provider.may_answer.set()
        assert await asyncio.gather(*asking) == [200] * UPLOADS
        await wait_until(lambda: not any("(deleted)" in link for link in links(pid)), what="the files are gone")
    finally:
        await asyncio.to_thread(started.__exit__, None, None, None)


async def warm_up(url: str, key: str, provider: Provider) -> int:
    """One upload, so that what every worker needs once is there."""
    asking = asyncio.create_task(upload(url, key, SHORT_BYTES))
    await wait_until(lambda: provider.taken == 1, what="the first upload has come")
    provider.may_answer.set()
    status = await asking
    provider.may_answer.clear()
    return status


def links(pid: int) -> list[str]:
    """What the process has open."""
    found = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(one.readlink()))
    return found
