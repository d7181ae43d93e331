"""Keeps large forms on disk, so that an upload takes only a few slices of a worker's memory, whatever its size.

    FormSpool      the forms of one worker: the directory, the bound on their bytes, and the threads for disk I/O
    SpooledForm    one form while it is received: take(piece), end() -> Body | DiskBody, close()

Disk I/O has threads of its own. A disk that does not respond delays only forms, and each of them for at most
`timeout_s`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from gateway.concurrency.disk_body import NO_EDIT, DiskBody, SentBody, disk_unavailable
from gateway.concurrency.off_loop import OffLoop
from gateway.protocol.byte_search import Readable
from gateway.protocol.content_codings import BodyDecoder
from gateway.proxy.body_budget import BodyBudget
from gateway.types import Body

T = TypeVar("T")

SLICES_BYTES: Final = 1024 * 1024
"""The most memory that one form on disk takes: the slices that are being written or read."""
_WRITE_BYTES: Final = 256 * 1024  # per write
_THREADS: Final = 4


class FormSpool:
    """The forms of one worker. `disk` bounds their bytes on disk. Forms of up to `over_bytes` stay in memory."""

    def __init__(self, directory: Path, over_bytes: int, max_bytes: int, timeout_s: float) -> None:
        self.over_bytes = over_bytes
        self.disk = BodyBudget(max_bytes)
        self._directory = directory
        self._timeout_s = timeout_s
        self._off_loop = OffLoop(_THREADS)

    def begin(self, max_bytes: int, *, is_longer: bool, decoder: BodyDecoder | None) -> SpooledForm:
        """Returns a form that is ready to receive up to `max_bytes`. Raises GatewayError `too_many_bodies`.

        `is_longer`: the form is known to have more than `over_bytes`.
        """
        return SpooledForm(self, DiskBody(self._directory), max_bytes, 0 if is_longer else self.over_bytes, decoder)

    async def run(self, work: Callable[[], T]) -> T:
        """Runs disk I/O in a thread. Raises GatewayError `disk_unavailable` after `timeout_s`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._off_loop.run(work)
        except TimeoutError:
            raise disk_unavailable(f"nothing from the disk within {self._timeout_s:g} s") from None

    def body_to_send(self, form: Readable, edit: tuple[int, int, bytes] = NO_EDIT) -> SentBody:
        """Returns the body that sends a form from the disk, with at most one place changed."""
        return SentBody(form, self._off_loop, edit)

    def close_in_thread(self, body: DiskBody) -> None:
        """Closes a file in a thread, because deleting a large one takes a while."""
        try:
            _ = self._off_loop.begin(body.close)
        except RuntimeError:  # the gateway is stopping, and its threads accept no more work
            body.close()

    def close(self) -> None:
        """Ends the threads once they have closed all files. No more forms are accepted."""
        self._off_loop.close(drop_waiting=False)


class SpooledForm:
    """One form. It must be closed when its request has ended, and is deleted then.

    State that changes: `received_bytes`, what has not been written yet, and the body, which stays in memory up to
    `_in_memory_bytes`.
    """

    def __init__(
        self,
        spool: FormSpool,
        on_disk: DiskBody,
        max_bytes: int,
        in_memory_bytes: int,
        decoder: BodyDecoder | None,
    ) -> None:
        spool.disk.take(max_bytes)
        self.received_bytes = 0
        self._spool = spool
        self._on_disk = on_disk
        self._taken_bytes = max_bytes
        self._in_memory_bytes = in_memory_bytes
        self._decoder = decoder
        self._unwritten = bytearray()
        self._in_memory = bytearray()

    async def take(self, piece: Body) -> None:
        """Takes the next piece of the body. Raises GatewayError."""
        self.received_bytes += len(piece)
        self._unwritten += piece
        if len(self._unwritten) >= _WRITE_BYTES:
            await self._write()

    async def end(self) -> Body | DiskBody:
        """Returns the body after all of it was taken. Raises GatewayError."""
        if self._unwritten:
            await self._write()
        if self._decoder is not None:
            self._decoder.end()
        size = len(self._on_disk)
        self._spool.disk.give_back(self._taken_bytes - size)
        self._taken_bytes = size
        return self._on_disk if size else self._in_memory

    def close(self) -> None:
        """Deletes the form. Idempotent."""
        self._spool.disk.give_back(self._taken_bytes)
        self._taken_bytes = 0
        self._spool.close_in_thread(self._on_disk)

    async def _write(self) -> None:
        data, self._unwritten = self._unwritten, bytearray()
        await self._spool.run(partial(self._store, data))

    def _store(self, data: bytearray) -> None:
        """Decodes and stores data. Runs in a thread, one call at a time."""
        for piece in (data,) if self._decoder is None else self._decoder.decoded(bytes(data)):
            if not len(self._on_disk) and len(self._in_memory) + len(piece) <= self._in_memory_bytes:
                self._in_memory += piece
            else:
                self._on_disk.write(self._in_memory)
                self._in_memory = bytearray()
                self._on_disk.write(piece)
