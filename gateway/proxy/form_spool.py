"""Large forms on disk: an upload takes its slices of a worker's memory, and not its size.

    FormSpool      one worker's: where, how many bytes together, and the threads that wait for the disk
    SpooledForm    one form on its way from its client: take(piece), end() -> Body | DiskBody, close()

The disk has threads of its own: one that stands still keeps only forms waiting, and each no longer than `timeout_s`.
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
"""What one form on disk takes of the worker's memory at most: the slices on their way to the disk or from there."""
_WRITTEN_BYTES: Final = 256 * 1024  # at a time
_THREADS: Final = 4


class FormSpool:
    """One worker's. `disk`: how much all forms may take of it together. `over_bytes`: smaller ones stay in memory."""

    def __init__(self, directory: Path, over_bytes: int, max_bytes: int, timeout_s: float) -> None:
        self.over_bytes = over_bytes
        self.disk = BodyBudget(max_bytes)
        self._directory = directory
        self._timeout_s = timeout_s
        self._off_loop = OffLoop(_THREADS)

    def begin(self, most_bytes: int, *, is_longer: bool, decoder: BodyDecoder | None) -> SpooledForm:
        """A form that is going to be read. Raises GatewayError `too_many_bodies`.

        `most_bytes`: it has no more. `is_longer`: it is known to have more than `over_bytes`.
        """
        return SpooledForm(self, DiskBody(self._directory), most_bytes, 0 if is_longer else self.over_bytes, decoder)

    async def run(self, work: Callable[[], T]) -> T:
        """Does in a thread what waits for the disk. Raises GatewayError `disk_unavailable` after `timeout_s`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._off_loop.run(work)
        except TimeoutError:
            raise disk_unavailable(f"nothing from the disk within {self._timeout_s:g} s") from None

    def sent(self, form: Readable, edit: tuple[int, int, bytes] = NO_EDIT) -> SentBody:
        """How a form on disk is sent, with one place of it changed."""
        return SentBody(form, self._off_loop, edit)

    def forget(self, body: DiskBody) -> None:
        """Ends a file in a thread: that of a large one takes a while."""
        try:
            _ = self._off_loop.begin(body.close)
        except RuntimeError:  # the gateway stops: its threads take no more work
            body.close()

    def close(self) -> None:
        """Takes no more work."""
        self._off_loop.close()


class SpooledForm:
    """One form. It is to be closed when its request has ended, and is then gone.

    State that changes: `received_bytes`; what waits to be written; the body, in memory up to `_in_memory_bytes`.
    """

    def __init__(
        self,
        spool: FormSpool,
        on_disk: DiskBody,
        most_bytes: int,
        in_memory_bytes: int,
        decoder: BodyDecoder | None,
    ) -> None:
        spool.disk.take(most_bytes)
        self.received_bytes = 0
        self._spool = spool
        self._on_disk = on_disk
        self._taken_bytes = most_bytes
        self._in_memory_bytes = in_memory_bytes
        self._decoder = decoder
        self._waiting = bytearray()
        self._in_memory = bytearray()

    async def take(self, piece: Body) -> None:
        """More of the body. Raises GatewayError."""
        self.received_bytes += len(piece)
        self._waiting += piece
        if len(self._waiting) >= _WRITTEN_BYTES:
            await self._write()

    async def end(self) -> Body | DiskBody:
        """The body, when all of it has come. Raises GatewayError."""
        if self._waiting:
            await self._write()
        if self._decoder is not None:
            self._decoder.end()
        size = len(self._on_disk)
        self._spool.disk.give_back(self._taken_bytes - size)
        self._taken_bytes = size
        return self._on_disk if size else self._in_memory

    def close(self) -> None:
        """Nobody wants it any more. Idempotent."""
        self._spool.disk.give_back(self._taken_bytes)
        self._taken_bytes = 0
        self._spool.forget(self._on_disk)

    async def _write(self) -> None:
        data, self._waiting = self._waiting, bytearray()
        await self._spool.run(partial(self._store, data))

    def _store(self, data: bytearray) -> None:
        """In a thread, one call at a time."""
        for piece in (data,) if self._decoder is None else self._decoder.decoded(bytes(data)):
            if not len(self._on_disk) and len(self._in_memory) + len(piece) <= self._in_memory_bytes:
                self._in_memory += piece
            else:
                self._on_disk.write(self._in_memory)
                self._in_memory = bytearray()
                self._on_disk.write(piece)
