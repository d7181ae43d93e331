"""Settlements that the store could not take, on disk until it can.

    add(script, keys, args)   one JSON line, written and fsynced by a thread; never blocks the event loop
    replay(call)              brings every line to the store, then removes the file; stops at the first outage
    files                     <directory>/<random>.spool: each worker writes one of its own, held by flock;
                              a file that nobody holds was left by a worker that died: anyone replays it

A line is a call of a script by name, so that a new version replays what an old one wrote. Settlement is idempotent: a
line whose call had reached the store after all changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, Final

import orjson
import structlog

from gateway.ledger.faults import StoreError, StoreUnavailable

Replay = Callable[[str, list[str], list[str]], Awaitable[None]]
SUFFIX: Final = ".spool"


class Spool:
    """One worker's spool file, and those that dead workers left. `max_bytes` bounds this worker's file."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._path = directory / f"{uuid.uuid4().hex}{SUFFIX}"
        self._waiting: list[bytes] = []
        self._writer: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("gateway.spool")
        self.spooled = 0
        self.replayed = 0
        self.lost = 0

    @property
    def pending(self) -> bool:
        """Whether something of this worker waits for the store."""
        return self._file is not None or bool(self._waiting)

    def add(self, script: str, keys: list[str], args: list[str]) -> None:
        """Takes one call. It is on disk soon after; `close` waits for it."""
        self.spooled += 1
        self._waiting.append(orjson.dumps({"script": script, "keys": keys, "args": args}) + b"\n")
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_waiting())

    async def replay(self, call: Replay) -> None:
        """Brings what lies on disk to the store: this worker's file, and those whose worker is gone."""
        await self.close()
        # What is added from here on goes to a new file; the closed one is up for replay like any abandoned one.
        self._path = self._directory / f"{uuid.uuid4().hex}{SUFFIX}"
        for path in await asyncio.to_thread(self._abandoned):
            with contextlib.suppress(OSError), path.open("rb") as file:
                if _lock(file) and not await self._replay_file(path, call):
                    return

    async def close(self) -> None:
        """Waits until everything taken is on disk."""
        if self._writer is not None:
            await self._writer
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _write_waiting(self) -> None:
        while self._waiting:
            lines, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._write, lines)
            except OSError as error:
                self.lost += len(lines)
                self._log.error("spool_write_failed", error=str(error), lost=len(lines))

    def _write(self, lines: list[bytes]) -> None:
        if self._file is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
            _lock(self._file)
        data = b"".join(lines)
        if self._file.tell() + len(data) > self._max_bytes:
            raise OSError(f"the spool is full ({self._max_bytes} bytes)")
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    async def _replay_file(self, path: Path, call: Replay) -> bool:
        lines = (await asyncio.to_thread(path.read_bytes)).splitlines()
        for line in lines:
            try:
                entry = orjson.loads(line)
                await call(entry["script"], entry["keys"], entry["args"])
            except StoreUnavailable:
                return False
            except (orjson.JSONDecodeError, KeyError, StoreError, FileNotFoundError) as error:
                # A torn last line of a crash, or a call that the store will always refuse.
                self.lost += 1
                self._log.error("spool_line_refused", error=str(error), line=line.decode(errors="replace"))
            else:
                self.replayed += 1
        await asyncio.to_thread(path.unlink, missing_ok=True)
        self._log.info("spool_replayed", lines=len(lines))
        return True

    def _abandoned(self) -> list[Path]:
        if not self._directory.is_dir():
            return []
        return [path for path in sorted(self._directory.glob(f"*{SUFFIX}")) if path != self._path]


def _lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
