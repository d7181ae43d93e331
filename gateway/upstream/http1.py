"""One native HTTP/1.1 connection (RFC 9112) and the answers that arrive on it. httptools parses what arrives.

    IDLE --begin--> HEAD --final head--> OPENED --same read--> BODY --last byte--> COMPLETE --> IDLE, back to its owner
                     |  1xx: stays HEAD                          |                    or closed, if it must not be
                     v  fail(): RESET, FIRST_BYTE_TIMEOUT, ...   v  fail(): CUT, CHUNK_TIMEOUT, ...      reused

Rules:
- The connection is free when the last byte has arrived, not when it has been read: the answer keeps its bytes.
- It is reused only if the framing permits it, nothing followed the end, and the whole request had been written.
- There is one timer per connection. A wait sets a deadline, and a timer that fires early is set again. A stream of many
  chunks therefore needs no timer operations.
- The parser appends pieces of the body to a list itself (`on_body` is `list.append`), without a Python frame per chunk.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.concurrency.deadline import Deadline
from gateway.concurrency.disk_body import SentBody
from gateway.errors import GatewayError
from gateway.protocol.header_fields import size_bytes
from gateway.types import Body
from gateway.upstream.answer import NativeAnswer
from gateway.upstream.transport import FaultKind, TransportConfig, UpstreamFault
from gateway.upstream.unsent_body import UnsentBody

_IDLE: Final = 0
_HEAD: Final = 1
_OPENED: Final = 2
_BODY: Final = 3
_COMPLETE: Final = 4

_MAX_JOINED_BYTES: Final = 16 * 1024  # up to this size a body is written together with its head
_PIECE_BYTES: Final = 128 * 1024  # a larger body is written in pieces of this size
_MAX_INFORMATIONAL: Final = 16
_FIRST_STATUS: Final = 200
_LAST_STATUS: Final = 599
_FIRST_INFORMATIONAL: Final = 100
_SWITCHING_PROTOCOLS: Final = 101


class Owner(Protocol):
    """The owner of connections, which is the pool. Its methods are called synchronously from the event loop."""

    def connection_free(self, connection: "Http1Connection") -> None:
        """The connection can accept a request."""

    def connection_closing(self, connection: "Http1Connection") -> None:
        """The connection accepts no more requests."""

    def connection_lost(self, connection: "Http1Connection") -> None:
        """The socket is closed."""


class _ParserAbort(Exception):
    """Raised inside parser callbacks, to stop the parser."""


class Http1Connection(asyncio.Protocol):
    """One connection. Its public attributes are for its owner."""

    # fmt: off
    __slots__ = (
        "_answer", "_deadline", "_informational", "_keep_alive", "_loop", "_overhead_bytes", "_owner", "_parser",
        "_paused", "_phase", "_pieces", "_skipping", "_transport", "_unsent", "_write_paused",
        "answered", "closed", "config", "idle_since", "on_body", "refusal",
    )
    # fmt: on

    def __init__(self, owner: Owner, config: TransportConfig, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.answered = 0  # complete answers so far; above zero, the connection has been reused
        self.closed = False
        self.idle_since = 0.0
        self.refusal: UpstreamFault | None = None  # why it was closed before its first request
        self._owner = owner
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._answer: NativeAnswer | None = None
        self._phase = _IDLE
        self._keep_alive = False
        self._skipping = False  # inside an informational answer (1xx)
        self._informational = 0
        self._overhead_bytes = 0  # bytes since the last byte of the body: head, chunk extensions, trailers
        self._paused = False
        self._unsent: UnsentBody | None = None  # the rest of a long body
        self._write_paused = False
        self._deadline = Deadline(loop, self._on_deadline)
        self._pieces: list[bytes] = []
        self.on_body: Callable[[bytes], None] = self._pieces.append
        self._parser = HttpResponseParser(self)

    # for the owner

    @property
    def connected(self) -> bool:
        """Whether the connection ever had a socket."""
        return self._transport is not None

    @property
    def unanswered(self) -> bool:
        """Whether no byte of an answer to the last request has arrived."""
        return self._phase == _HEAD and not self._overhead_bytes

    def begin(self, head: bytes, body: Body | SentBody) -> NativeAnswer:
        """Write a request. The answer's `wait` ends when its head has arrived or its fault is set."""
        answer = NativeAnswer(self, self._pieces)
        transport = self._transport
        if self.closed or transport is None:
            answer.connection = None
            answer.fault = self.refusal or UpstreamFault(FaultKind.RESET, "closed while idle", sent=False)
            self._phase = _HEAD
            return answer
        self._answer = answer
        self._phase = _HEAD
        self._informational = 0
        if not isinstance(body, SentBody) and len(body) <= _MAX_JOINED_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            self._unsent = UnsentBody(body, _PIECE_BYTES)
            self._write_next_piece()
        return answer

    def wait(self, answer: NativeAnswer, timeout_s: float) -> asyncio.Future[None]:
        """Return a future that ends when the answer has something new: a head, bytes, its end or its fault."""
        if answer.waiter is not None:
            raise RuntimeError("an answer has one reader at a time")
        answer.waiter = waiter = self._loop.create_future()
        self._deadline.set(timeout_s)
        return waiter

    def taken(self, answer: NativeAnswer) -> None:
        """Note that the reader took all pieces, and continue reading from the upstream."""
        self._pieces.clear()
        answer.unread_bytes = 0
        if self._paused:
            self._resume()

    def fail(self, kind: FaultKind, detail: str) -> None:
        """End the running answer with a fault and close the connection."""
        answer = self._answer
        if answer is not None:
            self._answer = None
            answer.connection = None
            answer.fault = UpstreamFault(kind, detail, sent=True)
            answer.wake()
        self.close()

    def close(self) -> None:
        """Close the socket at once. Idempotent."""
        if not self.closed:
            self.closed = True
            self._deadline.close()
            self._owner.connection_closing(self)
        self._unsent = None
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket (and TLS) is up."""
        self._transport = cast("asyncio.Transport", transport)
        if self.closed:  # its request was cancelled while the connection was being opened
            self._transport.abort()

    def pause_writing(self) -> None:
        """The upstream reads a long body more slowly than it is written."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The upstream has caught up."""
        self._write_paused = False
        if self._unsent is not None:
            self._loop.call_soon(self._write_next_piece)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and wake the reader once for everything that this read brought."""
        answer = self._answer
        if answer is None:
            self._on_unexpected_bytes()
            return
        before = self._phase
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._on_parser_error(error)
        pieces = self._pieces
        if before != _BODY or self._phase != _BODY or not pieces:
            self._step(answer, before, len(data))
            return
        self._overhead_bytes = 0
        take = answer.take
        if take is not None:
            if len(pieces) == 1:
                body = pieces.pop()
            else:
                body = b"".join(pieces)
                pieces.clear()
            try:
                more = take(body)
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
        elif answer.waiter is not None:
            self._deadline.unset()
            answer.wake()
        else:
            answer.unread_bytes += len(data)
            if answer.unread_bytes > self.config.max_unread_bytes and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()

    def eof_received(self) -> None:
        """Handle the end of the peer's side.

        It ends a body without a length (RFC 9112, 6.3), and is a fault otherwise.
        """
        answer = self._answer
        framed = {b"content-length", b"transfer-encoding"}
        if answer is not None and self._phase == _BODY and not any(name in framed for name, _ in answer.headers):
            self._keep_alive = False
            self._finish(answer)
        else:
            self._on_connection_death("closed by the upstream")

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed, by either side."""
        self._on_connection_death(str(exc) if exc is not None else "closed by the upstream")
        del self._parser  # it holds bound methods of this object; without it there is no reference cycle
        self._owner.connection_lost(self)

    # httptools callbacks

    def on_message_begin(self) -> None:
        """Stop at a second answer to one request."""
        if self._phase != _HEAD:
            raise _ParserAbort("bytes after the end of the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head; drop trailers, which are not part of the body."""
        answer = self._answer
        if self._phase == _HEAD and answer is not None:
            name = name.lower()
            answer.headers.append((name, value.rstrip()))  # the parser leaves trailing spaces
            if name == b"transfer-encoding" and value.rstrip().lower() != b"chunked":
                raise _ParserAbort("a transfer coding other than chunked")

    def on_headers_complete(self) -> None:
        """Open the answer, or skip an informational one."""
        answer = self._answer
        if answer is None:
            return
        status = self._parser.get_status_code()
        if _FIRST_STATUS <= status <= _LAST_STATUS:
            answer.status = status
            self._phase = _OPENED
            return
        self._informational += 1
        if not _FIRST_INFORMATIONAL <= status < _FIRST_STATUS or status == _SWITCHING_PROTOCOLS:
            raise _ParserAbort(f"status {status}, which was not asked for")
        if self._informational > _MAX_INFORMATIONAL:
            raise _ParserAbort("too many informational answers")
        answer.headers.clear()
        self._skipping = True

    def on_message_complete(self) -> None:
        """Note the end, and whether the connection may be used again."""
        if self._skipping:
            self._skipping = False
            return
        self._keep_alive = self._parser.should_keep_alive()
        self._phase = _COMPLETE

    # internals

    def _on_parser_error(self, error: Exception) -> None:
        """Handle bytes that the parser refused. After the end of the message they only make the connection unusable."""
        if self._phase == _COMPLETE:
            self._keep_alive = False
        else:
            self.fail(FaultKind.PROTOCOL, str(error.__context__ or error))

    def _step(self, answer: NativeAnswer, before: int, read_bytes: int) -> None:
        """Act on a read that brought more than bytes of the body, or none of them."""
        if self._answer is None or (before == _HEAD and not self._head_fits(answer, read_bytes)):
            return
        if self._phase == _COMPLETE:
            self._finish(answer)
        elif self._phase == _OPENED:
            self._phase = _BODY
            self._overhead_bytes = 0
            self._deadline.unset()
            answer.wake()
        else:
            self._overhead_bytes += read_bytes
            if self._overhead_bytes > self.config.max_head_bytes:
                self.fail(FaultKind.TOO_LARGE, "more framing than max_head_bytes")

    def _head_fits(self, answer: NativeAnswer, read_bytes: int) -> bool:
        """Check the size of a head that ended in a read which also brought bytes of the body.

        Fail the answer if it is too large.
        """
        limit = self.config.max_head_bytes
        if self._phase == _HEAD or self._overhead_bytes + read_bytes <= limit or size_bytes(answer.headers) <= limit:
            return True
        answer.status = 0  # it does not count as opened
        self.fail(FaultKind.TOO_LARGE, "the head is larger than max_head_bytes")
        return False

    def _finish(self, answer: NativeAnswer) -> None:
        """Complete the message: hand its bytes to the answer and free the connection."""
        pieces = self._pieces
        if pieces:
            answer.pieces = pieces[:]
            pieces.clear()
        else:
            answer.pieces = ()
        answer.connection = None
        answer.ended = True
        self._answer = None
        self._phase = _IDLE
        self._overhead_bytes = 0
        self._deadline.unset()
        answer.wake()
        transport = self._transport
        # If the request is still being written, the next request cannot follow it on this connection.
        if not self._keep_alive or transport is None or self._unsent is not None or transport.get_write_buffer_size():
            self.close()
        else:
            if self._paused:
                self._resume()
            self.answered += 1
            self.idle_since = self._loop.time()
            self._owner.connection_free(self)

    def _on_connection_death(self, detail: str) -> None:
        self.fail(FaultKind.RESET if self._phase == _HEAD else FaultKind.CUT, detail)

    def _on_unexpected_bytes(self) -> None:
        """Handle bytes that arrive while no request runs. They must not become part of an answer."""
        if not self.closed:
            self.refusal = None if self.answered else UpstreamFault(FaultKind.PROTOCOL, "spoke unasked", sent=False)
            self.close()

    def _write_next_piece(self) -> None:
        """Write one piece of a long body. The next one follows after others were served, because TLS takes time."""
        unsent, transport = self._unsent, self._transport
        if unsent is None or transport is None:
            return
        piece = unsent.take(_PIECE_BYTES, self._piece_is_read)
        if not unsent:
            self._unsent = None
        if piece:
            transport.write(piece)
            if self._unsent is not None and not self._write_paused:
                self._loop.call_soon(self._write_next_piece)

    def _piece_is_read(self, unsent: UnsentBody, error: GatewayError | None) -> None:
        """Go on with a body on disk, or end a request whose rest cannot be read."""
        if self._unsent is not unsent:
            return
        if error is not None:
            self.fail(FaultKind.BODY_LOST, error.cause.detail)
        elif not self._write_paused:
            self._write_next_piece()

    def _resume(self) -> None:
        self._paused = False
        if self._transport is not None and not self.closed:
            self._transport.resume_reading()

    def _on_deadline(self) -> None:
        if self._phase == _HEAD:
            self.fail(FaultKind.FIRST_BYTE_TIMEOUT, f"no answer for {self.config.first_byte_timeout_s} s")
        else:
            self.fail(FaultKind.CHUNK_TIMEOUT, f"no bytes for {self.config.chunk_timeout_s} s")
