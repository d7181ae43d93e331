"""What a large answer, or event, of a provider tells: read in slices, without what is only long. Pure; in any thread.

    read_large(data, most_values) -> dict              None: it is no JSON object
    read_large_event(event, most_values) -> name, dict

An answer of a provider goes on byte by byte, whatever is read of it. Of its strings a million characters matter, which
are more than a model writes: what is longer is a file. Of arrays of numbers, such as embeddings, only that they are
there matters. Of an answer with more than `most_values` arrays and objects the beginning is read, and its usage at the
end.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.protocol.json_slices import TooManyValues, parse_in_slices
from gateway.protocol.lenient_json import parse_json
from gateway.protocol.sse_framing import places_of_data
from gateway.protocol.usage_reader import find_usage

LARGE_BYTES: Final = 64 * 1024
"""Less is parsed in one go."""
DEFAULT_MOST_VALUES: Final = 1_000_000
_LONGEST_STRING: Final = 1_000_000
_TRAIL_BYTES: Final = 16_384
_BOM: Final = b"\xef\xbb\xbf"


def read_large(
    data: bytes, most_values: int = DEFAULT_MOST_VALUES, place: tuple[int, int] | None = None
) -> dict[str, Any] | None:
    """Reads a JSON object, which stands at `place` if not everywhere. Never raises."""
    start, end = place or (len(_BOM) if data.startswith(_BOM) else 0, len(data))
    try:
        value = parse_in_slices(
            data, parse_json, longest=_LONGEST_STRING, most_brackets=most_values, place=(start, end)
        ).value
    except TooManyValues as beginning:
        usage = find_usage(data[max(start, end - _TRAIL_BYTES) : end])
        response = beginning.found.get("response")
        inner = {**(response if isinstance(response, dict) else {}), "usage": usage}
        return {**beginning.found, "usage": usage, "response": inner}
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read_large_event(event: bytes, most_values: int) -> tuple[str, dict[str, Any] | None]:
    """Reads an event with LF lines: its name, and the JSON object in its data. Never raises."""
    name, places = places_of_data(event)
    if len(places) > 1:
        event = b"\n".join([event[start:end] for start, end in places])
        places = [(0, len(event))]
    return name, read_large(event, most_values, places[0]) if places else None
