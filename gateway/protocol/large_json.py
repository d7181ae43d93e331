"""Reads a large answer or event in slices, without the contents of long values. Pure; runs in any thread.

    read_large(data, max_values) -> dict              None: it is no JSON object
    read_large_event(event, max_values) -> name, dict

This does not change what the client gets. Strings are cut to a million characters, because a longer one is a file and
no text of a model. Arrays of numbers, such as embeddings, are cut because only their presence matters. If an answer has
more than `max_values` arrays and objects, its beginning is read, and the usage at its end.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.protocol.byte_search import joined
from gateway.protocol.json_slices import TooManyValues, parse_in_slices
from gateway.protocol.lenient_json import parse_json
from gateway.protocol.sse_framing import places_of_data
from gateway.protocol.usage_reader import find_usage
from gateway.types import Body

LARGE_BYTES: Final = 64 * 1024
"""Smaller answers and events are parsed in one call."""
DEFAULT_MAX_VALUES: Final = 1_000_000
_MAX_STRING_CHARACTERS: Final = 1_000_000
_END_BYTES: Final = 16_384
_BOM: Final = b"\xef\xbb\xbf"


def read_large(
    data: Body, max_values: int = DEFAULT_MAX_VALUES, place: tuple[int, int] | None = None
) -> dict[str, Any] | None:
    """Reads a JSON object. `place` is its start and end, or None if it is all of `data`. Never raises."""
    start, end = place or (len(_BOM) if data.startswith(_BOM) else 0, len(data))
    try:
        value = parse_in_slices(
            data, parse_json, max_characters=_MAX_STRING_CHARACTERS, max_brackets=max_values, place=(start, end)
        ).value
    except TooManyValues as beginning:
        usage = find_usage(bytes(data[max(start, end - _END_BYTES) : end]))
        response = beginning.found.get("response")
        inner = {**(response if isinstance(response, dict) else {}), "usage": usage}
        return {**beginning.found, "usage": usage, "response": inner}
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read_large_event(event: Body, max_values: int) -> tuple[str, dict[str, Any] | None]:
    """Returns the name of an event with LF line ends, and the JSON object in its data. Never raises."""
    name, places = places_of_data(event)
    if len(places) > 1:
        view = memoryview(event)
        event = joined([piece for start, end in places for piece in (view[start:end], b"\n")])
        places = [(0, len(event))]
    return name, read_large(event, max_values, places[0]) if places else None
