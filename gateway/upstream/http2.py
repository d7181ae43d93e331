"""One HTTP/2 connection to an upstream (RFC 9113), and the streams on it. h2 keeps the state of the protocol.

    begin      sends a request on a stream of its own          -> NativeAnswer, filled by its Http2Stream
    GOAWAY     no new streams; the upstream has not begun those beyond its last id, and finishes the others
    RST_STREAM, a lost connection                              -> RESET before the head, CUT after it
    bytes that are not HTTP/2                                  -> PROTOCOL for every stream

Rules:
- A stream may receive `max_unread_bytes` more than its reader has taken. That is its flow-control window.
- The connection's own window is as large as the protocol allows, so that a slow reader does not delay other streams.
- An aborted stream is reset with CANCEL, so that the upstream stops working on it.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol, cast

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings

from gateway.concurrency.deadline import Deadline
from gateway.concurrency.disk_body import SentBody
from gateway.errors import GatewayError
from gateway.protocol.header_fields import size_bytes
from gateway.types import Body
from gateway.upstream.answer import NativeAnswer
from gateway.upstream.goaway import Goaway, GoawayFilter
from gateway.upstream.transport import FaultKind, TransportConfig, UpstreamFault
from gateway.upstream.unsent_body import UnsentBody

_MAX_WINDOW_BYTES: Final = 2**31 - 1  # RFC 9113, 6.9.1
_FIRST_WINDOW_BYTES: Final = 65_535  # RFC 9113, 6.9.2: the initial window of a connection
_MAX_STREAMS: Final = 100  # on one connection, even if the upstream allows more
_PIECE_BYTES: Final = 128 * 1024  # a body is written in pieces of this size
_MAX_INFORMATIONAL: Final = 16
_FIRST_STATUS: Final = 200
_LAST_STATUS: Final = 599


class Owner(Protocol):
    """The owner of connections, which is the pool. Its methods are called synchronously from the event loop."""

    def connection_closing(self, connection: "Http2Connection") -> None:
        """The connection accepts no more requests."""

    def connection_lost(self, connection: "Http2Connection") -> None:
        """The socket is closed."""


class Http2Stream:
    """One exchange on its own stream. `released` is called once, when the exchange is over.

    Mutable: the unsent rest of the body, and how many received bytes are not acknowledged yet.
    """

    def __init__(
        self, connection: "Http2Connection", config: TransportConfig, released: Callable[[], None], unsent: UnsentBody
    ) -> None:
        self.config = config
        self.answer = NativeAnswer(self, [])
        self.id = 0
        self.unsent = unsent
        self.is_scheduled = False  # the next piece of its body is written in the next turn of the event loop
        self.informational = 0
        self._connection = connection
        self._released = released
        self._pieces: list[bytes] = []
        self._unacknowledged_bytes = 0
        self._deadline = Deadline(asyncio.get_running_loop(), self._on_deadline)
        self.answer.pieces = self._pieces

    # for the answer

    def wait(self, answer: NativeAnswer, timeout_s: float) -> "asyncio.Future[None]":
        """Return a future that ends when the answer has something new: a head, bytes, its end or its fault."""
        if answer.waiter is not None:
            raise RuntimeError("an answer has one reader at a time")
        answer.waiter = waiter = asyncio.get_running_loop().create_future()
        self._deadline.set(timeout_s)
        return waiter

    def taken(self, answer: NativeAnswer) -> None:
        """Note that the reader has taken all pieces, so that the upstream may send as many bytes again."""
        self._pieces.clear()
        answer.unread_bytes = 0
        received, self._unacknowledged_bytes = self._unacknowledged_bytes, 0
        self._connection.acknowledge(self, received)

    def fail(self, kind: FaultKind, detail: str) -> None:
        """End the answer with a fault, and reset the stream with CANCEL."""
        self.end(UpstreamFault(kind, detail, sent=True))
        self._connection.cancel(self, self._unacknowledged_bytes)

    # for the connection

    def head(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        """Take the answer's head. Return what is invalid in it, or None."""
        status = 0
        for name, value in headers:
            if name == b":status":
                status = int(value) if value.isdigit() else 0
            else:
                self.answer.headers.append((name, value))
        if not _FIRST_STATUS <= status <= _LAST_STATUS:
            return f"status {status}"
        self.answer.status = status
        self._wake_reader()
        return None

    def data(self, data: bytes, flow_controlled_bytes: int) -> None:
        """Take a piece of the body."""
        self._unacknowledged_bytes += flow_controlled_bytes
        if data:
            self._pieces.append(data)
            self.answer.unread_bytes += len(data)
            self._wake_reader()
        else:
            self._connection.acknowledge(self, self._unacknowledged_bytes)
            self._unacknowledged_bytes = 0

    def skip_informational(self) -> None:
        """Skip a 1xx answer. Fails the stream beyond a number of them."""
        self.informational += 1
        if self.informational > _MAX_INFORMATIONAL:
            self.fail(FaultKind.PROTOCOL, "too many informational answers")

    def finish(self) -> None:
        """The message is complete."""
        self.answer.ended = True
        self._connection.acknowledge(self, self._unacknowledged_bytes)
        self._release()

    def end(self, fault: UpstreamFault) -> None:
        """The exchange has failed."""
        self.answer.fault = fault
        self._release()

    def _release(self) -> None:
        answer = self.answer
        answer.connection = None
        answer.pieces = self._pieces[:]
        self._deadline.close()
        self._released()
        answer.wake()

    def _wake_reader(self) -> None:
        if self.answer.waiter is not None:
            self._deadline.unset()
            self.answer.wake()

    def _on_deadline(self) -> None:
        if self.answer.status:
            self.fail(FaultKind.CHUNK_TIMEOUT, f"no bytes for {self.config.chunk_timeout_s} s")
        else:
            self.fail(FaultKind.FIRST_BYTE_TIMEOUT, f"no answer for {self.config.first_byte_timeout_s} s")


