"""One turn on a WebSocket connection to an upstream. Its messages become an `Answer` like that to a POST.

    `response.create` was sent      -> waits for its first message, at most `first_byte_timeout_s`
    first message: an `error`       -> a refusal with its status; nothing else follows
    first message: anything else    -> 200, `text/event-stream`; each message is an event, up to a final one

The reader has a `NativeAnswer`, as on HTTP/1.1. If it aborts the answer, the connection is closed, unless turns of
other lanes run on it. In that case the rest of this turn is discarded.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from gateway.concurrency.deadline import Deadline
from gateway.upstream.answer import NativeAnswer
from gateway.upstream.transport import FaultKind, TransportConfig, UpstreamFault
from gateway.upstream.websocket_messages import CREATED, FINAL_KINDS, UpstreamMessage

_OK: Final = 200
_EVENTS: Final = (b"content-type", b"text/event-stream")


class TurnConnection(Protocol):
    """The methods of a connection that its turns use."""

    def resume_reading(self) -> None:
        """Reads again, because the turn's reader has caught up."""

    def pause_reading(self) -> None:
        """Stops reading, because the turn's reader is slow."""

    def on_abandoned(self, turn: UpstreamTurn) -> None:
        """Is called when nobody reads the turn any more."""


class UpstreamTurn:
    """One turn. For its answer it is an `answer.Connection`.

    State that changes: `has_begun`: a message has come; `has_ended`: the last message has come; `is_over`: the reader
    waits for no more; the id of its response; the code of an error that came in its place.
    """

    __slots__ = (
        "_deadline", "_loop", "_pieces", "_socket", "answer", "config", "error_code", "has_begun", "has_ended",
        "is_over", "lane", "response_id",
    )  # fmt: skip

    def __init__(
        self, socket: TurnConnection, config: TransportConfig, lane: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.config = config
        self.lane = lane
        self.has_begun = self.has_ended = self.is_over = False
        self.response_id = ""
        self.error_code = ""
        self._pieces: list[bytes] = []
        self.answer = NativeAnswer(self, self._pieces)
        self._socket = socket
        self._loop = loop
        self._deadline = Deadline(loop, self._on_deadline)

    # for its socket

    def push(self, message: UpstreamMessage) -> None:
        """Takes a message of this turn. `flush` passes on all messages that came together."""
        head, _, piece, identifier, refusal = message
        self.has_ended = head.kind in FINAL_KINDS
        if self.is_over:
            return
        answer = self.answer
        if head.kind == CREATED:
            self.response_id = identifier
        if not self.has_begun and refusal is not None:
            answer.status, answer.headers, piece, self.error_code = refusal
        elif not self.has_begun:
            answer.status, answer.headers = _OK, [_EVENTS]
        self.has_begun = True
        self._pieces.append(piece)
        answer.unread_bytes += len(piece)

    def flush(self) -> None:
        """Passes the messages that have come on to the reader."""
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
                self._socket.pause_reading()
            return
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        answer.unread_bytes = 0
        try:
            more = answer.take(data)
        except Exception as error:  # noqa: BLE001 - the task that waits in `pump` handles it, not the event loop
            answer.raise_in_pump(error)
            self._deadline.unset()
            return
        if more:
            self._deadline.set(self.config.chunk_timeout_s)
        else:
            answer.take = None
            self._deadline.unset()
            answer.wake()

    def end(self, kind: FaultKind, detail: str, *, sent: bool = True) -> None:
        """Ends the turn with a fault. Idempotent."""
        if self.is_over:
            return
        self._stop()
        self.answer.connection = None
        self.answer.fault = UpstreamFault(kind, detail, sent=sent)
        self.answer.wake()

    def died(self, detail: str) -> None:
        """Ends the turn, because its connection is lost."""
        self.end(FaultKind.CUT if self.has_begun else FaultKind.RESET, detail)

    def wait_until_begun(self, timeout_s: float) -> asyncio.Future[None]:
        """Returns a future that ends when the first message has come or the answer's fault is set."""
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
        self._socket.resume_reading()

    def fail(self, kind: FaultKind, detail: str) -> None:
        """See `answer.Connection`."""
        self.end(kind, detail)
        self._socket.on_abandoned(self)

    # inside

    def _stop(self) -> None:
        self.is_over = True
        self._deadline.close()

    def _on_deadline(self) -> None:
        if self.has_begun:
            self.fail(FaultKind.CHUNK_TIMEOUT, f"no message for {self.config.chunk_timeout_s} s")
        else:
            self.fail(FaultKind.FIRST_BYTE_TIMEOUT, f"no message for {self.config.first_byte_timeout_s} s")
