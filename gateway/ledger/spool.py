"""Keeps settlements on disk until the store accepts them.

    add(script, keys, args)   appends one JSON line, written and fsynced by a thread; never blocks the event loop
    has_room                  whether requests that start now can rely on the spool; updated by `update_room`
    replay(call)              sends the lines to the store, then removes the file; stops at the first outage
    <random>.spool            a worker's file, locked while the worker writes; an unlocked one may be replayed by anyone
    <random>.refused          for people: lines torn by a crash, refused by the store, or too old

A line is `{"at": seconds since 1970, "script": name, "keys": [...], "args": [...]}`. It names the script, so that a new
version can replay what an old one wrote. Settlement is idempotent: replaying a call that the store had already applied
changes nothing, and the order of lines does not matter. This holds for as long as the store remembers how a hold ended.
An older line might charge twice and is set aside.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Final, Self

import orjson
import structlog

from gateway.store.errors import StoreError, StoreUnavailable, is_fault_of_call

Replay = Callable[[str, list[str], list[str]], Awaitable[None]]
SPOOL: Final = "spool"
"""The name of the directory within `store.data_dir`."""
SUFFIX: Final = ".spool"
REFUSED: Final = ".refused"
_DRAFT: Final = ".new"
_READ_BYTES: Final = 64 * 1024
# Reserved for requests that already run when the spool or its disk is nearly full: about a thousand lines.
_RESERVED_BYTES: Final = 1024 * 1024
_RESERVED_SHARE: Final = 0.25
# The share of `remembered_s` after which a line is too old. The rest allows for clock skew and for the replay itself.
_TOO_OLD: Final = 0.95


class SpoolFull(OSError):
    """The spool has reached its largest size."""


@dataclass(frozen=True, slots=True)
class SpooledCall:
    """One spooled call. `at_s` is when it was spooled, in seconds since 1970."""

    at_s: float
    script: str
    keys: list[str]
    args: list[str]

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Parses a line. Raises ValueError if it is malformed or incomplete."""
        match orjson.loads(raw):
            case {
                "at": int() | float() as at_s,
                "script": str() as script,
                "keys": list() as keys,
                "args": list() as args,
            }:
                return cls(at_s, script, [str(key) for key in keys], [str(arg) for arg in args])
        raise ValueError("not a spooled call")

    def write(self) -> bytes:
        """Returns the call as a line of the file."""
        return orjson.dumps({"at": self.at_s, "script": self.script, "keys": self.keys, "args": self.args}) + b"\n"


