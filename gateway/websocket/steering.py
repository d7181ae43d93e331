"""`response.steer`: the turns that follow a steered one by itself, where its upstream is asked over a socket.

| a steering                                           | then                                                        |
|------------------------------------------------------|-------------------------------------------------------------|
| of a turn that goes by POST, or whose state is kept  | `response.steer.failed`, `steering_not_supported`           |
| here                                                 |                                                             |
| of what does not run, of another response            | the same, `response_not_active`, `response_not_found`       |
| without an input                                     | the same, `invalid_input`                                   |
| behind too many that wait for their response         | the same, `too_many_pending_steers`                         |
| that its team cannot pay, or may not make            | the same, with that error; its upstream hears nothing of it |
| any other                                            | its successor is admitted, and then it is passed on         |

A successor is a turn of its own: request id, hold, settlement, log line. Its hold counts what was said so far as input,
and what the steered turn may still say. If none follows, nothing is charged. The lane's next turn waits for it.

One turn follows all steerings of a response. So each is admitted with the input of those before, whose holds end when
it is accepted. What waits for tool results goes before the input of the turn that continues the response: it is
remembered with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from gateway.concurrency.off_loop import LONG_BYTES
from gateway.errors import GatewayError
from gateway.protocol.lenient_json import dumps, parse_object
from gateway.state.items import Item, as_items, upstream_items
from gateway.types import Body, Headers
from gateway.upstream.websocket_steering import SteeringTransport
from gateway.websocket.memory import Remembered
from gateway.websocket.messages import (
    NOT_SUPPORTED,
    Message,
    in_lane,
    input_of,
    request_body,
    steer_failed,
)
from gateway.websocket.turn import Socket, SocketTurn, TurnHandler
from gateway.websocket.turn_client import TurnClient

_ERROR: Final = 400
_NOT_ACTIVE: Final = ("response_not_active", "No response that runs here has this id: send the input as a turn.")
_NOT_FOUND: Final = ("response_not_found", "The response that runs has another id.")
_NO_INPUT: Final = ("invalid_input", "'input' is a text, or a list of items that is not empty.")
_TOO_MANY: Final = ("too_many_pending_steers", "Too much steering waits for a response already.")


class SteerableSocket(Socket, Protocol):
    """The socket of the turns that are steered."""

    running: dict[str, SocketTurn]

    def followed(self, turn: SocketTurn, result: str) -> None:
        """A successor has ended. See `SocketTurn.run`."""


class _Following(NamedTuple):
    """A successor, and the future that ends with it."""

    turn: Successor
    ended: asyncio.Future[None]

    @property
    def waits(self) -> bool:
        """Whether it has not begun."""
        return self.turn.transport is None or self.turn.transport.turn is None


class Steering:
    """One socket's. State that changes: the successors of each lane that have not ended."""

    def __init__(self, socket: SteerableSocket, handler: TurnHandler, most: int, most_bytes: int) -> None:
        """`most`, `most_bytes`: how many steerings of a response may wait, and how many bytes they may have."""
        self._socket = socket
        self._handler = handler
        self._most = most
        self._most_bytes = most_bytes
        self._following: dict[str, list[_Following]] = {}

    def steer(self, message: Message) -> None:
        """A client's steering."""
        found = self._find(message)
        if not isinstance(found, SocketTurn):
            self._socket.connection.send([steer_failed(message, *found)])
            return
        lane = found.message.lane
        others = [one.turn for one in self._following.get(lane, ()) if one.waits and one.turn.steered is found]
        earlier = [*others[-1].earlier, others[-1]] if others else []
        waiting_bytes = sum(len(turn.steer.text) for turn in earlier)
        if len(earlier) >= self._most or waiting_bytes + len(message.text) > self._most_bytes:
            self._socket.connection.send([steer_failed(message, *_TOO_MANY)])
            return
        following = _Following(
            Successor(self._socket, found, message, earlier, self._handler),
            self._socket.connection.loop.create_future(),
        )
        self._following.setdefault(lane, []).append(following)
        self._socket.connection.spawn(self._follow(lane, following))

    async def finish(self, lane: str) -> None:
        """Waits until no successor of a lane's turn runs."""
        while following := self._following.get(lane):
            await following[0].ended

    async def _follow(self, lane: str, following: _Following) -> None:
        turn = following.turn
        try:
            if turn.earlier:
                await turn.earlier[-1].sent.wait()  # they are sent in the order in which they came
            self._socket.followed(turn, await turn.run())
        finally:
            turn.sent.set()
            self._following[lane].remove(following)
            if not self._following[lane]:
                del self._following[lane]
            following.ended.set_result(None)

    def _find(self, message: Message) -> SocketTurn | tuple[str, str]:
        """The turn that is steered, or why there is none."""
        successors = [one for following in self._following.values() for one in following]
        turns = [*self._socket.running.values(), *(one.turn for one in successors if not one.waits)]
        able = [turn for turn in turns if turn.may_be_steered]
        if not able:
            return NOT_SUPPORTED if turns or not list(self._socket.upstreams) else _NOT_ACTIVE
        over_sockets = [turn for turn in able if turn.is_steerable]
        named = [turn for turn in over_sockets if turn.upstream_response_id == message.previous_response_id]
        if not named:
            in_its_lane = any(turn.message.lane == message.lane for turn in over_sockets)
            return _NOT_FOUND if in_its_lane else _NOT_ACTIVE
        given = message.fields.get("input")
        return named[0] if isinstance(given, str | list) and given else _NO_INPUT


