"""The fields of an answer that the gateway changes when it keeps the state itself. Nothing else is changed. Pure.

| field                  | reason for the change                                                                     |
|------------------------|-------------------------------------------------------------------------------------------|
| `id`                   | the provider's id is unusable: no `resp_`, more than 64 characters, or already taken; or  |
|                        | foreign ids pass on the route (own_ids.py)                                                |
| `previous_response_id` | the provider did not receive it, and answers null                                         |
| `store`                | the provider received false, but clients continue a response only if it says true         |
| `conversation`         | the provider did not receive it                                                           |
| `background`           | the provider did not receive it                                                           |

These are fields of the response object, which is the JSON answer itself or an event's `response`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.protocol.json_splice import members, replace
from gateway.protocol.sse_framing import lf_lines
from gateway.state.items import Item
from gateway.state.large_work import dump_whole, parse_object_whole

MAX_ID_LENGTH: Final = 64
_ID: Final = re.compile(r"resp_[A-Za-z0-9_\-]{1,59}")
_HAS_RESPONSE: Final = b'"response"'


def is_usable_id(identifier: object) -> bool:
    """Whether a provider's response id can be passed on unchanged."""
    return isinstance(identifier, str) and _ID.fullmatch(identifier) is not None


def rewrite_response(text: bytes, changes: dict[str, Any]) -> bytes:
    """Returns a JSON response with these fields changed. Raises ValueError if the text is not a JSON object."""
    return replace(text, 0, {name: dump_whole(value) for name, value in changes.items()})


@dataclass(slots=True)
class Event:
    """One SSE event. `data` is its JSON, or None if it has none. `raw` is its bytes, including the blank line."""

    raw: bytes
    data: bytes | None
    fields: dict[str, Any] | None


def read_event(raw: bytes, *, whole: bool = False) -> Event:
    """Parses an event, but only if it can contain a response or an output item, or if `whole` is set."""
    if not whole and _HAS_RESPONSE not in raw and b"output_item.done" not in raw:
        return Event(raw, None, None)
    data = b"\n".join(line[5:].removeprefix(b" ") for line in _lines(raw) if line.startswith(b"data:"))
    return Event(raw, data, parse_object_whole(data) if data else None)


def rewrite_event(event: Event, changes: dict[str, Any]) -> bytes:
    """Returns the event with these fields of its response changed.

    An event without a response is returned unchanged.
    """
    data, fields = event.data, event.fields
    if data is None or fields is None or not isinstance(fields.get("response"), dict):
        return event.raw
    start = next(member.start for member in members(data) if member.name == "response")
    return with_data(event.raw, replace(data, start, {name: dump_whole(value) for name, value in changes.items()}))


def with_data(raw: bytes, data: bytes) -> bytes:
    """Returns an event with other data. Its other fields stay, in lines that end in LF."""
    lines = _lines(raw)
    first = next(at for at, line in enumerate(lines) if line.startswith(b"data:"))
    changed = [line for line in lines if not line.startswith(b"data:")]
    changed[first:first] = [b"data: " + line for line in data.split(b"\n")]
    return b"\n".join(changed)


def _lines(raw: bytes) -> list[bytes]:
    return lf_lines(raw).split(b"\n")


@dataclass(slots=True)
class OutputItems:
    """Collects the output of a streamed response: the terminal event's output, completed from the items' own events.

    Some providers leave `output` empty in the terminal event. Others put a reasoning item's encrypted content only
    there.
    """

    _done: dict[int, Item] = field(default_factory=dict)

    def note(self, fields: dict[str, Any]) -> None:
        """Records an event that has passed."""
        index, item = fields.get("output_index"), fields.get("item")
        if fields.get("type") == "response.output_item.done" and isinstance(index, int) and isinstance(item, dict):
            self._done[index] = item

    def merged(self, terminal: list[Any]) -> list[Item]:
        """Returns the items, given the terminal event's `output`."""
        length = max([len(terminal), *(index + 1 for index in self._done)])
        found = []
        for index in range(length):
            item = terminal[index] if index < len(terminal) else None
            done = self._done.get(index)
            if isinstance(item, dict) and item:
                found.append({**done, **item} if done and done.get("type") == item.get("type") else item)
            elif done is not None:
                found.append(done)
        return found