class Http2Connection(asyncio.Protocol):
    """One connection. Mutable: the streams that run, and whether it accepts more."""

    def __init__(self, owner: Owner, config: TransportConfig) -> None:
        self.closed = False
        self.leaving = False
        self.idle_since_s = 0.0
        self._write_paused = False
        self._owner = owner
        self._config = config
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Http2Stream] = {}
        self._goaway = GoawayFilter()
        self._state = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None, validate_outbound_headers=False)
        )
        self._state.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: min(config.max_unread_bytes, _MAX_WINDOW_BYTES),
                SettingCodes.MAX_HEADER_LIST_SIZE: config.max_head_bytes,
            },
        )

    # for the owner

    @property
    def connected(self) -> bool:
        """Whether the connection ever had a socket."""
        return self._transport is not None

    @property
    def running(self) -> int:
        """The number of running streams."""
        return len(self._streams)

    @property
    def has_room(self) -> bool:
        """Whether one more request can begin here."""
        if self.closed or self.leaving or self._transport is None:
            return False
        return len(self._streams) < min(_MAX_STREAMS, self._state.remote_settings.max_concurrent_streams)

    def begin(
        self, fields: list[tuple[bytes, bytes]], body: Body | SentBody, released: Callable[[], None]
    ) -> Http2Stream:
        """Write a request. The answer's `wait` ends when its head has arrived or its fault is set."""
        stream = Http2Stream(self, self._config, released, UnsentBody(body, _PIECE_BYTES))
        try:
            stream.id = self._state.get_next_available_stream_id()
            self._state.send_headers(stream.id, fields, end_stream=not body)
        except h2.exceptions.ProtocolError as error:  # no stream ids are left, or the connection has just ended
            self._leave()
            stream.end(UpstreamFault(FaultKind.RESET, repr(error), sent=False))
            return stream
        self._streams[stream.id] = stream
        self._send_body(stream)
        self._flush()
        return stream

    def close(self, kind: FaultKind = FaultKind.CUT, detail: str = "closed by the gateway") -> None:
        """Close the socket at once; running answers end with a fault. Idempotent."""
        self._leave()
        self.closed = True
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            died = kind is FaultKind.CUT and not stream.answer.status
            stream.end(UpstreamFault(FaultKind.RESET if died else kind, detail, sent=True))
        if self._transport is not None:
            self._transport.abort()

    # for the streams

    def acknowledge(self, stream: Http2Stream, received_bytes: int) -> None:
        """Let the upstream send as many bytes again."""
        if received_bytes and not self.closed:
            with suppress(h2.exceptions.ProtocolError):  # the connection has ended meanwhile
                self._state.acknowledge_received_data(received_bytes, stream.id)
            self._flush()

    def cancel(self, stream: Http2Stream, unread_bytes: int) -> None:
        """Reset a stream, and give its unread bytes back to the connection's window."""
        if self._streams.pop(stream.id, None) is None:
            return
        with suppress(h2.exceptions.ProtocolError):
            self._state.reset_stream(stream.id, ErrorCodes.CANCEL)
        self.acknowledge(stream, unread_bytes)
        self._flush()
        self._close_if_drained()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket and TLS are up. Send the connection preface."""
        self._transport = cast("asyncio.Transport", transport)
        if self.closed:
            self._transport.abort()
            return
        self._state.initiate_connection()
        self._state.increment_flow_control_window(_MAX_WINDOW_BYTES - _FIRST_WINDOW_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Handle the frames that have arrived."""
        try:
            frames, goaways = self._goaway.feed(data)
            events = self._state.receive_data(frames) if frames else []
        except h2.exceptions.DenialOfServiceError as error:
            self.close(FaultKind.TOO_LARGE, str(error))
            return
        except (h2.exceptions.ProtocolError, ValueError) as error:
            self.close(FaultKind.PROTOCOL, str(error) or repr(error))
            return
        for event in events:
            self._handle(event)
        for goaway in goaways:
            self._on_goaway(goaway)
        self._flush()
        self._close_if_drained()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed, by either side."""
        self.close(FaultKind.CUT, str(exc) if exc is not None else "closed by the upstream")
        self._owner.connection_lost(self)

    def pause_writing(self) -> None:
        """The upstream is slower than its windows allow."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The upstream has caught up."""
        self._write_paused = False
        if not self.closed:
            self._send_bodies()
            self._flush()

    # internals

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._send_bodies()
            return
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return  # the stream was cancelled; h2 gives its bytes back to the connection's window
        match event:
            case h2.events.ResponseReceived(headers=headers):
                self._head(stream, headers)
            case h2.events.InformationalResponseReceived():
                stream.skip_informational()
            case h2.events.DataReceived():
                stream.data(event.data or b"", event.flow_controlled_length or 0)
            case h2.events.StreamEnded():
                self._finish(stream)
            case h2.events.StreamReset(error_code=code):
                del self._streams[stream.id]
                refused = code == ErrorCodes.REFUSED_STREAM and not stream.answer.status  # RFC 9113, 8.7: not begun
                kind = FaultKind.CUT if stream.answer.status else FaultKind.RESET
                stream.end(UpstreamFault(kind, f"the upstream reset the stream: {code}", sent=not refused))

    def _finish(self, stream: Http2Stream) -> None:
        del self._streams[stream.id]
        if stream.unsent:  # the answer ended before the whole request was sent
            self._state.reset_stream(stream.id, ErrorCodes.NO_ERROR)
        stream.finish()

    def _head(self, stream: Http2Stream, headers: list[tuple[bytes, bytes]]) -> None:
        if size_bytes(headers) > self._config.max_head_bytes:
            stream.fail(FaultKind.TOO_LARGE, "the head is larger than max_head_bytes")
        elif problem := stream.head(headers):
            stream.fail(FaultKind.PROTOCOL, problem)

    def _on_goaway(self, goaway: Goaway) -> None:
        self._leave()
        detail = f"the upstream ended the connection: error {goaway.error_code}"
        for stream_id in [one for one in self._streams if one > goaway.last_stream_id]:
            stream = self._streams.pop(stream_id)
            begun = bool(stream.answer.status)  # a head has arrived, whatever GOAWAY states
            stream.end(UpstreamFault(FaultKind.CUT if begun else FaultKind.RESET, detail, sent=begun))
        if goaway.error_code != ErrorCodes.NO_ERROR:
            self.close(FaultKind.CUT, detail)

    def _send_bodies(self) -> None:
        for unsent in [one for one in self._streams.values() if one.unsent]:
            self._send_body(unsent)

    def _send_body(self, stream: Http2Stream) -> None:
        """Send as much of a body as the windows permit, in pieces, so that a large body does not delay others."""
        left = 0 if self._write_paused else _PIECE_BYTES
        while stream.unsent and left:
            room = min(self._state.local_flow_control_window(stream.id), self._state.max_outbound_frame_size, left)
            if room <= 0:
                return  # continued after a WINDOW_UPDATE
            chunk = stream.unsent.take(room, partial(self._piece_is_read, stream))
            if not chunk:
                return  # the piece is being read from disk
            self._state.send_data(stream.id, bytes(chunk), end_stream=not stream.unsent)
            left -= len(chunk)
        if stream.unsent and not (stream.is_scheduled or self._write_paused):
            stream.is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send_more, stream)

    def _send_more(self, stream: Http2Stream) -> None:
        stream.is_scheduled = False
        if stream.id in self._streams:
            self._send_body(stream)
            self._flush()

    def _piece_is_read(self, stream: Http2Stream, unsent: UnsentBody, error: GatewayError | None) -> None:
        """Continue with a body on disk, or fail a request whose body cannot be read."""
        del unsent
        if stream.id not in self._streams:
            return
        if error is not None:
            stream.fail(FaultKind.BODY_LOST, error.cause.detail)
        else:
            self._send_more(stream)

    def _flush(self) -> None:
        if self._transport is not None and not self.closed and (data := self._state.data_to_send()):
            self._transport.write(data)

    def _leave(self) -> None:
        if not self.leaving:
            self.leaving = True
            self._owner.connection_closing(self)

    def _close_if_drained(self) -> None:
        """Close the connection after its last stream if it accepts no more."""
        if not self._streams:
            self.idle_since_s = asyncio.get_running_loop().time()
            if self.leaving:
                self.close()
