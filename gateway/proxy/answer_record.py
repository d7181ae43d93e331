"""What a relay notes of an upstream's answer, and the result that the settlement is decided by.

AnswerRecord       how the answer ended, and what it contained
exchange_result    the outcome of a request and its usage, which is estimated if it was not reported. Pure
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from gateway.billing.lifecycle import Outcome
from gateway.billing.settlement import ExchangeResult
from gateway.ledger.known_responses import Standing
from gateway.protocol.dialects.dialect import AnswerFacts, Dialect, Ended, Json, StreamSummary
from gateway.protocol.lenient_json import parse_object
from gateway.protocol.quantities import Usage
from gateway.protocol.sse_observer import SseObserver
from gateway.protocol.token_estimates import BYTES_PER_TOKEN
from gateway.proxy.admission import Admitted, Opened
from gateway.proxy.answer_usage import input_usage, lacks_output, may_lack_output, partial_usage, reported_usage

OUTCOMES: Final[Mapping[Ended, Outcome]] = MappingProxyType(
    {"completed": Outcome.COMPLETED, "incomplete": Outcome.INCOMPLETE, "failed": Outcome.FAILED}
)
_BROKEN: Final = (Outcome.UPSTREAM_CUT, Outcome.UPSTREAM_STALLED)  # unless the answer had ended before
_UNFINISHED: Final = frozenset({*_BROKEN, Outcome.TIMED_OUT, Outcome.CLIENT_LEFT, Outcome.CANCELLED, Outcome.SHUT_DOWN})
"""Outcomes after which a provider that keeps responses may have a usage that it has not reported."""


@dataclass(slots=True)
class AnswerRecord:
    """What is known of the answer to one request. Mutable: the steps from 5 on fill it in.

    `outcome` is an internal error until another one is known. `answered`: an upstream has answered 2xx. `unconfirmed`:
    a 2xx that may still prove to be an error. `client_left`: the client has left, and the answer is read on for its
    usage. `stream`: the summary of a stream that has ended. `observer`: the stream's observer, which estimates its
    output. `facts`, `body`: a whole answer. `remembered_id`: the id under which the response is remembered while its
    request still runs. `upstream_key`: the fingerprint of the provider's key that was used.
    """

    outcome: Outcome = Outcome.INTERNAL_ERROR
    answered: bool = False
    unconfirmed: Opened | None = None
    client_left: bool = False
    stream: StreamSummary | None = None
    observer: SseObserver | None = None
    facts: AnswerFacts | None = None
    body: Json = field(default_factory=dict)
    remembered_id: str = ""
    upstream_key: str = ""

    def end_stream(self, observer: SseObserver) -> StreamSummary:
        """Notes the summary of a stream that has ended."""
        self.observer, self.stream = observer, observer.summary()
        return self.stream

    @property
    def fields(self) -> Json:
        """The fields of the response, as far as the answer has shown them."""
        return self.body if self.stream is None else self.stream.answer

    @property
    def continues_upstream(self) -> bool:
        """Whether the upstream continues to work on the response after this answer has ended."""
        stream = self.stream
        if stream is None or stream.terminal is not None or stream.opening is None:
            return self.facts is not None and self.facts.in_progress
        response = (parse_object(stream.opening) or {}).get("response")
        return isinstance(response, dict) and response.get("background") is True

    @property
    def response_id(self) -> str | None:
        """The id that the provider gave the response. The client may have received another one."""
        if self.stream is not None:
            return self.stream.response_id
        return None if self.facts is None else self.facts.response_id

    @property
    def has_ended(self) -> bool:
        """Whether the response itself has ended, and all of it is known."""
        if self.stream is not None:
            return self.stream.terminal is not None and bool(self.stream.answer)
        return self.facts is not None and not self.facts.in_progress

    @property
    def may_report_later(self) -> bool:
        """Whether the upstream may later report a usage that it has not reported yet."""
        return self.client_left or self.outcome in _UNFINISHED or self.continues_upstream

    def output_tokens(self, dialect: Dialect) -> int:
        """Returns an estimate of the output in tokens: from the fields of the answer, or else from its stream."""
        tokens = -(-dialect.output_bytes(self.fields) // BYTES_PER_TOKEN)
        return tokens if tokens or self.observer is None else self.observer.output_tokens_estimate()


def exchange_result(admitted: Admitted, answer: AnswerRecord, *, begun: bool) -> ExchangeResult:
    """Returns the result that the billing policy decides by. `begun`: the request was sent, but got no answer."""
    outcome = Outcome.CLIENT_LEFT if answer.client_left else answer.outcome
    if not answer.answered:
        charged = begun and admitted.target.operation.charge == "usage or estimate"
        return ExchangeResult(outcome, partly=input_usage(admitted) if charged else None, begun=charged)
    stream, reported, fields = answer.stream, None, answer.body
    if stream is not None:
        reported, fields = stream.usage, stream.answer
        if outcome in _BROKEN and stream.ended is not None:
            outcome = OUTCOMES[stream.ended]
    elif answer.facts is not None:
        reported = answer.facts.usage
    usage = reported_usage(admitted, reported, fields)
    output_tokens, partly = 0, None
    if usage is None or may_lack_output(admitted, usage):
        output_tokens = answer.output_tokens(admitted.target.operation.dialect)
        if usage is None or output_tokens or lacks_output(usage):
            partly = partial_usage(admitted, usage, reported, fields, output_tokens)
            usage = None
    if answer.continues_upstream:
        output_tokens = admitted.admission.hold.output_tokens  # the hold covers whatever it still puts out
    return ExchangeResult(outcome, _is_charged(admitted, answer, usage), usage, output_tokens, partly)


def _is_charged(admitted: Admitted, answer: AnswerRecord, usage: Usage | None) -> bool:
    charge, known_response = admitted.target.operation.charge, admitted.known_response
    if charge == "usage":
        is_open = known_response is not None and known_response.settled == Standing.ESTIMATED
        return is_open and admitted.route.is_priced and (usage is not None or answer.has_ended)
    return charge == "usage or estimate"
