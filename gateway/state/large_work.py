"""Long work on stored responses runs in a thread, in short calls, so that the event loop serves others meanwhile.

await LargeWork(off_loop).run(work, is_long=...)     runs work in a thread if it is long
is_long(value)                                       whether work on decoded JSON takes long
parse_whole(data), parse_object_whole(data)          parse like lenient_json, in slices
dump_whole(value)                                    serializes like lenient_json, member by member
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from gateway.concurrency.off_loop import LONG_BYTES, OffLoop
from gateway.protocol.byte_search import joined
from gateway.protocol.json_slices import parse_in_slices
from gateway.protocol.lenient_json import dumps, parse_json

T = TypeVar("T")

_NODE_BYTES: Final = 8
_LEVELS: Final = 6
"""A record, its input, an item, its content, a part. The content of a part is written in one call."""


class LargeWork:
    """Runs long work in a worker's threads. Without threads, all work runs at once."""

    def __init__(self, off_loop: OffLoop | None = None) -> None:
        self._off_loop = off_loop

    async def run(self, work: Callable[[], T], *, is_long: bool) -> T:
        """Returns the result of the work. Nobody else may change its data meanwhile."""
        if not is_long or self._off_loop is None:
            return work()
        return await self._off_loop.run(work)


def is_long(*values: object, max_bytes: int = LONG_BYTES) -> bool:
    """Whether reading or writing these values takes longer than the event loop should wait."""
    size, waiting = 0, list(values)
    while waiting and size <= max_bytes:
        value = waiting.pop()
        size += _NODE_BYTES
        if isinstance(value, (str, bytes, bytearray)):
            size += len(value)
        elif isinstance(value, (list, tuple)):
            size += _NODE_BYTES * len(value)
            waiting += value[: max_bytes // _NODE_BYTES]
        elif isinstance(value, dict):
            size += _NODE_BYTES * len(value)
            waiting += list(value.values()) if len(value) * _NODE_BYTES <= max_bytes else ()
    return size > max_bytes


def parse_whole(data: bytes) -> Any:
    """Parses a JSON value. Raises ValueError."""
    if len(data) <= LONG_BYTES or data.lstrip()[:1] not in (b"{", b"["):
        return parse_json(data)
    return parse_in_slices(data, parse_json).value


def parse_object_whole(data: bytes) -> dict[str, Any] | None:
    """Parses a JSON object. Returns None for anything else, and never raises."""
    try:
        value = parse_whole(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def dump_whole(value: Any) -> bytes:
    """Serializes a value."""
    if not is_long(value):
        return dumps(value)
    pieces: list[bytes] = []
    _dump(value, pieces, _LEVELS)
    return bytes(joined(pieces))


def _dump(value: Any, pieces: list[bytes], levels: int) -> None:
    if not (levels and value and isinstance(value, (list, tuple, dict))):
        pieces.append(dumps(value))
        return
    is_object = isinstance(value, dict)
    before = b"{" if is_object else b"["
    for key, member in value.items() if isinstance(value, dict) else ((None, one) for one in value):
        pieces.append(before if key is None else before + dumps(key) + b":")
        _dump(member, pieces, levels - 1)
        before = b","
    pieces.append(b"}" if is_object else b"]")
