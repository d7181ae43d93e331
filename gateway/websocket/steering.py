"""`response.steer`: steers a running turn that was sent by WebSocket to its upstream.

Another turn follows it by itself.

| a steering                                           | what happens                                                |
|------------------------------------------------------|-------------------------------------------------------------|
| the turn was sent by POST, or the gateway keeps its  | `response.steer.failed` with `steering_not_supported`       |
| state                                                |                                                             |
| no turn runs, or it has another response             | the same with `response_not_active`, `response_not_found`   |
| it has no input                                      | the same with `invalid_input`                               |
| too many steerings of the response wait              | the same with `too_many_pending_steers`                     |
| its team cannot pay for it, or may not make it       | the same with that error; the upstream does not get it      |
| any other                                            | its successor is admitted, and then it is passed on         |

A successor is a turn of its own, with a request id, a hold, a settlement and a log line. Its hold covers the
conversation so far as input, and what the steered turn may still put out. If no turn follows, nothing is charged. The
next turn of the lane waits for the successor.

One turn follows all steerings of a response. Each of them is therefore admitted with the input of those before, whose
holds end when it is accepted. If the provider waits for tool results, the input of the steerings is remembered, and
precedes the input of the turn that continues the response.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from gateway.concurrency.off_loop import LONG_BYTES
from gateway.errors import GatewayError
from gateway.protocol.byte_search import as_utf8
from gateway.protocol.lenient_json import dumps, parse_object
from gateway.state.items import Item, as_items, upstream_items
from gateway.types import Body, Headers
from gateway.upstream.websocket_steering import SteeringTransport
from gateway.websocket.memory import Remembered
from gateway.websocket.messages import (
    NOT_SUPPORTED,
    Message,
    input_of,
    request_body,
    steer_failed,
    with_lane,
)
from gateway.websocket.steering_answers import SteeringAnswers
from gateway.websocket.turn import Socket, SocketTurn, TurnHandler
from gateway.websocket.turn_client import TurnClient

_ERROR: Final = 400
_NOT_ACTIVE: Final = ("response_not_active", "No response that runs here has this id: send the input as a turn.")
_NOT_FOUND: Final = ("response_not_found", "The response that runs has another id.")
_NO_INPUT: Final = ("invalid_input", "'input' is a text, or a list of items that is not empty.")
_TOO_MANY: Final = ("too_many_pending_steers", "Too much steering waits for a response already.")


class SteerableSocket(Socket, Protocol):
    """The session of steered turns."""

    running: dict[str, SocketTurn]

    def successor_ended(self, turn: SocketTurn, result: str) -> None:
        """A successor has ended. See `SocketTurn.run`."""


class _PendingSuccessor(NamedTuple):
    """A successor, and the future that ends with it."""

    turn: Successor
    ended: asyncio.Future[None]

    @property
    def waits(self) -> bool:
        """Whether the successor has not begun yet."""
        return self.turn.transport is None or self.turn.transport.turn is None


class Steering:
    """Steers the turns of one WebSocket. State that changes: the successors in each lane that have not ended."""

    def __init__(self, socket: SteerableSocket, handler: TurnHandler, max_waiting: int, max_waiting_bytes: int) -> None:
        """`max_waiting`, `max_waiting_bytes`: how many steerings of a response may wait, and their size together."""
        self._socket = socket
        self._handler = handler
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._pending: dict[str, list[_PendingSuccessor]] = {}
        self._answers = SteeringAnswers(socket.connection, handler.snapshot.off_loop)

    def steer(self, message: Message) -> None:
        """Handles a client's steering."""
        found = self._find(message)
        if not isinstance(found, SocketTurn):
            self._refuse(message, found)
            return
        lane = found.message.lane
        others = [one.turn for one in self._pending.get(lane, ()) if one.waits and one.turn.steered is found]
        earlier = [*others[-1].earlier, others[-1]] if others else []
        waiting_bytes = sum(len(turn.steer.text) for turn in earlier)
        if len(earlier) >= self._max_waiting or waiting_bytes + len(message.text) > self._max_waiting_bytes:
            self._refuse(message, _TOO_MANY)
            return
        pending = _PendingSuccessor(
            Successor(self._socket, found, message, earlier, self._handler, self._answers),
            self._socket.connection.loop.create_future(),
        )
        self._pending.setdefault(lane, []).append(pending)
        self._socket.connection.spawn(self._follow(lane, pending))

    def _refuse(self, message: Message, reason: tuple[str, str]) -> None:
        self._answers.send(partial(steer_failed, message, *reason), len(message.text))

    async def finish(self, lane: str) -> None:
        """Waits until no successor of a lane's turn runs."""
        while pending := self._pending.get(lane):
            await pending[0].ended

    async def _follow(self, lane: str, pending: _PendingSuccessor) -> None:
        turn = pending.turn
        try:
            if turn.earlier:
                await turn.earlier[-1].sent.wait()  # steerings are sent in the order in which they came
            self._socket.successor_ended(turn, await turn.run())
        finally:
            turn.sent.set()
            self._pending[lane].remove(pending)
            if not self._pending[lane]:
                del self._pending[lane]
            pending.ended.set_result(None)

    def _find(self, message: Message) -> SocketTurn | tuple[str, str]:
        """Returns the turn to steer, or the code and message of a refusal."""
        successors = [one for pending in self._pending.values() for one in pending]
        turns = [*self._socket.running.values(), *(one.turn for one in successors if not one.waits)]
        able = [turn for turn in turns if turn.may_be_steered]
        if not able:
            return NOT_SUPPORTED if turns or not list(self._socket.upstreams) else _NOT_ACTIVE
        steerable = [turn for turn in able if turn.is_steerable]
        named = [turn for turn in steerable if turn.upstream_response_id == message.previous_response_id]
        if not named:
            in_its_lane = any(turn.message.lane == message.lane for turn in steerable)
            return _NOT_FOUND if in_its_lane else _NOT_ACTIVE
        given = message.fields.get("input")
        return named[0] if isinstance(given, str | list) and given else _NO_INPUT


