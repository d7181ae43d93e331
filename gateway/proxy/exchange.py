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

    def confirm(self, opened: Opened, *, is_answer: bool = True) -> None:
        """Notes that an upstream's answer is sent to the client. `is_answer` is false for an error under a 2xx.

        No other upstream will be asked, so that the request's body is freed.

        Refused additions are remembered only for a valid answer. If the upstream refused the request without them too,
        its first refusal may have had another reason.
        """
        admitted, _, record, answer = self
        record.state = TRANSITIONS[record.state, Event.RELAY]
        if record.spooled_form is None:  # a form on disk may still be read for the upstream
            admitted.request.held.body = b""
            if record.body_held_bytes:
                admitted.snapshot.body_memory.give_back(record.body_held_bytes)
                record.body_held_bytes = 0
        if is_answer and answer.unconfirmed is not None:
            answer.unconfirmed = None
            model, status = admitted.route.upstream_model, opened.answer.status
            opened.upstream.note_answer(opened.key, model, status, None, time.monotonic())
            for field in opened.refused:
                opened.upstream.note_refused(model, field)

    def head(self, opened: Opened, extra: Headers) -> Headers:
        """Returns the headers of the client's answer."""
        return client_headers(opened, self.admitted, self.record, extra)

    def origin(self) -> Origin:
        """Returns what the gateway knows of the answer by itself, for closing events."""
        request = self.admitted.request
        by_id = self.admitted.target.operation.by_id
        continues_upstream = by_id or request.background or self.answer.continues_upstream
        return Origin(self.record.request_id, request.model, int(time.time()), continues_upstream)
