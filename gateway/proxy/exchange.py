"""An admitted request together with its client, and with the records that its steps fill in."""

from __future__ import annotations

import time
from typing import NamedTuple

from gateway.billing.lifecycle import TRANSITIONS, Event
from gateway.http.client import Client
from gateway.observability.request_record import RequestRecord
from gateway.protocol.dialects.dialect import Origin
from gateway.proxy.admission import Admitted, Opened
from gateway.proxy.answer_record import AnswerRecord
from gateway.proxy.upstream_answer import client_headers
from gateway.types import Headers


class Exchange(NamedTuple):
    """One request in steps 5 to 9."""

    admitted: Admitted
    client: Client
    record: RequestRecord
    answer: AnswerRecord

    def confirm(self, opened: Opened) -> None:
        """Notes that an upstream's answer has proved to be valid, and is sent to the client."""
        record, answer = self.record, self.answer
        record.state = TRANSITIONS[record.state, Event.RELAY]
        if answer.unconfirmed is not None:
            answer.unconfirmed = None
            model, status = self.admitted.route.upstream_model, opened.answer.status
            opened.upstream.note_answer(opened.key, model, status, None, time.monotonic())

    def head(self, opened: Opened, extra: Headers) -> Headers:
        """Returns the headers of the client's answer."""
        return client_headers(opened, self.admitted, self.record, extra)

    def origin(self) -> Origin:
        """Returns what the gateway knows of the answer by itself, for closing events."""
        request = self.admitted.request
        by_id = self.admitted.target.operation.by_id
        continues_upstream = by_id or request.background or self.answer.continues_upstream
        return Origin(self.record.request_id, request.model, int(time.time()), continues_upstream)
