"""One WebSocket connection to an upstream, and the turns on it. `websockets` does the framing.

| what arrives                                     | what happens                                                  |
|--------------------------------------------------|---------------------------------------------------------------|
| a message for a lane with a turn                 | it belongs to the turn, whose last message frees the lane     |
| a message that names no lane                     | it belongs to the turn without a lane, or else to the oldest  |
|                                                  | one: a provider without lanes runs one turn after the other   |
| `response.steer.*`                               | the listener of the steered turn gets it                      |
| the first message after a steered turn           | the successor begins, if one is awaited                       |
| a response that was not requested                | the connection ends, because nobody would pay for the work    |
| an error that belongs to no turn                 | no more turns begin, because the provider is about to close   |
| any other message that belongs to no turn        | it is ignored                                                 |
| a message that is too long or binary, or bytes   | the connection ends                                           |
| that are not a frame                             |                                                               |

There are bounds on the size of a message (`max_message_bytes`), on unread bytes (`max_unread_bytes`, beyond which
reading pauses), on the time without a turn, on the age, and on unanswered pings. The protocol cannot cancel a turn, so
an abandoned turn ends its connection, unless other turns run on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import WebSocketURI

from gateway.concurrency.off_loop import OffLoop
from gateway.upstream.transport import FaultKind, TransportConfig, UpstreamFault
from gateway.upstream.websocket_listeners import SteeringListener, SteeringListeners
from gateway.upstream.websocket_messages import CREATED, ERROR, STEERING, MessageHead, UpstreamMessage
from gateway.upstream.websocket_reader import MessageReader
from gateway.upstream.websocket_turn import UpstreamTurn
from gateway.upstream.websocket_upgrade import UpgradeRefused
from gateway.upstream.websocket_writer import WebSocketWriter

PING_S: Final = 30.0
IDLE_S: Final = 600.0
MAX_AGE_S: Final = 55 * 60.0
"""Providers close a connection after 60 minutes, even if turns run on it."""
_MAX_UNANSWERED_PINGS: Final = 3
_MAX_REMEMBERED: Final = 64
_UNUSED_URI: Final = WebSocketURI(secure=False, host="upstream", port=80, path="/", query="")
"""`websockets` needs a URI, but the pool writes the head of the handshake."""


class SocketOwner(Protocol):
    """The owner of connections, which counts them."""

    def socket_lost(self, socket: UpstreamSocket) -> None:
        """The connection is closed."""


class UpstreamSocket(asyncio.Protocol):
    """One connection.

    State that changes: the running turns by lane, oldest first; the listeners of steered turns; whether the provider
    has lanes; the last response in each lane; `is_retired`, which means that no more turns begin; since when no turn
    runs; and when data was last received.
    """

    __slots__ = (
        "_closed", "_config", "_has_lanes", "_lacks_lanes", "_last_response_ids", "_lost", "_opening", "_paused",
        "_pinged_s", "_protocol", "_reader", "_received_s", "_steering_listeners", "_transport", "_writer",
        "fingerprint", "idle_since_s", "is_retired", "loop", "opened_s", "owner", "turns",
    )  # fmt: skip

    def __init__(
        self, owner: SocketOwner, config: TransportConfig, max_message_bytes: int, fingerprint: str, off_loop: OffLoop
    ) -> None:
        self.fingerprint = fingerprint
        self.is_retired = False
        self.loop = asyncio.get_running_loop()
        self.opened_s = self.idle_since_s = self._received_s = self._pinged_s = self.loop.time()
        self.turns: dict[str, UpstreamTurn] = {}
        self.owner = owner
        self._config = config
        self._protocol = ClientProtocol(_UNUSED_URI, max_size=max_message_bytes)
        self._writer = WebSocketWriter(self._protocol, self.loop)
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Future[None] | None = None
        self._reader = MessageReader(self, off_loop)
        self._lost = ""  # why the socket is closed, while its last messages are still being read
        self._closed = self._paused = self._has_lanes = self._lacks_lanes = False
        self._last_response_ids: dict[str, str] = {}
        self._steering_listeners = SteeringListeners()

    # for the pool

    async def handshake(self, head: Callable[[str], bytes]) -> None:
        """Sends the head of the handshake, and waits for the answer. Raises UpgradeRefused, UpstreamFault.

        `head` returns the head for the handshake's key.
        """
        transport = self._transport
        if transport is None or self._closed:
            raise UpstreamFault(FaultKind.RESET, "closed before the opening handshake", sent=False)
        self._opening = self.loop.create_future()
        transport.write(head(self._protocol.key))
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                await self._opening
        except TimeoutError:
            detail = f"no answer to the opening handshake after {self._config.connect_timeout_s} s"
            raise UpstreamFault(FaultKind.CONNECT_TIMEOUT, detail, sent=False) from None

    def can_take(self, lane: str, now_s: float) -> bool:
        """Whether a turn of this lane can begin."""
        if self.is_retired or self._protocol.state is not State.OPEN or now_s - self.opened_s >= MAX_AGE_S:
            return False
        if not self.turns:
            return True
        if lane in self.turns:
            return False
        return self._has_lanes or (not self._lacks_lanes and lane != "" and "" not in self.turns)

    def remembers(self, response_id: str) -> bool:
        """Whether the provider remembers this response on this connection."""
        return response_id in self._last_response_ids.values()

    def forget(self, response_id: str) -> None:
        """Notes that the provider does not remember a response any more."""
        self._last_response_ids = {lane: last for lane, last in self._last_response_ids.items() if last != response_id}

    def begin(self, lane: str, message: bytes) -> UpstreamTurn:
        """Sends the message that begins a turn. `can_take` must be true."""
        self.turns[lane] = turn = self.new_turn(lane)
        self.send(message)
        return turn

    def new_turn(self, lane: str) -> UpstreamTurn:
        """Returns a turn for this lane that has not begun yet."""
        return UpstreamTurn(self, self._config, lane, self.loop)

    def steer(self, lane: str, listener: SteeringListener, message: bytes) -> None:
        """Sends a message about the turn that runs in a lane."""
        self._steering_listeners.add(lane, listener)
        self.send(message)

    def remove_steering_listener(self, listener: SteeringListener) -> None:
        """Removes a listener that does not wait for a successor any more."""
        self._steering_listeners.remove(listener)

    def send(self, message: bytes) -> None:
        """Sends one text message. After the end of the connection it is discarded."""
        self._writer.send(message)

    def retire(self) -> None:
        """Accepts no more turns, and ends the connection as soon as none runs. Idempotent."""
        self.is_retired = True
        if not self.turns:
            self.close()

    def close(self) -> None:
        """Ends the connection, with a close frame if possible. Idempotent."""
        if self._transport is not None and self._writer.close():
            self._transport.close()
        else:
            self.abort()
        self._end("closed by the gateway")

    def abort(self) -> None:
        """Ends the connection at once. Idempotent."""
        if self._transport is not None:
            self._transport.abort()
        self._end("closed by the gateway")

    def tick(self, now_s: float) -> None:
        """Checks the bounds on time, and sends pings. To be called about once a second."""
        if self._closed:
            return
        if not self.turns and (now_s - self.idle_since_s >= IDLE_S or now_s - self.opened_s >= MAX_AGE_S):
            self.retire()
        elif now_s - self._received_s >= _MAX_UNANSWERED_PINGS * PING_S and not self._paused and not self.turns:
            self.abort()  # during a turn, `chunk_timeout_s` applies instead
        elif now_s - self._pinged_s >= PING_S and self._protocol.state is State.OPEN:
            self._pinged_s = now_s
            self._protocol.send_ping(b"")
            self._writer.flush()

    # for the turns

    def pause_reading(self) -> None:
        """See `websocket_turn.TurnConnection`. It affects all lanes, because they share one stream of bytes."""
        if not self._paused and self._transport is not None and not self._closed:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See `websocket_turn.TurnConnection`."""
        if self._paused and self._transport is not None and not self._closed:
            self._paused = False
            self._received_s = self.loop.time()
            if not self._reader.is_busy:
                self._transport.resume_reading()

    def on_abandoned(self, turn: UpstreamTurn) -> None:
        """See `websocket_turn.TurnConnection`."""
        if self.turns.get(turn.lane) is turn and all(one.is_over for one in self.turns.values()):
            self.abort()
        else:
            self.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket (and TLS) is up."""
        self._transport = cast("asyncio.Transport", transport)
        self._writer.begin(self._transport)
        if self._closed:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes of frames have arrived."""
        self._received_s = self.loop.time()
        self._protocol.receive_data(data)
        events = self._protocol.events_received()
        for event in events:
            if isinstance(event, Response):
                self._on_handshake_response(event)
        self._reader.take(event for event in events if isinstance(event, Frame))
        self._after_messages()

    def pause_writing(self) -> None:
        """The upstream reads slowly."""
        self._writer.pause()

    def resume_writing(self) -> None:
        """The upstream has caught up."""
        self._writer.resume()

    def eof_received(self) -> None:
        """The upstream has ended its side."""
        self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._on_handshake_response(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed. What came before is read to its end."""
        self._lost = (str(exc) if exc is not None else "") or "closed by the upstream"
        if not self._reader.is_busy:
            self._end(self._lost)

    # inside

    def _on_handshake_response(self, response: Response) -> None:
        opening = self._opening
        if opening is None or opening.done():
            return
        if self._protocol.state is State.OPEN:
            opening.set_result(None)
        elif response.status_code == 101:  # noqa: PLR2004 - HTTP's "Switching Protocols"
            detail = f"not a WebSocket handshake: {self._protocol.handshake_exc}"
            opening.set_exception(UpstreamFault(FaultKind.PROTOCOL, detail, sent=False))
        else:
            opening.set_exception(UpgradeRefused.by(response))

    def _after_messages(self) -> None:
        """Passes on what has come. Nothing more is read while a thread reads a large message."""
        self._writer.flush()
        for turn in list(self.turns.values()):
            turn.flush()
            if turn.has_ended:
                self._turn_ended(turn)
        if self._closed:
            return
        if self._reader.is_busy:
            if self._transport is not None and not self._lost:
                self._transport.pause_reading()
        elif self._protocol.state is not State.OPEN:
            self._on_upstream_end()

    # for the reader

    def on_message(self, message: UpstreamMessage) -> None:
        """See `websocket_reader.ReaderOwner`."""
        head = message.head
        if head.kind.startswith(STEERING):
            self._steering_listeners.answer(message, has_lanes=self._has_lanes)
            return
        turn = self._find_turn(head)
        if turn is not None:
            turn.push(message)
        elif head.kind == ERROR:
            self.is_retired = True
        elif head.kind == CREATED:
            self.abort()

    def on_binary(self) -> None:
        """See `websocket_reader.ReaderOwner`."""
        self._fail_turns(FaultKind.PROTOCOL, "a binary message")

    def on_caught_up(self) -> None:
        """See `websocket_reader.ReaderOwner`."""
        self._received_s = self.loop.time()
        self._after_messages()
        if self._closed or self._reader.is_busy:
            return
        if self._lost:
            self._end(self._lost)
        elif not self._paused and self._transport is not None:
            self._transport.resume_reading()

    def _find_turn(self, head: MessageHead) -> UpstreamTurn | None:
        """Returns the turn that a message belongs to. A turn whose last message has come gets no more of them."""
        running = [turn for turn in self.turns.values() if not turn.has_ended]
        lane = head.lane
        if lane is not None:
            found = self.turns.get(lane)
            if found is not None and not found.has_ended:
                self._has_lanes = True
                return found
        elif (found := self.turns.get("")) is not None and not found.has_ended:
            return found
        elif running and not self._has_lanes:
            self._lacks_lanes = True
            return running[0]
        return self._successor(lane, head)

    def _successor(self, lane: str | None, head: MessageHead) -> UpstreamTurn | None:
        """Returns the turn that follows a steered one by itself, if this message begins it."""
        listener = self._steering_listeners.waiting(lane, has_lanes=self._has_lanes)
        if listener is None or head.kind not in (CREATED, ERROR):
            return None
        for turn in list(self.turns.values()):  # the end of the steered turn may have come in the same read
            if turn.has_ended:
                turn.flush()
                self._turn_ended(turn)
        following = listener.successor()
        if following is None:
            return None
        self.remove_steering_listener(listener)
        self.turns[following.lane] = following
        return following

    def _turn_ended(self, turn: UpstreamTurn) -> None:
        """Frees the lane of a turn whose last message has come."""
        if self.turns.get(turn.lane) is not turn:
            return
        del self.turns[turn.lane]
        self.idle_since_s = self.loop.time()
        if turn.response_id:
            self._last_response_ids.pop(turn.lane, None)
            self._last_response_ids[turn.lane] = turn.response_id
            if len(self._last_response_ids) > _MAX_REMEMBERED:
                del self._last_response_ids[next(iter(self._last_response_ids))]
        self._steering_listeners.turn_ended(turn.lane)
        if self.is_retired and not self.turns and not self._steering_listeners:
            self.close()
        elif self.turns and all(one.is_over for one in self.turns.values()):
            self.abort()  # only abandoned turns are left

    def _on_upstream_end(self) -> None:
        """Handles that the upstream has closed the connection, or violated the protocol."""
        protocol = self._protocol
        if protocol.state is State.CONNECTING and protocol.handshake_exc is None:
            return
        if protocol.handshake_exc is not None:
            self._fail_opening(UpstreamFault(FaultKind.PROTOCOL, f"{protocol.handshake_exc}", sent=False))
            self.abort()
        elif protocol.parser_exc is not None:
            too_large = protocol.close_sent is not None and protocol.close_sent.code == CloseCode.MESSAGE_TOO_BIG
            self._fail_turns(FaultKind.TOO_LARGE if too_large else FaultKind.PROTOCOL, str(protocol.parser_exc))
        else:
            code = protocol.close_rcvd.code if protocol.close_rcvd is not None else int(CloseCode.ABNORMAL_CLOSURE)
            if self._transport is not None:
                self._transport.close()
            self._end(f"closed by the upstream with {code}")

    def _fail_turns(self, kind: FaultKind, detail: str) -> None:
        for turn in list(self.turns.values()):
            turn.end(kind, detail)
        self.abort()

    def _end(self, detail: str) -> None:
        """Ends all turns, because the connection has ended."""
        if self._closed:
            return
        self._closed = self.is_retired = True
        self._reader.end()
        self._writer.end()
        self._fail_opening(UpstreamFault(FaultKind.RESET, f"{detail} in the opening handshake", sent=False))
        turns, self.turns = self.turns, {}
        for turn in turns.values():
            turn.died(detail)
        self._steering_listeners.end()
        self.owner.socket_lost(self)

    def _fail_opening(self, fault: UpstreamFault) -> None:
        if self._opening is not None and not self._opening.done():
            self._opening.set_exception(fault)
