"""What the simulator remembers: the last requests for tests, the last responses for `GET`.

Both live in the application object and are bounded in number and in bytes; the oldest go first.
"""

from __future__ import annotations

import base64
import hashlib
import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from gateway.simulator.plan import Plan
from gateway.simulator.request import JsonObject

Value = TypeVar("Value")

MAX_REQUESTS: Final = 1_000
MAX_RESPONSES: Final = 1_000
MAX_BYTES: Final = 64 * 1024 * 1024


class Recent(Generic[Value]):
    """The newest values by key, at most `max_entries` of them and `max_bytes` in sum. Mutable."""

    def __init__(self, max_entries: int, max_bytes: int = MAX_BYTES) -> None:
        """The newest value is always kept, however large."""
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._entries: OrderedDict[str, tuple[Value, int]] = OrderedDict()

    def add(self, key: str, value: Value, size_bytes: int) -> None:
        """Keep a value, and forget the oldest that no longer fit."""
        self._entries[key] = (value, size_bytes)
        self._size_bytes += size_bytes
        while len(self._entries) > 1 and (len(self._entries) > self._max_entries or self._size_bytes > self._max_bytes):
            self._size_bytes -= self._entries.popitem(last=False)[1][1]

    def get(self, key: str) -> Value | None:
        """The value, or None when it is unknown or forgotten."""
        entry = self._entries.get(key)
        return entry[0] if entry else None

    def remove(self, key: str) -> None:
        """Forget one value."""
        self._size_bytes -= self._entries.pop(key)[1]

    def newest(self, limit: int) -> list[Value]:
        """The last values, oldest of them first."""
        return [value for value, _ in list(self._entries.values())[-limit:]] if limit > 0 else []


class Digest(Protocol):
    """A hash that is computed incrementally, like those of hashlib."""

    def update(self, data: bytes, /) -> None:
        """Adds bytes."""

    def hexdigest(self) -> str:
        """Returns the hash of all bytes so far."""


@dataclass(slots=True)
class Received:
    """One received request and its result. Mutable until `finished`.

    `client_left`: the connection was closed before the end of the answer. `sent` hashes the answer's body.
    """

    method: str
    path: str
    query: str
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    status: int | None = None
    sent: Digest = field(default_factory=hashlib.sha256)
    sent_bytes: int = 0
    client_left: bool = False
    finished: bool = False

    def report(self) -> JsonObject:
        """As JSON. The Authorization value appears only as a SHA-256 of the whole value."""
        authorization = next((value for name, value in self.headers if name == b"authorization"), None)
        return {
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "headers": [
                [name.decode("latin-1"), value.decode("latin-1")]
                for name, value in self.headers
                if name != b"authorization"
            ],
            "authorization": {
                "present": authorization is not None,
                "sha256": hashlib.sha256(authorization).hexdigest() if authorization is not None else None,
            },
            "body_base64": base64.b64encode(self.body).decode(),
            "body_sha256": hashlib.sha256(self.body).hexdigest(),
            "status": self.status,
            "response_sha256": self.sent.hexdigest(),
            "response_bytes": self.sent_bytes,
            "client_left": self.client_left,
            "finished": self.finished,
        }


@dataclass(slots=True)
class Stored:
    """A response that can be retrieved again. Mutable: `cancelled`.

    `ready_at` is on the monotonic clock. Before it, a background response is still in progress.
    """

    plan: Plan
    ready_at: float = -math.inf
    cancelled: bool = False

    @property
    def status(self) -> str:
        """The status now."""
        if self.cancelled:
            return "cancelled"
        return self.plan.status if time.monotonic() >= self.ready_at else "in_progress"
