"""The outcome of a request for each error and for each reason of a cancellation, and the client's error. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.billing.lifecycle import Outcome
from gateway.concurrency.cancellation import Reason
from gateway.errors import GatewayError
from gateway.proxy.failover import InvalidAnswer

ENDED_BY: Final[Mapping[Reason, Outcome]] = MappingProxyType(
    {
        Reason.CLIENT_LEFT: Outcome.CLIENT_LEFT,
        Reason.TIMED_OUT: Outcome.TIMED_OUT,
        Reason.SHUT_DOWN: Outcome.SHUT_DOWN,
        Reason.CANCELLED: Outcome.CANCELLED,
    }
)
_OUTCOMES: Final[Mapping[str, Outcome]] = MappingProxyType(
    {
        "upstream_timeout": Outcome.UPSTREAM_TIMEOUT,
        "operation_not_offered": Outcome.UPSTREAM_REFUSED,
        "steering_failed": Outcome.UPSTREAM_REFUSED,
        "upstream_rejected_gateway": Outcome.UPSTREAM_REFUSED,
        "upstream_invalid_response": Outcome.UPSTREAM_REFUSED,
    }
)


def internal_error() -> GatewayError:
    """Returns the error for a bug. It shows no details."""
    return GatewayError("internal_error", "The gateway failed. The operator's log has the reason.")


def outcome_of(error: GatewayError) -> Outcome:
    """Returns the outcome for an error that was raised before anything was sent to the client."""
    if isinstance(error, InvalidAnswer):
        return error.outcome
    return _OUTCOMES.get(error.code, Outcome.UPSTREAM_UNREACHABLE)


def ended_error(reason: Reason) -> GatewayError:
    """Returns the client's error for a cancellation that the client has not caused."""
    if reason is Reason.TIMED_OUT:
        return GatewayError("upstream_timeout", "The request took longer than this gateway allows.", repeat_helps=False)
    return GatewayError("shutting_down", "This gateway is stopping.", wait_ms=1000)
