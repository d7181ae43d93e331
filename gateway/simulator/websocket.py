"""WebSocket mode of the simulator, at GET /v1/responses with an upgrade (OpenResponses, 2026-04-24).

| a message                              | answer                                                                   |
|----------------------------------------|--------------------------------------------------------------------------|
| `response.create`                      | the events of POST's stream as messages, after earlier turns of its lane |
| the same, invalid or with `background` | `error`, with a status                                                   |
| `response.steer` of a running turn     | `response.steer.accepted`; the turn ends as incomplete, "steered", and   |
|                                        | its successor follows                                                    |
| `response.steer` of any other turn     | `response.steer.failed`                                                  |
| any other type                         | `error`                                                                  |

A connection remembers the last response of each lane, also with `store: false`. `cut` closes it with 1011, `end` with
1000.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

import orjson
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.simulator.events import frames, item_object, response_object
from gateway.simulator.plan import Plan, make_plan, steered_plan
from gateway.simulator.record import Received, Stored
from gateway.simulator.request import JsonObject, ProviderError, Request, input_items, parse_object, parse_request

_NOT_OF_A_BODY: Final = ("type", "stream_id", "stream", "stream_options")
_DATA: Final = b"data: "
_MS_PER_S: Final = 1000
_GOING: Final = 1000
_BROKEN: Final = 1011
_NO_TURN: Final = ("response_not_active", "No response that runs here has this id")


class Memory(Protocol):
    """The methods of the simulator that a connection needs."""

    def remember(self, record: Received) -> None:
        """Records a received request."""

    def earlier_tokens(self, request: Request, remembered: Mapping[str, Stored]) -> int:
        """Returns the tokens of the conversation that a request continues. Raises `ProviderError`."""

    def keep(self, plan: Plan, size_bytes: int) -> Stored:
        """Keeps a response."""


class _Ended(Exception):
    """The connection is to be closed, with this code."""


class _Turn:
    """A running turn. Mutable: the input that steers it."""

    def __init__(self, plan: Plan, lane: str) -> None:
        self.plan = plan
        self.lane = lane
        self.input: list[JsonObject] = []
        self.is_steered = asyncio.Event()


class WebSocketMode:
    """Answers upgrades. `check_key` raises `ProviderError`. `offered`: whether upgrades are accepted."""

    def __init__(
        self, memory: Memory, check_key: Callable[[Callable[[bytes], bytes | None]], None], *, offered: bool
    ) -> None:
        self._memory = memory
        self._check_key = check_key
        self._offered = offered

    async def serve(self, websocket: WebSocket) -> None:
        """Serves one upgrade and its connection until the end."""
        try:
            self._check(dict(websocket.scope["headers"]))
        except ProviderError as error:
            await websocket.send_denial_response(Response(error.body(), error.status, media_type="application/json"))
            return
        await websocket.accept()
        await _Connection(websocket, self._memory).run()

    def _check(self, headers: dict[bytes, bytes]) -> None:
        if not self._offered:
            raise ProviderError("unknown_url", "There is no WebSocket mode here", status=404, type_="not_found")
        self._check_key(headers.get)


class _Connection:
    """One connection. Mutable: the running turns and the remembered response of each lane; tasks."""

    def __init__(self, websocket: WebSocket, memory: Memory) -> None:
        self._websocket = websocket
        self._memory = memory
        self._running: dict[str, _Turn] = {}
        self._remembered: dict[str, Stored] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Receives messages until the client leaves."""
        try:
            while True:
                await self._take((await self._websocket.receive_text()).encode())
        except (WebSocketDisconnect, RuntimeError):  # Starlette raises the latter after a close by this side
            return
        finally:
            for task in self._tasks:
                task.cancel()

    async def _take(self, text: bytes) -> None:
        try:
            fields = parse_object(text)
            kind, lane = fields.get("type"), str(fields.get("stream_id") or "")
            if kind == "response.steer":
                await self._steer(fields, lane)
                return
        except ProviderError as error:
            await self._refuse(error, "")
            return
        if kind != "response.create":
            await self._refuse(ProviderError("invalid_field", f"There is no message {kind!r}", param="type"), lane)
            return
        task = asyncio.create_task(self._in_turn(fields, lane, text))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _in_turn(self, fields: JsonObject, lane: str, text: bytes) -> None:
        record = Received("WS", self._websocket.scope["path"], "", list(self._websocket.scope["headers"]), text)
        self._memory.remember(record)
        async with self._locks.setdefault(lane, asyncio.Lock()):
            try:
                await self._answer(fields, lane, len(text))
                record.status = 200
            except ProviderError as error:
                record.status = error.status
                await self._refuse(error, lane)
            except _Ended as ended:
                await self._websocket.close(ended.args[0])
            finally:
                self._running.pop(lane, None)
                record.finished = True

    async def _answer(self, fields: JsonObject, lane: str, size_bytes: int) -> None:
        if fields.get("background"):
            raise ProviderError("invalid_field", "background is for POST alone", param="background")
        body = {name: value for name, value in fields.items() if name not in _NOT_OF_A_BODY}
        request = replace(parse_request(orjson.dumps(body)), stream=True)
        behaviour = request.behaviour
        if behaviour.stall_head:
            await asyncio.Event().wait()
        if (status := behaviour.error_status or (500 if behaviour.canned else None)) is not None:
            raise ProviderError("simulated_error", f"{request.model} answers {status}", status=status)
        plan = make_plan(request, self._memory.earlier_tokens(request, self._remembered))
        while True:
            self._running[lane] = turn = _Turn(plan, lane)
            stored = self._memory.keep(plan, size_bytes) if request.store else Stored(plan)
            shown = await self._send_events(turn)
            self._remembered[lane] = stored
            stored.plan = shown
            if not turn.is_steered.is_set():
                return
            said = (*shown.request.items, *map(item_object, shown.items), *turn.input)
            plan = make_plan(replace(shown.request, items=said))

    async def _send_events(self, turn: _Turn) -> Plan:
        """Sends a plan's events. Returns the plan as it was sent: a shorter one if the turn was steered."""
        behaviour, count, tokens = turn.plan.request.behaviour, 0, 0
        stops = {behaviour.cut_after: _BROKEN, behaviour.end_after: _GOING}
        for frame in frames(turn.plan, well_behaved=True):
            if count in stops:
                raise _Ended(stops[count])
            if count == behaviour.stall_after:
                await asyncio.Event().wait()
            if frame.is_token:
                await self._wait_for_token(turn, behaviour.token_delay_ms)
                if turn.is_steered.is_set():
                    cut = steered_plan(turn.plan, tokens)
                    last = {"type": "response.incomplete", "sequence_number": frame.sequence_number}
                    await self._send(orjson.dumps({**last, "response": response_object(cut)}), turn.lane)
                    return cut
                tokens += 1
            await self._send(frame.data[frame.data.index(_DATA) + len(_DATA) :].rstrip(b"\n"), turn.lane)
            count += 1
        if count in stops:
            raise _Ended(stops[count])
        return turn.plan

    @staticmethod
    async def _wait_for_token(turn: _Turn, delay_ms: int) -> None:
        if delay_ms:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(turn.is_steered.wait(), delay_ms / _MS_PER_S)

    async def _steer(self, fields: JsonObject, lane: str) -> None:
        previous = fields.get("previous_response_id")
        steer: JsonObject = {"previous_response_id": previous}
        turn = next((one for one in self._running.values() if one.plan.id == previous), None)
        try:
            items, error = input_items(fields), None if turn is not None else _NO_TURN
        except ProviderError as refused:
            items, error = (), ("invalid_input", str(refused))
        if turn is None or error is not None:
            code, text = error or _NO_TURN
            told = {"type": "invalid_request_error", "code": code, "message": text}
            event = {"steer": {**steer, "input": fields.get("input")}, "error": told}
            await self._send(orjson.dumps({"type": "response.steer.failed", "sequence_number": 0, **event}), lane)
            return
        steer["id"] = f"steer_{secrets.token_hex(12)}"
        accepted = {"type": "response.steer.accepted", "sequence_number": 0, "steer": steer}
        await self._send(orjson.dumps(accepted), turn.lane)
        turn.input += items
        turn.is_steered.set()

    async def _refuse(self, error: ProviderError, lane: str) -> None:
        event = {"type": "error", "status": error.status, **parse_object(error.body())}
        await self._send(orjson.dumps(event), lane)

    async def _send(self, message: bytes, lane: str) -> None:
        if lane:
            message = message[:-1] + b',"stream_id":' + orjson.dumps(lane) + b"}"
        await self._websocket.send_text(message.decode())
