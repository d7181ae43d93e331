"""The changes of an answer's output that compaction makes: the summary becomes an item, or precedes the output. Pure.

SummaryOutput(seal)       the answer is a summary, and its output becomes the one item that `seal` makes of it
PrefixedOutput(item)      the item precedes the provider's own items

change.whole(response)    the output of a JSON answer, or None if it stays unchanged
change.events(event)      the events that replace one of the provider's events, renumbered
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

from gateway.errors import GatewayError
from gateway.protocol.json_splice import members, replace
from gateway.protocol.lenient_json import dumps
from gateway.protocol.response_events import TERMINAL_EVENTS, TERMINAL_STATUSES
from gateway.state.compaction import summary_of
from gateway.state.items import Item
from gateway.state.rewriting import Event, OutputItems, read_event, with_data
from gateway.state.snapshot import failed_response

_DONE: Final = "completed"


class OutputChange(Protocol):
    """A change of an answer's output."""

    def whole(self, response: Mapping[str, Any]) -> list[Item] | None:
        """Returns the new output of a JSON answer, or None if it stays unchanged. Raises GatewayError."""

    def events(self, event: Event) -> list[Event]:
        """Returns the events that replace this one. Raises GatewayError."""


class _Renumbering:
    """Numbers the events anew, because some are added and some are left out. Mutable: the next number."""

    def __init__(self) -> None:
        self._next = 0

    def numbered(self, event: Event, changes: Mapping[str, bytes], output: list[Item] | None = None) -> Event:
        """Returns the event with its new number, with these changes, and with this output of its response."""
        if event.data is None:
            return event
        data = replace(event.data, 0, {**changes, "sequence_number": b"%d" % self._next})
        if output is not None:
            start = next(member.start for member in members(data) if member.name == "response")
            data = replace(data, start, {"output": dumps(output)})
        self._next += 1
        return read_event(with_data(event.raw, data), whole=True)

    def item_events(self, item: Item) -> Iterator[Event]:
        """Yields the events of an item that is the first one of the output."""
        for kind in ("response.output_item.added", "response.output_item.done"):
            yield self.own_event(kind, {"output_index": 0, "item": item})

    def own_event(self, kind: str, body: Mapping[str, Any]) -> Event:
        """Returns a numbered event of the gateway itself."""
        data = dumps({"type": kind, "sequence_number": self._next, **body})
        self._next += 1
        return read_event(b"event: %b\ndata: %b\n\n" % (kind.encode(), data), whole=True)


class SummaryOutput(_Renumbering):
    """Replaces the output of an answer that is a summary. `seal` makes the item. Mutable: the output so far."""

    def __init__(self, seal: Callable[[str], Item]) -> None:
        super().__init__()
        self._seal = seal
        self._output = OutputItems()

    def whole(self, response: Mapping[str, Any]) -> list[Item] | None:
        """See `OutputChange`. An answer that is not complete stays unchanged."""
        return [self._seal(summary_of(response))] if response.get("status") == _DONE else None

    def events(self, event: Event) -> list[Event]:
        """See `OutputChange`. The events of the summary's own items are left out."""
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
                self.own_event(
                    TERMINAL_EVENTS["failed"], {"response": failed_response(response, error.code, error.message)}
                )
            ]
        return [*self.item_events(item), self.numbered(event, {}, [item])]


class PrefixedOutput(_Renumbering):
    """Adds an item before the output. Mutable: whether it has been sent."""

    def __init__(self, item: Item) -> None:
        super().__init__()
        self._item = item
        self._shown = False

    def whole(self, response: Mapping[str, Any]) -> list[Item] | None:
        """See `OutputChange`."""
        output = response.get("output")
        return [self._item, *(output if isinstance(output, list) else [])]

    def events(self, event: Event) -> list[Event]:
        """See `OutputChange`. The indexes of the provider's items grow by one."""
        fields = event.fields
        if fields is None:
            return [event]
        index, response = fields.get("output_index"), fields.get("response")
        ends = isinstance(response, dict) and fields.get("type") in TERMINAL_STATUSES
        before: list[Event] = []
        if not self._shown and (ends or isinstance(index, int)):
            self._shown = True
            before = list(self.item_events(self._item))
        if ends and isinstance(response, dict):
            return [*before, self.numbered(event, {}, self.whole(response))]
        moved = {"output_index": b"%d" % (index + 1)} if isinstance(index, int) else {}
        return [*before, self.numbered(event, moved)]
