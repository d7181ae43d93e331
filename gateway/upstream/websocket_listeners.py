"""The listeners of steered turns on one connection to an upstream, which get the upstream's answers to steerings.

Steerings of a lane are answered in the order in which they were sent. An accepted one gets an id, by which later
answers name it. One turn follows all accepted steerings. The latest of them waits for it, and replaces those before it.
"""

from __future__ import annotations

from typing import Protocol

from gateway.upstream.websocket_messages import ACCEPTED, UpstreamMessage
from gateway.upstream.websocket_turn import UpstreamTurn


class SteeringListener(Protocol):
    """Listens to the answers to a steering, and to the end of the steered turn. See websocket_steering.py.

    `ids`: the accepted steerings whose successor it awaits.
    """

    is_accepted: bool
    ids: set[str]

    def on_answer(self, message: UpstreamMessage) -> None:
        """A message about the steering has come."""

    def on_replaced(self) -> None:
        """Another listener waits in its place."""

    def on_turn_end(self, *, clean: bool) -> None:
        """The steered turn has ended. `clean`: by its last message, and not by a lost connection."""

    def successor(self) -> UpstreamTurn | None:
        """Returns the turn that begins now by itself, or None if none is awaited."""


class SteeringListeners:
    """The listeners of one connection. State that changes: the listeners by lane, in the order of their messages."""

    def __init__(self) -> None:
        self._lanes: dict[str, list[SteeringListener]] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(self, lane: str, listener: SteeringListener) -> None:
        """Adds the listener of a steering that is sent now."""
        self._lanes.setdefault(lane, []).append(listener)

    def remove(self, listener: SteeringListener) -> None:
        """Removes a listener that does not wait for a successor any more. Idempotent."""
        for lane, listeners in list(self._lanes.items()):
            if listener in listeners:
                listeners.remove(listener)
            if not listeners:
                del self._lanes[lane]

    def answer(self, message: UpstreamMessage, *, has_lanes: bool) -> None:
        """Passes an answer on to its listener. An answer without a listener is dropped."""
        listeners, identifier = self._in_lane(message.head.lane, has_lanes=has_lanes), message.identifier
        if not listeners:
            return
        unanswered = [listener for listener in listeners if not listener.is_accepted]
        if message.head.kind != ACCEPTED:
            named = [listener for listener in listeners if identifier in listener.ids]
            [*named, *unanswered, listeners[-1]][0].on_answer(message)
            return
        listener = [*unanswered, listeners[-1]][0]
        listener.on_answer(message)
        for before in [one for one in listeners if one.is_accepted and one is not listener]:
            listener.ids |= before.ids
            self.remove(before)
            before.on_replaced()

    def waiting(self, lane: str | None, *, has_lanes: bool) -> SteeringListener | None:
        """Returns the listener that waits for a turn of this lane."""
        listeners = self._in_lane(lane, has_lanes=has_lanes)
        return next(
            (listener for listener in reversed(listeners) if listener.is_accepted), listeners[0] if listeners else None
        )

    def turn_ended(self, lane: str) -> None:
        """Is called when the steered turn of a lane has ended by its last message."""
        for listener in self._lanes.get(lane, ()):
            listener.on_turn_end(clean=True)

    def end(self) -> None:
        """Is called when the connection has ended."""
        lanes, self._lanes = self._lanes, {}
        for listeners in lanes.values():
            for listener in listeners:
                listener.on_turn_end(clean=False)

    def _in_lane(self, lane: str | None, *, has_lanes: bool) -> list[SteeringListener]:
        if lane is not None:
            return self._lanes.get(lane, [])
        return self._lanes.get("") or ([] if has_lanes else next(iter(self._lanes.values()), []))
