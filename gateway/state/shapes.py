"""What compaction changes in an answer's output: the summary becomes an item, or an item goes before the output. Pure.

Summarised(seal)     the answer is a summary: its output is the one item that `seal` makes of it
Preceded(item)       the item is the first of the output, and the provider's own follow it

shape.whole(response)     the output of a JSON answer, or None if it stays
shape.events(event)       the events in the place of one of the provider's, renumbered
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

from gateway.errors import GatewayError
from gateway.protocol.json_splice import members, replace
from gateway.protocol.lenient_json import dumps
from gateway.protocol.response_events import TERMINAL_STATUSES
from gateway.state.compaction import summary_of
from gateway.state.items import Item
from gateway.state.rewriting import Event, OutputItems, read_event, with_data
from gateway.state.snapshot import failed_response

_DONE: Final = "completed"


class Shape(Protocol):
    """A change of an answer's output."""

    def whole(self, response: Mapping[str, Any]) -> list[Item] | None:
        """Returns the output that a JSON answer is shown with, or None if it stays. Raises GatewayError."""

    def events(self, event: Event) -> list[Event]:
        """Returns the events that are shown in the place of this one. Raises GatewayError."""


class _Renumbered:
    """Numbers the events anew, because some are added and some left out. Mutable: the next number."""

    def __init__(self) -> None:
        self._next = 0

    def numbered(self, event: Event, changes: Mapping[str, bytes], output: list[Item] | None = None) -> Event:
        """Returns the event with its number, these fields, and this output of its response."""
        if event.data is None:
            return event
        data = replace(event.data, 0, {**changes, "sequence_number": b"%d" % self._next})
        if output is not None:
            start = next(member.start for member in members(data) if member.name == "response")
            data = replace(data, start, {"output": dumps(output)})
        self._next += 1
        return read_event(with_data(event.raw, data), whole=True)

    def made(self, item: Item) -> Iterator[Event]:
        """Yields the events of an item that is the first of the output."""
        for kind in ("response.output_item.added", "response.output_item.done"):
            yield self.made_event(kind, {"output_index": 0, "item": item})

    def made_event(self, kind: str, body: Mapping[str, Any]) -> Event:
        """Returns an event of the gateway's own, with its number."""
        data = dumps({"type": kind, "sequence_number": self._next, **body})
        self._next += 1
        return read_event(b"event: %b\ndata: %b\n\n" % (kind.encode(), data), whole=True)


class Summarised(_Renumbered):
    """The answer is a summary. `seal` makes the item of its text. Mutable: the output so far."""

    def __init__(self, seal: Callable[[str], Item]) -> None:
        super().__init__()
        self._seal = seal
        self._output = OutputItems()

    def whole(self, response: Mapping[str, Any]) -> list[Item] | None:
        """See `Shape`. An answer that is not complete is shown as it is."""
        return [self._seal(summary_of(response))] if response.get("status") == _DONE else None

    def events(self, event: Event) -> list[Event]:
        """See `Shape`. The events of the summary's own items are left out."""
        fields = event.fields
        if fields is None:
            return [event]
        self._output.note(fields)
        kind, response = fields.get("type"), fields.get("response")
        if kind == "error":
            return [self.numbered(event, {})]
        if not isinstance(response, dict):
            return []
        if TERMINAL_STATUSES.get(str(kind)) != _DONE:
            return [self.numbered(event, {})]
        output = response.get("output")
        merged = self._output.merged(output if isinstance(output, list) else [])
        try:
            item = self._seal(summary_of({**response, "output": merged}))
        except GatewayError as error:
            return [
                self.made_event("response.failed", {"response": failed_response(response, error.code, error.message)})
            ]
        return [*self.made(item), self.numbered(event, {}, [item])]


class Preceded(_Renumbered):
    """An item goes before the output. Mutable: whether it has been shown."""

    def __init__(self, item: Item) -> None:
        super().__init__()
        self._item = item
        self._shown = False

    def whole(self, response: Mapping[str, Any]) -> list[Item] | None:
        """See `Shape`."""
        output = response.get("output")
        return [self._item, *(output if isinstance(output, list) else [])]

    def events(self, event: Event) -> list[Event]:
        """See `Shape`. The provider's items move on by one place."""
        fields = event.fields
        if fields is None:
            return [event]
        index, response = fields.get("output_index"), fields.get("response")
        ends = isinstance(response, dict) and fields.get("type") in TERMINAL_STATUSES
        before: list[Event] = []
        if not self._shown and (ends or isinstance(index, int)):
            self._shown = True
            before = list(self.made(self._item))
        if ends and isinstance(response, dict):
            return [*before, self.numbered(event, {}, self.whole(response))]
        moved = {"output_index": b"%d" % (index + 1)} if isinstance(index, int) else {}
        return [*before, self.numbered(event, moved)]
