"""An admitted request together with its client, and with the records that its steps fill in."""

from __future__ import annotations

import time
from typing import NamedTuple

from gateway.http.client import Client
from gateway.observability.request_record import RequestRecord
from gateway.protocol.dialects.dialect import Origin
from gateway.proxy.admission import Admitted
from gateway.proxy.answer_record import AnswerRecord


class Exchange(NamedTuple):
    """One request in steps 5 to 9."""

    admitted: Admitted
    client: Client
    record: RequestRecord
    answer: AnswerRecord

    def origin(self) -> Origin:
        """Returns what the gateway knows of the answer if its upstream has shown nothing, for closing events."""
        request = self.admitted.request
        works_on = self.admitted.target.operation.by_id or request.background or self.answer.works_on
        return Origin(self.record.request_id, request.model, int(time.time()), works_on)
