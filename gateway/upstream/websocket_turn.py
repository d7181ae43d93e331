"""One turn on a WebSocket connection to an upstream: its messages become an `Answer`, as HTTP would have given it.

    begun by `response.create`      -> waits for its first message, `first_byte_timeout_s`
    first message: an `error`       -> a refusal with its status; nothing else follows
    first message: anything else    -> 200, `text/event-stream`: each message is an event, to the one that ends it all

The reader's side is `NativeAnswer`, as on HTTP/1.1. One who leaves before the end closes the connection, unless turns
of other lanes are on it: then the rest of this one is dropped as it comes.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from gateway.concurrency.deadline import Deadline
from gateway.upstream.answer import NativeAnswer
from gateway.upstream.transport import FaultKind, TransportConfig, UpstreamFault
from gateway.upstream.websocket_messages import (
    CREATED,
    ENDINGS,
    ERROR,
    Told,
    as_event,
    error_of,
    refusal,
    response_id,
)

_OK: Final = 200
_EVENTS: Final = (b"content-type", b"text/event-stream")


class TurnsSocket(Protocol):
    """What a turn needs of its connection."""

    def read_on(self) -> None:
        """Its reader has caught up."""

    def pause(self) -> None:
        """Its reader is slow."""

    def gave_up(self, turn: UpstreamTurn) -> None:
        """Nobody reads the turn any more."""


class UpstreamTurn:
    """One turn; `answer.Connection` for its answer. `loop` has its timer.

    State that changes: `begun`, a message has come; `has_ended`, the last one has; `is_over`, nobody waits for more;
    the id of its response; the code of an error that came in place of it.
    """

    __slots__ = (
        "_deadline", "_loop", "_pieces", "_socket", "answer", "begun", "config", "error_code", "has_ended", "is_over",
        "lane", "response_id",
    )  # fmt: skip

    def __init__(
        self, socket: TurnsSocket, config: TransportConfig, lane: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.config = config
        self.lane = lane
        self.begun = self.has_ended = self.is_over = False
        self.response_id = ""
        self.error_code = ""
        self._pieces: list[bytes] = []
        self.answer = NativeAnswer(self, self._pieces)
        self._socket = socket
        self._loop = loop
        self._deadline = Deadline(loop, self._on_deadline)

    # for its socket

    def push(self, told: Told, message: bytes) -> None:
        """Takes a message of this turn; `flush` passes on what has come together."""
        self.has_ended = told.kind in ENDINGS
        if self.is_over:
            return
        answer = self.answer
        if told.kind == CREATED:
            self.response_id = response_id(message)
        if self.begun:
            piece = as_event(told, message)
        elif told.kind == ERROR:
            answer.status, answer.headers, piece = refusal(message)
            self.error_code = str(error_of(message).get("code"))
        else:
            answer.status, answer.headers, piece = _OK, [_EVENTS], as_event(told, message)
        self.begun = True
        self._pieces.append(piece)
        answer.unread_bytes += len(piece)

    def flush(self) -> None:
        """Lets the reader have what has come."""
        answer, pieces = self.answer, self._pieces
        if self.is_over or not (pieces or self.has_ended):
            return
        if self.has_ended:
            answer.pieces, answer.connection, answer.ended = pieces[:], None, True
            pieces.clear()
            self._stop()
            answer.wake()
            return
        if answer.take is None:
            if answer.waiter is not None:
                self._deadline.unset()
                answer.wake()
            elif answer.unread_bytes > self.config.max_unread_bytes:
                self._socket.pause()
            return
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        answer.unread_bytes = 0
        try:
            more = answer.take(data)
        except Exception as error:  # noqa: BLE001 - it belongs to the task that waits in `pump`, not to the event loop
            answer.refuse(error)
            self._deadline.unset()
            return
        if more:
            self._deadline.set(self.config.chunk_timeout_s)
        else:
            answer.take = None
            self._deadline.unset()
            answer.wake()

    def end(self, kind: FaultKind, detail: str, *, sent: bool = True) -> None:
        """Ends it with a fault. Idempotent."""
        if self.is_over:
            return
        self._stop()
        self.answer.connection = None
        self.answer.fault = UpstreamFault(kind, detail, sent=sent)
        self.answer.wake()

    def died(self, detail: str) -> None:
        """Its connection is gone."""
        self.end(FaultKind.CUT if self.begun else FaultKind.RESET, detail)

    def wait_until_begun(self, timeout_s: float) -> asyncio.Future[None]:
        """Ends when its first message has come, or its fault is set."""
        return self.wait(self.answer, timeout_s)

    # answer.Connection

    def wait(self, answer: NativeAnswer, timeout_s: float) -> asyncio.Future[None]:
        """See `answer.Connection`."""
        if answer.waiter is not None:
            raise RuntimeError("an answer has one reader at a time")
        answer.waiter = waiter = self._loop.create_future()
        if self.is_over:
            answer.wake()
        else:
            self._deadline.set(timeout_s)
        return waiter

    def taken(self, answer: NativeAnswer) -> None:
        """See `answer.Connection`."""
        self._pieces.clear()
        answer.unread_bytes = 0
        self._socket.read_on()

    def fail(self, kind: FaultKind, detail: str) -> None:
        """See `answer.Connection`."""
        self.end(kind, detail)
        self._socket.gave_up(self)

    # inside

    def _stop(self) -> None:
        self.is_over = True
        self._deadline.close()

    def _on_deadline(self) -> None:
        if self.begun:
            self.fail(FaultKind.CHUNK_TIMEOUT, f"no message for {self.config.chunk_timeout_s} s")
        else:
            self.fail(FaultKind.FIRST_BYTE_TIMEOUT, f"no message for {self.config.first_byte_timeout_s} s")