class Successor(SocketTurn):
    """The turn that follows a steered one. See `SocketTurn`. `earlier`: steerings of the same turn that came before.

    `sent`: is set when its steering has been sent, or will not be.
    """

    def __init__(
        self,
        socket: Socket,
        steered: SocketTurn,
        steer: Message,
        earlier: Sequence[Successor],
        handler: TurnHandler,
    ) -> None:
        fields = {**steered.message.fields, "previous_response_id": steered.upstream_response_id}
        super().__init__(socket, steered.message._replace(fields=fields), handler)
        self.steered = steered
        self.steer = steer
        self.earlier = earlier
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
            self._remember(self.steered.upstream_response_id, [])
        return result

    def window(self) -> tuple[Sequence[Item], str | None]:
        """See `SocketTurn.window`."""
        return self._window_after(self.steered.output_so_far())

    def _window_after(self, output: Sequence[Item]) -> tuple[Sequence[Item], str | None]:
        """The window, where the steered turn has put this out. In any thread."""
        before, base = self.steered.window()
        said = [item for turn in (*self.earlier, self) for item in as_items(input_of(turn.steer))]
        return [*before, *output, *said], base

    async def _prepare(self) -> Body:
        """What the hold is for: nothing of it is sent but the steering itself."""
        transport = self.steered.transport
        if transport is None or transport.turn is None or transport.socket is None:
            raise GatewayError("steering_failed", "The response that was to be steered has ended.")
        self.transport = SteeringTransport(
            transport.turn, transport.socket, self.steer.text, self._pass_on, self.steered.ended, self.sent
        )
        work = partial(self._body_after, self.steered.output_so_far())
        return await self._handler.snapshot.off_loop.run(work) if self.size > LONG_BYTES else work()

    def _body_after(self, output: Sequence[Item]) -> Body:
        items, base = self._window_after(output)
        sent = upstream_items(items, reasoning_ids=True)
        changes = {"previous_response_id": None if base is None else dumps(base), "input": dumps(sent)}
        return request_body(self.message, changes)

    def _client(self, body: Body | GatewayError) -> TurnClient:
        return _SuccessorClient(self._socket, body, self.steer, self)

    def _forget(self, previous: str) -> None:
        """The steered response stays what it is."""

    def _remember(self, response_id: str, output: Sequence[Item]) -> None:
        before, memory, said = self.steered.upstream_response_id, self._socket.memory, self._accepted()
        recalled = memory.recall(self.message.lane, before)
        items, base = (said, before) if recalled is None else ([*recalled.read(), *said], recalled.base)
        memory.remember(self.message.lane, Remembered.of(response_id, [*items, *output], base))

    def _accepted(self) -> list[Item]:
        """The input of the steerings that the provider has accepted, as far as they have not failed since."""
        sent = [
            (turn, turn.transport) for turn in (*self.earlier, self) if isinstance(turn.transport, SteeringTransport)
        ]
        failed = {identifier for _, transport in sent for identifier in transport.failed}
        accepted = [
            turn.steer for turn, transport in sent if transport.is_accepted and transport.identifier not in failed
        ]
        return [item for steer in accepted for item in as_items(input_of(steer))]

    def _pass_on(self, answer: bytes) -> None:
        """What the upstream says to the steering."""
        text = answer if answer.isascii() else answer.decode("utf-8", "replace").encode()
        self._socket.connection.send([in_lane(text, self.message.lane)])


class _SuccessorClient(TurnClient):
    """A successor's client: of one that does not begin it hears that the steering has failed."""

    __slots__ = ("_steer", "_successor")

    follows_answer = True

    def __init__(self, socket: Socket, body: Body | GatewayError, steer: Message, successor: Successor) -> None:
        scope, lane = socket.scope, successor.message.lane
        fields = dict(scope["headers"])
        super().__init__({**scope}, fields, body, lane, socket.connection, socket.watches, successor.note)
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
            told: Any = (parse_object(body) or {}).get("error")
            error = told if isinstance(told, dict) else {}
            self._send([steer_failed(self._steer, str(error.get("code")), str(error.get("message")))])
        self.ended = True
