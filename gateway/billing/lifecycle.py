"""The states of a request, the transitions between them, and how a request can end. All of it is data.

TRANSITIONS    (state, event) -> state
Outcome        how a request ended, for the ledger, the log and the metrics
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class State(StrEnum):
    """The state of a request."""

    RECEIVED = "received"
    REFUSED = "refused"
    ADMITTED = "admitted"
    OPENED = "opened"
    RELAYING = "relaying"
    SETTLED = "settled"
    VOIDED = "voided"


class Event(StrEnum):
    """An event that leads from one state to another."""

    REFUSE = "a check refuses"
    ADMIT = "a hold is reserved"
    OPEN = "an upstream answers 2xx"
    RELAY = "the first byte goes to the client"
    SETTLE = "the cost is posted"
    VOID = "nothing is charged"


TRANSITIONS: Final = MappingProxyType(
    {
        (State.RECEIVED, Event.REFUSE): State.REFUSED,
        (State.RECEIVED, Event.ADMIT): State.ADMITTED,
        (State.ADMITTED, Event.OPEN): State.OPENED,
        (State.ADMITTED, Event.SETTLE): State.SETTLED,
        (State.ADMITTED, Event.VOID): State.VOIDED,
        (State.OPENED, Event.RELAY): State.RELAYING,
        (State.OPENED, Event.SETTLE): State.SETTLED,
        (State.OPENED, Event.VOID): State.VOIDED,
        (State.RELAYING, Event.SETTLE): State.SETTLED,
        (State.RELAYING, Event.VOID): State.VOIDED,
    }
)


class Outcome(StrEnum):
    """How a request ended, for the ledger, the log and the metrics."""

    REFUSED = "refused"  # by the gateway, before a hold
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"  # the response itself has the status "failed"
    UPSTREAM_REFUSED = "upstream_refused"  # the answer's status was not 2xx
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_TIMEOUT = "upstream_timeout"  # before an answer
    INVALID_ANSWER = "invalid_answer"  # the status was 2xx, but the body was not a response
    UPSTREAM_CUT = "upstream_cut"
    UPSTREAM_STALLED = "upstream_stalled"
    TIMED_OUT = "timed_out"  # the total timeout
    CLIENT_LEFT = "client_left"
    CANCELLED = "cancelled"  # a client cancelled the background response
    SHUT_DOWN = "shut_down"  # the gateway had to stop
    CAPPED = "capped"  # the stream was cut at the hold, because the route or the key demands it
    INTERNAL_ERROR = "internal_error"
    SERVED = "served"  # answered by the gateway from its own stored responses
    DRY_RUN = "dry_run"  # decided, but not run
