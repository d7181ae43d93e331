"""What traces and metrics by OpenTelemetry share: the service, the SDK's messages, what counts as an error."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from typing import Final

from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource

from gateway import __version__
from gateway.billing.lifecycle import Outcome
from gateway.observability.request_record import RequestRecord

SERVICE: Final = "openresponses-gateway"
"""The `service.name` where OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES set none."""
END_S: Final = 2.0
"""How long the end of a worker waits for a collector that does not answer."""
_MAX_REASON_CHARACTERS: Final = 500
_SERVER_ERROR: Final = 500
GOOD: Final = frozenset(
    {
        Outcome.COMPLETED,
        Outcome.INCOMPLETE,
        Outcome.CAPPED,
        Outcome.REFUSED,
        Outcome.DRY_RUN,
        Outcome.CLIENT_LEFT,
        Outcome.CANCELLED,
    }
)
"""Outcomes that are not failures of the gateway or the upstream. All others are, whatever status had been sent."""


class SdkNotes(logging.Handler):
    """Keeps the SDK's messages instead of printing them.

    Mutable: `first`, the first message since the last good export, and `wrong_setting`, the first message of the thread
    that builds the SDK's parts. That thread reads the variables. The SDK's own threads may already complain of other
    things: a reader may collect before it is registered.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""
        self.wrong_setting = ""
        self._builder = threading.get_ident()
        logger = logging.getLogger("opentelemetry")
        logger.handlers = [self]
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one message of the SDK's log."""
        message = record.getMessage()[:_MAX_REASON_CHARACTERS]
        self.first = self.first or message
        if record.thread == self._builder:
            self.wrong_setting = self.wrong_setting or message


def resource() -> Resource:
    """Returns what the SDK's variables say of this service, with a name and a version."""
    found = Resource.create()
    named = not str(found.attributes[SERVICE_NAME]).startswith("unknown_service")
    ours = {SERVICE_VERSION: __version__} if named else {SERVICE_NAME: SERVICE, SERVICE_VERSION: __version__}
    return found.merge(Resource(ours))


def instance_resource() -> Resource:
    """Returns the same with an instance: workers count apart, and their series must not be taken for one."""
    named = SERVICE_INSTANCE_ID in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return resource() if named else resource().merge(Resource({SERVICE_INSTANCE_ID: str(uuid.uuid4())}))


def error_of(record: RequestRecord) -> str | None:
    """Returns `error.type` of the whole request. Refusals have none, because they are the caller's errors."""
    if record.status >= _SERVER_ERROR:
        return record.code or str(record.status)
    upstreams_word = record.outcome is Outcome.UPSTREAM_REFUSED  # a status 4xx that was passed on
    return None if record.outcome in GOOD or upstreams_word else record.outcome.value