class Successor(SocketTurn):
    """The turn that follows a steered turn. See `SocketTurn`. `earlier`: the successors of its earlier steerings.

    `sent` is set when its steering has been sent, or will not be sent.
    """

    def __init__(
        self,
        socket: Socket,
        steered: SocketTurn,
        steer: Message,
        earlier: Sequence[Successor],
        handler: TurnHandler,
        answers: SteeringAnswers,
    ) -> None:
        fields = {**steered.message.fields, "previous_response_id": steered.upstream_response_id}
        super().__init__(socket, steered.message._replace(fields=fields), handler)
        self.steered = steered
        self.steer = steer
        self.earlier = earlier
        self.answers = answers
        self.sent = asyncio.Event()
        self.rule = steered.rule

    @property
    def size(self) -> int:
        """See `SocketTurn.size`."""
        return super().size + self.steered.size + sum(len(turn.steer.text) for turn in (*self.earlier, self))

    async def run(self) -> str:
        """See `SocketTurn.run`."""
        result = await super().run()
        if isinstance(self.transport, SteeringTransport) and self.transport.is_pending:
            entry = self._entry(self.steered.upstream_response_id, [])
            self.remember(await self.off_loop.run(entry) if self.size > LONG_BYTES else entry())
        return result

    def window(self) -> tuple[Sequence[Item], str | None]:
        """See `SocketTurn.window`."""
        return self._window_after(self.steered.output_so_far())

    def _window_after(self, output: Sequence[Item]) -> tuple[Sequence[Item], str | None]:
        """Returns the window after this output of the steered turn. May run in any thread."""
        before, base = self.steered.window()
        steering_input = [item for turn in (*self.earlier, self) for item in as_items(input_of(turn.steer))]
        return [*before, *output, *steering_input], base

    async def _prepare(self) -> Body:
        """Returns the body for the hold. Only the steering itself is sent."""
        transport = self.steered.transport
        if transport is None or transport.turn is None or transport.socket is None:
            raise GatewayError("steering_failed", "The response that was to be steered has ended.")
        self.transport = SteeringTransport(
            transport.turn, transport.socket, self.steer.text, self._pass_on, self.steered.ended, self.sent
        )
        work = partial(self._body_after, self.steered.output_so_far())
        return await self.off_loop.run(work) if self.size > LONG_BYTES else work()

    def _body_after(self, output: Sequence[Item]) -> Body:
        items, base = self._window_after(output)
        sent = upstream_items(items, reasoning_ids=True)
        changes = {"previous_response_id": None if base is None else dumps(base), "input": dumps(sent)}
        return request_body(self.message, changes)

    def _client(self, body: Body | GatewayError) -> TurnClient:
        return _SuccessorClient(self._socket, body, self.steer, self)

    def _forget(self, previous: str) -> None:
        """Evicts nothing, because the steered response can still be continued."""

    def _entry(self, response_id: str, output: Sequence[Item]) -> Callable[[], Remembered]:
        """See `SocketTurn._entry`."""
        before, accepted = self.steered.upstream_response_id, self._accepted()
        recalled = self._socket.memory.recall(self.message.lane, before)

        def entry() -> Remembered:
            steering_input = [item for steer in accepted for item in as_items(input_of(steer))]
            if recalled is None:
                return Remembered.of(response_id, [*steering_input, *output], before)
            return Remembered.of(response_id, [*recalled.read(), *steering_input, *output], recalled.base)

        return entry

    def _accepted(self) -> list[Message]:
        """Returns the steerings that the provider has accepted and that have not failed since."""
        sent = [
            (turn, turn.transport) for turn in (*self.earlier, self) if isinstance(turn.transport, SteeringTransport)
        ]
        failed = {identifier for _, transport in sent for identifier in transport.failed}
        return [turn.steer for turn, transport in sent if transport.is_accepted and transport.identifier not in failed]

    def _pass_on(self, answer: bytes) -> None:
        """Passes an answer of the upstream to the steering on to the client."""
        lane = self.message.lane
        self.answers.send(lambda: with_lane(as_utf8(answer), lane), len(answer))


class _SuccessorClient(TurnClient):
    """The client of a successor. If the successor does not begin, the client gets `response.steer.failed`."""

    __slots__ = ("_steer", "_successor")

    follows_answer = True

    def __init__(self, socket: Socket, body: Body | GatewayError, steer: Message, successor: Successor) -> None:
        scope, lane = socket.scope, successor.message.lane
        fields = dict(scope["headers"])
        super().__init__({**scope}, fields, body, lane, socket, successor, successor.off_loop)
        self._steer = steer
        self._successor = successor

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Client`."""
        transport = self._successor.transport
        if status < _ERROR or (transport is not None and transport.turn is not None):
            await super().answer(status, headers, body)
            return
        self.status = self.failed = status
        self.is_unauthorized = status == 401  # noqa: PLR2004 - HTTP's
        if not (isinstance(transport, SteeringTransport) and transport.client_informed):
            fields: Any = (parse_object(body) or {}).get("error")
            error = fields if isinstance(fields, dict) else {}
            make = partial(steer_failed, self._steer, str(error.get("code")), str(error.get("message")))
            self._count_sent(await self._successor.answers.send_whole(make, len(self._steer.text)))
        self.ended = True
