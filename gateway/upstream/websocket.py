"""One WebSocket connection to an upstream, and the turns on it. `websockets` does the framing.

| what comes                                       | what happens                                                  |
|--------------------------------------------------|---------------------------------------------------------------|
| a message of a lane with a turn                  | it is the turn's; its last one makes the lane free            |
| a message that names no lane                     | it is the turn's that names none, or else the oldest one's: a |
|                                                  | provider without lanes does one turn after the other          |
| `response.steer.*`                               | it is told to whoever steers                                  |
| the first message after a steered turn           | the successor begins, if one waits                            |
| a response that nobody asked for                 | the connection ends: its work would be paid by nobody         |
| any other message that is nobody's               | nothing                                                       |
| an error that is nobody's                        | no more turns: the provider is about to close                 |
| a message over the bound, a binary one, no frame | the connection ends                                           |

Bounds: a message (`max_message_bytes`), what a reader leaves unread (`max_unread_bytes`: then no more is read), the
time without a turn, the age, and an upstream that is silent although it was pinged. Nobody cancels a turn over this
protocol, so one that is given up ends the connection, unless other turns are on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import WebSocketURI

from gateway.types import Headers
from gateway.upstream.transport import FaultKind, TransportConfig, UpstreamFault
from gateway.upstream.websocket_messages import CREATED, ERROR, STEERING, Told, read
from gateway.upstream.websocket_turn import UpstreamTurn
from gateway.upstream.websocket_watches import SteeringWatch, Watches
from gateway.upstream.websocket_writer import WebSocketWriter

PING_S: Final = 30.0
IDLE_S: Final = 600.0
MAX_AGE_S: Final = 55 * 60.0
"""Providers close a connection after 60 minutes, whatever runs on it."""
_SILENT_PINGS: Final = 3
_REMEMBERED: Final = 64
_NOWHERE: Final = WebSocketURI(secure=False, host="upstream", port=80, path="/", query="")
"""The head of the handshake is written elsewhere."""


class SocketOwner(Protocol):
    """Who counts connections."""

    def socket_lost(self, socket: UpstreamSocket) -> None:
        """It is closed."""


class Refused(Exception):
    """The upstream has not taken the handshake; its answer."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body


