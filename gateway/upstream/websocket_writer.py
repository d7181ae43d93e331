"""What is written on a WebSocket connection to an upstream: a long message in slices, others served between two.

    writer.send(message)       one text message, behind those that are not written yet
    writer.flush()             what the protocol has to say: pongs, a close

A message is one frame, whatever its length: not every server takes fragments (RFC 6455, 5.4). Until it is whole,
nothing else is written. An upstream that reads slowly is waited for, so that the socket's buffer stays small.
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
_TEXT: Final = 0x81  # a whole message of text
_MASKED_LONG: Final = 0xFF  # what a client sends is masked; the length follows in eight bytes


class WebSocketWriter:
    """Writes for one connection. State that changes: the transport; what waits; that it is in a message, or paused."""

    __slots__ = ("_is_paused", "_loop", "_mask", "_protocol", "_rest", "_transport", "_waiting")

    def __init__(self, protocol: ClientProtocol, loop: asyncio.AbstractEventLoop) -> None:
        self._protocol = protocol
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[bytes] = deque()
        self._rest: memoryview | None = None
        self._mask = b""
        self._is_paused = False

    @property
    def is_in_a_message(self) -> bool:
        """Whether a message is not written to its end."""
        return self._rest is not None

    def begin(self, transport: asyncio.Transport) -> None:
        """The connection is up."""
        self._transport = transport

    def send(self, message: bytes) -> None:
        """One text message. After the end it leads nowhere."""
        if self._protocol.state is not State.OPEN:
            return
        self._waiting.append(message)
        if self._rest is None:
            self._go_on()

    def flush(self) -> None:
        """Writes what the protocol has to say, if no message is under way."""
        transport = self._transport
        if self._rest is not None or transport is None or transport.is_closing():
            return
        written = [data for data in self._protocol.data_to_send() if data != SEND_EOF]
        if written:
            transport.writelines(written)

    def close(self) -> bool:
        """Says that the connection ends. Returns whether that was possible: not in the middle of a message."""
        if self._rest is not None or self._protocol.state is not State.OPEN:
            return False
        self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
        self.flush()
        return True

    def pause(self) -> None:
        """The upstream reads slowly."""
        self._is_paused = True

    def resume(self) -> None:
        """It has caught up."""
        self._is_paused = False
        if self._rest is not None:
            self._slice()

    def end(self) -> None:
        """There is no connection any more."""
        self._waiting.clear()
        self._rest = None

    # inside

    def _go_on(self) -> None:
        """Begins the messages that wait, until one takes longer."""
        while self._waiting and self._rest is None and self._protocol.state is State.OPEN:
            message = self._waiting.popleft()
            if len(message) <= SLICE_BYTES:
                self._protocol.send_text(message)
                continue
            self.flush()
            self._mask = secrets.token_bytes(4)
            self._rest = memoryview(message)
            self._write(struct.pack("!BBQ", _TEXT, _MASKED_LONG, len(message)) + self._mask)
            self._slice()
        self.flush()

    def _slice(self) -> None:
        """Writes the next part of a long message."""
        rest = self._rest
        if rest is None or self._is_paused:
            return
        self._rest = rest[SLICE_BYTES:]
        self._write(apply_mask(rest[:SLICE_BYTES], self._mask))
        if not len(self._rest):
            self._rest = None
            self._go_on()
        else:
            self._loop.call_soon(self._slice)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