class Spool:
    """One worker's spool file, and the files that other workers left behind.

    `max_bytes` bounds all spool files of the directory together. `remembered_s` is how long the store remembers a
    resolution. Mutable: the file, the lines that are not yet written, `has_room`, and the numbers of lines spooled,
    replayed, refused and lost.
    """

    def __init__(self, directory: Path, max_bytes: int, remembered_s: float) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_age_s = remembered_s * _TOO_OLD
        self._file: FileIO | None = None
        self._path = self._new_path()
        self._waiting: list[bytes] = []
        self._writer: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("gateway.spool")
        self.has_room = True
        self.spooled = 0
        self.replayed = 0
        self.refused = 0
        self.lost = 0
        self._waits_for = ""  # the reason why the store did not accept lines

    @property
    def pending(self) -> bool:
        """Whether calls of this worker wait for the store."""
        return self._file is not None or bool(self._waiting)

    def add(self, script: str, keys: list[str], args: list[str]) -> None:
        """Spools one call.

        It is written soon afterwards, and `close` waits for that. A call that cannot be written is logged completely.
        """
        if not self.pending:
            self._log.warning("spooling", directory=str(self._directory))
        self.spooled += 1
        self._waiting.append(SpooledCall(int(time.time()), script, keys, args).write())
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_waiting())

    async def update_room(self) -> None:
        """Updates `has_room`: the size bound, the free space of the disk, and the permissions of the directory."""
        self._note_room(await asyncio.to_thread(self._measure_room))

    async def replay(self, call: Replay) -> bool:
        """Sends the lines on disk to the store: those of this worker and those of workers that have ended.

        Returns False if lines remain that the store could not accept. For those, `call` raises StoreUnavailable or
        StoreError. It raises LookupError or ValueError for a line that can never be accepted.
        """
        await self.close()
        is_empty = True
        for path in await asyncio.to_thread(self._files):
            try:
                is_empty = await self._replay_file(path, call) and is_empty
            except FileNotFoundError:  # another worker replayed it first
                continue
            except StoreUnavailable:
                return False
            except OSError as error:
                self._log.error("spool_unreadable", file=path.name, error=str(error))
        if is_empty:
            self._waits_for = ""
        return is_empty

    async def close(self) -> None:
        """Waits until every spooled call is on disk, and releases the file, so that any worker can replay it."""
        while self._writer is not None and not self._writer.done():
            await asyncio.wait({self._writer})  # `await self._writer` would pass a cancellation on to the writer
        if self._file is not None:
            self._file.close()
            self._file, self._path = None, self._new_path()

    # writing

    def _new_path(self) -> Path:
        return self._directory / f"{uuid.uuid4().hex}{SUFFIX}"

    async def _write_waiting(self) -> None:
        while self._waiting:
            lines, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._write, b"".join(lines))
            except OSError as error:
                self.lost += len(lines)
                for line in lines:  # the log is the last place where a person can find the settlement
                    self._log.error("settlement_lost", error=str(error), line=line.decode())
            await self.update_room()

    def _note_room(self, has_room: bool) -> None:  # noqa: FBT001 - its only argument
        if self.has_room and not has_room:
            self._log.error("spool_full", directory=str(self._directory), max_bytes=self._max_bytes)
        self.has_room = has_room

    def _measure_room(self) -> bool:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            disk = os.statvfs(self._directory)
        except OSError:
            return False
        left = self._max_bytes - sum(map(_size, self._files()))
        remaining = min(_RESERVED_BYTES, int(self._max_bytes * _RESERVED_SHARE))
        return left > remaining and disk.f_bavail * disk.f_frsize > remaining and os.access(self._directory, os.W_OK)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = self._create()
        if sum(map(_size, self._files())) + len(data) > self._max_bytes:
            raise SpoolFull(f"the spool is full ({self._max_bytes} bytes)")
        end = self._file.tell()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)  # an incomplete line would spoil the next one
            self._file.seek(end)
            raise

    def _create(self) -> FileIO:
        """Creates this worker's file under a temporary name, and renames it once it is locked.

        Otherwise another worker could take the file for an abandoned one.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(_DRAFT)
        file = FileIO(draft, "w")
        _lock(file)
        draft.rename(self._path)
        _sync_directory(self._directory)
        return file

    # replaying

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob(f"*{SUFFIX}"))

    async def _replay_file(self, path: Path, call: Replay) -> bool:
        """Replays a file. Lines that the store did not accept remain in it. Returns False if there are any.

        Raises StoreUnavailable if the store became unavailable. The next replay then starts at the beginning of the
        file.
        """
        refused: list[bytes] = []
        remaining: list[bytes] = []
        count = 0
        with path.open("rb") as file:
            if not _lock(file):
                return True
            while raw := await asyncio.to_thread(file.readlines, _READ_BYTES):
                count += len(raw)
                problems = await asyncio.gather(*(self._replay_line(line, call) for line in raw))
                for line, problem in zip(raw, problems, strict=True):
                    if isinstance(problem, StoreUnavailable) and not is_fault_of_call(problem.reason):
                        raise problem
                    if isinstance(problem, StoreUnavailable | StoreError):
                        remaining.append(line)
                        self._note_wait(problem)
                    elif problem is not None:
                        refused.append(line)
                        self._log.error("spool_line_refused", error=str(problem), line=line.decode(errors="replace"))
            if count > len(remaining):
                await asyncio.to_thread(_finish, path, b"".join(refused), b"".join(remaining))
        self.refused += len(refused)
        self.replayed += count - len(refused) - len(remaining)
        if count > len(remaining):
            self._log.info(
                "spool_replayed", file=path.name, lines=count, refused=len(refused), remaining=len(remaining)
            )
        return not remaining

    def _note_wait(self, problem: Exception) -> None:
        """Logs the store's reason once, however many lines it concerns."""
        if self._waits_for != str(problem):
            self._waits_for = str(problem)
            self._log.warning("spool_waits", error=self._waits_for)

    async def _replay_line(self, raw: bytes, call: Replay) -> Exception | None:
        try:
            line = SpooledCall.read(raw)
            if time.time() - line.at_s > self._max_age_s:
                return LookupError("too old: the store may no longer know that it was applied")
            await call(line.script, line.keys, line.args)
        except (StoreUnavailable, StoreError, LookupError, ValueError) as problem:
            return problem
        return None


def _finish(path: Path, refused: bytes, remaining: bytes) -> None:
    if refused:
        with path.with_suffix(REFUSED).open("ab") as file:
            file.write(refused)
            file.flush()
            os.fsync(file.fileno())
    if remaining:
        draft = path.with_suffix(_DRAFT)
        with draft.open("wb") as file:
            file.write(remaining)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    else:
        path.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # it was replayed just now
        return 0


def _sync_directory(directory: Path) -> None:
    """Makes a new name durable: a file's name is on disk only after an fsync of its directory (fsync(2))."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(file: FileIO | BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