class UpstreamSocket(asyncio.Protocol):
    """One connection.

    State that changes: the turns that run, by lane, oldest first; who steers them; what a provider knows of lanes; the
    response that it made last in each lane; that it takes no more turns; since when no turn runs; when something came.
    """

    __slots__ = (
        "_closed", "_config", "_has_lanes", "_heard_s", "_lacks_lanes", "_made", "_message", "_opening", "_paused",
        "_pinged_s", "_protocol", "_transport", "_watches", "_writer", "fingerprint", "idle_since_s", "is_retired",
        "loop", "opened_s", "owner", "turns",
    )  # fmt: skip

    def __init__(self, owner: SocketOwner, config: TransportConfig, max_message_bytes: int, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.is_retired = False
        self.loop = asyncio.get_running_loop()
        self.opened_s = self.idle_since_s = self._heard_s = self._pinged_s = self.loop.time()
        self.turns: dict[str, UpstreamTurn] = {}
        self.owner = owner
        self._config = config
        self._protocol = ClientProtocol(_NOWHERE, max_size=max_message_bytes)
        self._writer = WebSocketWriter(self._protocol, self.loop)
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Future[None] | None = None
        self._message: bytearray | None = None
        self._closed = self._paused = self._has_lanes = self._lacks_lanes = False
        self._made: dict[str, str] = {}
        self._watches = Watches()

    # for the pool

    async def shake_hands(self, head: Callable[[str], bytes]) -> None:
        """Sends the head of the handshake, which needs its key, and reads the answer. Raises Refused, UpstreamFault."""
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

    def made(self, response_id: str) -> bool:
        """Whether its provider remembers this response here."""
        return response_id in self._made.values()

    def forget(self, response_id: str) -> None:
        """The provider has forgotten it."""
        self._made = {lane: made for lane, made in self._made.items() if made != response_id}

    def begin(self, lane: str, message: bytes) -> UpstreamTurn:
        """Sends the message that begins a turn. To be asked `can_take` before."""
        self.turns[lane] = turn = self.turn_of(lane)
        self.send(message)
        return turn

    def turn_of(self, lane: str) -> UpstreamTurn:
        """A turn of this lane that has not begun."""
        return UpstreamTurn(self, self._config, lane, self.loop)

    def steer(self, lane: str, watch: SteeringWatch, message: bytes) -> None:
        """Sends a message about the turn that runs in a lane."""
        self._watches.add(lane, watch)
        self.send(message)

    def forget_watch(self, watch: SteeringWatch) -> None:
        """Nobody waits for a successor any more."""
        self._watches.remove(watch)

    def send(self, message: bytes) -> None:
        """One text message. After the end it leads nowhere."""
        self._writer.send(message)

    def retire(self) -> None:
        """Takes no more turns, and ends as soon as none runs. Idempotent."""
        self.is_retired = True
        if not self.turns:
            self.close()

    def close(self) -> None:
        """Ends it, with a close where that is possible. Idempotent."""
        if self._transport is not None and self._writer.close():
            self._transport.close()
        else:
            self.abort()
        self._end("closed by the gateway")

    def abort(self) -> None:
        """Ends it at once. Idempotent."""
        if self._transport is not None:
            self._transport.abort()
        self._end("closed by the gateway")

    def tick(self, now_s: float) -> None:
        """About once a second: what is due."""
        if self._closed:
            return
        if not self.turns and (now_s - self.idle_since_s >= IDLE_S or now_s - self.opened_s >= MAX_AGE_S):
            self.retire()
        elif now_s - self._heard_s >= _SILENT_PINGS * PING_S and not self._paused and not self.turns:
            self.abort()  # in a turn, `chunk_timeout_s` says how long a provider may be silent
        elif now_s - self._pinged_s >= PING_S and self._protocol.state is State.OPEN:
            self._pinged_s = now_s
            self._protocol.send_ping(b"")
            self._writer.flush()

    # for the turns

    def pause(self) -> None:
        """See `websocket_turn.TurnsSocket`. It holds for all lanes: they come in one stream of bytes."""
        if not self._paused and self._transport is not None and not self._closed:
            self._paused = True
            self._transport.pause_reading()

    def read_on(self) -> None:
        """See `websocket_turn.TurnsSocket`."""
        if self._paused and self._transport is not None and not self._closed:
            self._paused = False
            self._heard_s = self.loop.time()
            self._transport.resume_reading()

    def gave_up(self, turn: UpstreamTurn) -> None:
        """See `websocket_turn.TurnsSocket`."""
        if self.turns.get(turn.lane) is turn and all(one.is_over for one in self.turns.values()):
            self.abort()
        else:
            self.read_on()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket (and TLS) is up."""
        self._transport = cast("asyncio.Transport", transport)
        self._writer.begin(self._transport)
        if self._closed:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Frames, or parts of some."""
        self._heard_s = self.loop.time()
        protocol = self._protocol
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Response):
                self._answered(event)
            elif isinstance(event, Frame) and not self._closed:
                self._take(event)
        self._writer.flush()
        for turn in list(self.turns.values()):
            turn.flush()
            if turn.has_ended:
                self._turn_ended(turn)
        if protocol.state is not State.OPEN and not self._closed:
            self._ended_by_upstream()

    def pause_writing(self) -> None:
        """The upstream reads slowly."""
        self._writer.pause()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writer.resume()

    def eof_received(self) -> None:
        """The upstream has ended its side."""
        self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._answered(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._end(str(exc) if exc is not None else "closed by the upstream")

    # inside

    def _answered(self, response: Response) -> None:
        opening = self._opening
        if opening is None or opening.done():
            return
        if self._protocol.state is State.OPEN:
            opening.set_result(None)
        elif response.status_code == 101:  # noqa: PLR2004 - HTTP's "Switching Protocols"
            detail = f"not a WebSocket handshake: {self._protocol.handshake_exc}"
            opening.set_exception(UpstreamFault(FaultKind.PROTOCOL, detail, sent=False))
        else:
            headers = [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in response.headers.raw_items()
            ]
            opening.set_exception(Refused(response.status_code, headers, bytes(response.body)))

    def _take(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT:
            if frame.fin:
                self._pass_on(bytes(frame.data))
            else:
                self._message = bytearray(frame.data)
        elif opcode is Opcode.CONT and self._message is not None:
            self._message += frame.data
            if frame.fin:
                whole, self._message = bytes(self._message), None
                self._pass_on(whole)
        elif opcode is Opcode.BINARY:
            self._break(FaultKind.PROTOCOL, "a binary message")

    def _pass_on(self, message: bytes) -> None:
        told = read(message)
        if told is None:
            return
        if told.kind.startswith(STEERING):
            self._watches.answer(told, message, has_lanes=self._has_lanes)
            return
        turn = self._turn_of(told)
        if turn is not None:
            turn.push(told, message)
        elif told.kind == ERROR:
            self.is_retired = True
        elif told.kind == CREATED:
            self.abort()

    def _turn_of(self, told: Told) -> UpstreamTurn | None:
        """Whose a message is. A turn whose last message has come is over, even if nobody has been told yet."""
        running = [turn for turn in self.turns.values() if not turn.has_ended]
        lane = told.lane
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
        return self._successor(lane, told)

    def _successor(self, lane: str | None, told: Told) -> UpstreamTurn | None:
        """The turn that follows a steered one by itself, when it begins."""
        watch = self._watches.waiting(lane, has_lanes=self._has_lanes)
        if watch is None or told.kind not in (CREATED, ERROR):
            return None
        for turn in list(self.turns.values()):  # the steered turn's end may have come in the same read
            if turn.has_ended:
                turn.flush()
                self._turn_ended(turn)
        following = watch.successor()
        if following is None:
            return None
        self.forget_watch(watch)
        self.turns[following.lane] = following
        return following

    def _turn_ended(self, turn: UpstreamTurn) -> None:
        """Its last message has come: its lane is free."""
        if self.turns.get(turn.lane) is not turn:
            return
        del self.turns[turn.lane]
        self.idle_since_s = self.loop.time()
        if turn.response_id:
            self._made.pop(turn.lane, None)
            self._made[turn.lane] = turn.response_id
            if len(self._made) > _REMEMBERED:
                del self._made[next(iter(self._made))]
        self._watches.turn_ended(turn.lane)
        if self.is_retired and not self.turns and not self._watches:
            self.close()
        elif self.turns and all(one.is_over for one in self.turns.values()):
            self.abort()  # only turns that were given up are left

    def _ended_by_upstream(self) -> None:
        """It has closed, or broken the protocol."""
        protocol = self._protocol
        if protocol.state is State.CONNECTING and protocol.handshake_exc is None:
            return
        if protocol.handshake_exc is not None:
            self._fail_opening(UpstreamFault(FaultKind.PROTOCOL, f"{protocol.handshake_exc}", sent=False))
            self.abort()
        elif protocol.parser_exc is not None:
            too_large = protocol.close_sent is not None and protocol.close_sent.code == CloseCode.MESSAGE_TOO_BIG
            self._break(FaultKind.TOO_LARGE if too_large else FaultKind.PROTOCOL, str(protocol.parser_exc))
        else:
            code = protocol.close_rcvd.code if protocol.close_rcvd is not None else int(CloseCode.ABNORMAL_CLOSURE)
            if self._transport is not None:
                self._transport.close()
            self._end(f"closed by the upstream with {code}")

    def _break(self, kind: FaultKind, detail: str) -> None:
        for turn in list(self.turns.values()):
            turn.end(kind, detail)
        self.abort()

    def _end(self, detail: str) -> None:
        """There is no connection any more."""
        if self._closed:
            return
        self._closed = self.is_retired = True
        self._message = None
        self._writer.end()
        self._fail_opening(UpstreamFault(FaultKind.RESET, f"{detail} in the opening handshake", sent=False))
        turns, self.turns = self.turns, {}
        for turn in turns.values():
            turn.died(detail)
        self._watches.end()
        self.owner.socket_lost(self)

    def _fail_opening(self, fault: UpstreamFault) -> None:
        if self._opening is not None and not self._opening.done():
            self._opening.set_exception(fault)
