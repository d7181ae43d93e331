"""The events that end a stream of the Responses API, by the final status of the response. Pure.

TERMINAL_EVENTS     status -> event type. Source: the OpenResponses specification of 2026-04-24, "Streaming"
TERMINAL_STATUSES   event type -> status
RUNNING             the statuses of a response that has not ended
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

TERMINAL_EVENTS: Final[Mapping[str, str]] = MappingProxyType(
    {status: f"response.{status}" for status in ("completed", "incomplete", "failed", "cancelled")}
)
TERMINAL_STATUSES: Final[Mapping[str, str]] = MappingProxyType(
    {event: status for status, event in TERMINAL_EVENTS.items()}
)
RUNNING: Final = frozenset({"queued", "in_progress"})
