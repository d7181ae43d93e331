"""Writes messages on a WebSocket connection to an upstream. Others are served between the slices of a long message.

    writer.send(message)       sends one text message, after those that are not written yet
    writer.flush()             sends the protocol's own frames, such as pongs and a close

A message is one frame, whatever its length, because not every server accepts fragments (RFC 6455, 5.4). Nothing else is
written before it is complete. If the upstream reads slowly, writing pauses, so that the socket's buffer stays small.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections import deque
from typing import Final

from websockets.client import ClientProtocol
from websockets.frames import CloseCode
from websockets.protocol import SEND_EOF, State

try:
    from websockets.speedups import apply_mask
except ImportError:  # where the library was built without its C code
    from websockets.utils import apply_mask

SLICE_BYTES: Final = 128 * 1024
_TEXT: Final = 0x81  # a complete text message
_MASKED_LONG: Final = 0xFF  # masked, as all messages of clients; the length follows in eight bytes


class WebSocketWriter:
    """Writes for one connection.

    State that changes: the transport, the waiting messages, the unwritten rest of a long message, and whether writing
    is paused.
    """

    __slots__ = ("_is_paused", "_loop", "_mask", "_protocol", "_transport", "_unwritten", "_waiting")

    def __init__(self, protocol: ClientProtocol, loop: asyncio.AbstractEventLoop) -> None:
        self._protocol = protocol
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[bytes] = deque()
        self._unwritten: memoryview | None = None
        self._mask = b""
        self._is_paused = False

    @property
    def is_writing_message(self) -> bool:
        """Whether a long message has been written only in part."""
        return self._unwritten is not None

    def begin(self, transport: asyncio.Transport) -> None:
        """The connection is up."""
        self._transport = transport

    def send(self, message: bytes) -> None:
        """Sends one text message. After the end of the connection it is discarded."""
        if self._protocol.state is not State.OPEN:
            return
        self._waiting.append(message)
        if self._unwritten is None:
            self._write_next()

    def flush(self) -> None:
        """Writes the protocol's own frames, unless a long message is being written."""
        transport = self._transport
        if self._unwritten is not None or transport is None or transport.is_closing():
            return
        written = [data for data in self._protocol.data_to_send() if data != SEND_EOF]
        if written:
            transport.writelines(written)

    def close(self) -> bool:
        """Sends a close frame. Returns whether that was possible, which it is not in the middle of a long message."""
        if self._unwritten is not None or self._protocol.state is not State.OPEN:
            return False
        self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
        self.flush()
        return True

    def pause(self) -> None:
        """The upstream reads slowly."""
        self._is_paused = True

    def resume(self) -> None:
        """The upstream has caught up."""
        self._is_paused = False
        if self._unwritten is not None:
            self._write_slice()

    def end(self) -> None:
        """Discards the unwritten messages, because the connection has ended."""
        self._waiting.clear()
        self._unwritten = None

    # inside

    def _write_next(self) -> None:
        """Writes the waiting messages, up to the first slice of a long one."""
        while self._waiting and self._unwritten is None and self._protocol.state is State.OPEN:
            message = self._waiting.popleft()
            if len(message) <= SLICE_BYTES:
                self._protocol.send_text(message)
                continue
            self.flush()
            self._mask = secrets.token_bytes(4)
            self._unwritten = memoryview(message)
            self._write(struct.pack("!BBQ", _TEXT, _MASKED_LONG, len(message)) + self._mask)
            self._write_slice()
        self.flush()

    def _write_slice(self) -> None:
        """Writes the next part of a long message."""
        unwritten = self._unwritten
        if unwritten is None or self._is_paused:
            return
        self._unwritten = unwritten[SLICE_BYTES:]
        self._write(apply_mask(unwritten[:SLICE_BYTES], self._mask))
        if not len(self._unwritten):
            self._unwritten = None
            self._write_next()
        else:
            self._loop.call_soon(self._write_slice)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
