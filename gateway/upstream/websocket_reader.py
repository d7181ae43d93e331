"""Puts the messages of a WebSocket connection to an upstream together, and reads them in their order.

    frames -> MessageReader -> owner.on_message(message)

A large message is read in a thread. What came behind it waits, and its owner reads nothing more from the socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Protocol, cast

from websockets.frames import Frame, Opcode

from gateway.concurrency.off_loop import LONG_BYTES, OffLoop
from gateway.types import Body
from gateway.upstream.websocket_messages import UpstreamMessage, read_message


class ReaderOwner(Protocol):
    """The connection."""

    def on_message(self, message: UpstreamMessage) -> None:
        """A message has come."""

    def on_binary(self) -> None:
        """A message has come that is no text."""

    def on_caught_up(self) -> None:
        """A large message has been read, and what had come behind it, up to the next large one."""


class MessageReader:
    """Reads the messages of one connection.

    State that changes: the message that has come in part; `is_busy`: a thread reads a large message; the frames behind
    that one; and whether the connection has ended.
    """

    __slots__ = ("_behind", "_has_ended", "_off_loop", "_owner", "_partial", "is_busy")

    def __init__(self, owner: ReaderOwner, off_loop: OffLoop) -> None:
        self.is_busy = False
        self._owner = owner
        self._off_loop = off_loop
        self._partial: bytearray | None = None
        self._behind: deque[Frame] = deque()
        self._has_ended = False

    def take(self, frames: Iterable[Frame]) -> None:
        """Takes frames."""
        for frame in frames:
            if self.is_busy:
                self._behind.append(frame)
            elif not self._has_ended:
                self._take(frame)

    def end(self) -> None:
        """Discards what has come, because the connection has ended."""
        self._has_ended = True
        self._partial = None
        self._behind.clear()

    def _take(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT:
            if frame.fin:
                self._read(cast("Body", frame.data))  # a parsed frame has no view of another one's memory
            else:
                self._partial = bytearray(frame.data)
        elif opcode is Opcode.CONT and self._partial is not None:
            self._partial += frame.data
            if frame.fin:
                whole, self._partial = self._partial, None
                self._read(whole)
        elif opcode is Opcode.BINARY:
            self._owner.on_binary()

    def _read(self, text: Body) -> None:
        if len(text) > LONG_BYTES:
            self.is_busy = True
            self._off_loop.begin(partial(read_message, text)).add_done_callback(self._on_read)
        elif (message := read_message(text)) is not None:
            self._owner.on_message(message)

    def _on_read(self, read: asyncio.Future[UpstreamMessage | None]) -> None:
        self.is_busy = False
        if self._has_ended or read.cancelled():  # it is cancelled when the worker ends
            return
        if (message := read.result()) is not None:
            self._owner.on_message(message)
        while self._behind and not self.is_busy and not self._has_ended:
            self._take(self._behind.popleft())
        self._owner.on_caught_up()
