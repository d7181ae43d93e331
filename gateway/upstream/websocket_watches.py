"""Who steers the turns of one connection to an upstream, and whose its answers to that are.

Steerings of a lane are answered in the order in which they were sent. One that is accepted gets an id, by which later
answers name it. One turn follows all that were accepted: the latest of them waits for it, in place of those before it.
"""

from __future__ import annotations

from typing import Protocol

from gateway.upstream.websocket_messages import ACCEPTED, Told, steer_id
from gateway.upstream.websocket_turn import UpstreamTurn


class SteeringWatch(Protocol):
    """Whoever steers a lane's turn: websocket_steering.py. `ids`: of the accepted steerings for which it waits."""

    is_accepted: bool
    ids: set[str]

    def on_answer(self, told: Told, message: bytes, identifier: str) -> None:
        """A message about the steering has come."""

    def on_replaced(self) -> None:
        """Another one waits in its place."""

    def on_turn_end(self, *, clean: bool) -> None:
        """The turn that is steered has ended. `clean`: by its last message."""

    def successor(self) -> UpstreamTurn | None:
        """The turn that may begin now by itself."""


class Watches:
    """Those of one connection. State that changes: they, by lane, in the order of their messages."""

    def __init__(self) -> None:
        self._lanes: dict[str, list[SteeringWatch]] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(self, lane: str, watch: SteeringWatch) -> None:
        """Its message is sent now."""
        self._lanes.setdefault(lane, []).append(watch)

    def remove(self, watch: SteeringWatch) -> None:
        """Nobody waits for its successor any more. Idempotent."""
        for lane, watches in list(self._lanes.items()):
            if watch in watches:
                watches.remove(watch)
            if not watches:
                del self._lanes[lane]

    def answer(self, told: Told, message: bytes, *, has_lanes: bool) -> None:
        """Tells whom an answer is for. One that is for nobody is dropped."""
        watches, identifier = self._of(told.lane, has_lanes=has_lanes), steer_id(message)
        if not watches:
            return
        unanswered = [watch for watch in watches if not watch.is_accepted]
        if told.kind != ACCEPTED:
            named = [watch for watch in watches if identifier in watch.ids]
            [*named, *unanswered, watches[-1]][0].on_answer(told, message, identifier)
            return
        watch = [*unanswered, watches[-1]][0]
        watch.on_answer(told, message, identifier)
        for before in [one for one in watches if one.is_accepted and one is not watch]:
            watch.ids |= before.ids
            self.remove(before)
            before.on_replaced()

    def waiting(self, lane: str | None, *, has_lanes: bool) -> SteeringWatch | None:
        """Returns the one for whom a turn of this lane begins by itself."""
        watches = self._of(lane, has_lanes=has_lanes)
        return next((watch for watch in reversed(watches) if watch.is_accepted), watches[0] if watches else None)

    def turn_ended(self, lane: str) -> None:
        """The turn that was steered in a lane has ended by its last message."""
        for watch in self._lanes.get(lane, ()):
            watch.on_turn_end(clean=True)

    def end(self) -> None:
        """The connection has ended."""
        lanes, self._lanes = self._lanes, {}
        for watches in lanes.values():
            for watch in watches:
                watch.on_turn_end(clean=False)

    def _of(self, lane: str | None, *, has_lanes: bool) -> list[SteeringWatch]:
        if lane is not None:
            return self._lanes.get(lane, [])
        return self._lanes.get("") or ([] if has_lanes else next(iter(self._lanes.values()), []))
