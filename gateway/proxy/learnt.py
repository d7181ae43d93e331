"""What a relay has learnt of an answer, and what follows from it for the settlement.

exchange_result    how the exchange ended, its usage, and what is estimated where no usage is known. Pure
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
from gateway.proxy.admission import Admitted
from gateway.proxy.answer_usage import input_usage, lacks_output, may_lack_output, partial_usage, reported_usage

OUTCOMES: Final[Mapping[Ended, Outcome]] = MappingProxyType(
    {"completed": Outcome.COMPLETED, "incomplete": Outcome.INCOMPLETE, "failed": Outcome.FAILED}
)
_BROKEN: Final = (Outcome.UPSTREAM_CUT, Outcome.UPSTREAM_STALLED)  # unless the answer had ended before
UNFINISHED: Final = frozenset({*_BROKEN, Outcome.TIMED_OUT, Outcome.CLIENT_LEFT, Outcome.CANCELLED, Outcome.SHUT_DOWN})
"""Endings after which a provider that keeps responses may know a usage that it has not told."""


@dataclass(slots=True)
class Learnt:
    """What one answer has told. Mutable.

    `answered`: an upstream has answered 2xx. `stream`: what a stream has told up to its end, `observer`: who estimates
    its output. `facts`, `answer`: what a whole answer has told.
    """

    dialect: Dialect
    answered: bool = False
    stream: StreamSummary | None = None
    observer: SseObserver | None = None
    facts: AnswerFacts | None = None
    answer: Json = field(default_factory=dict)

    def end_stream(self, observer: SseObserver) -> StreamSummary:
        """Notes what a stream has told. Nothing follows it."""
        self.observer, self.stream = observer, observer.summary()
        return self.stream

    @property
    def works_on(self) -> bool:
        """Whether the upstream goes on with the response after this, unseen."""
        stream = self.stream
        if stream is None or stream.terminal is not None or stream.opening is None:
            return self.facts is not None and self.facts.in_progress
        response = (parse_object(stream.opening) or {}).get("response")
        return isinstance(response, dict) and response.get("background") is True

    @property
    def model(self) -> object:
        """The model that the answer names, as its upstream wrote it; None: it has named none."""
        return (self.answer if self.stream is None else self.stream.answer).get("model")

    @property
    def stream_id(self) -> str | None:
        """The id that the provider gave a stream, whether it came to its end or not."""
        return None if self.stream is None else self.stream.response_id

    @property
    def has_ended(self) -> bool:
        """Whether the response itself has ended, and is known as a whole."""
        if self.stream is not None:
            return self.stream.terminal is not None and bool(self.stream.answer)
        return self.facts is not None and not self.facts.in_progress

    @property
    def output_tokens(self) -> int:
        """What has been put out, estimated from what came: from the answer where it is known as a whole."""
        answer = self.answer if self.stream is None else self.stream.answer
        tokens = -(-self.dialect.output_bytes(answer) // BYTES_PER_TOKEN)
        return tokens if tokens or self.observer is None else self.observer.output_tokens_estimate()


def exchange_result(admitted: Admitted, outcome: Outcome, learnt: Learnt, *, begun: bool) -> ExchangeResult:
    """What the policy decides on. `begun`: the request was sent, and no head of an answer came."""
    if not learnt.answered:
        charged = begun and admitted.target.operation.charge == "usage or estimate"
        return ExchangeResult(outcome, partly=input_usage(admitted) if charged else None, begun=charged)
    stream, reported, answer = learnt.stream, None, learnt.answer
    if stream is not None:
        reported, answer = stream.usage, stream.answer
        if outcome in _BROKEN and stream.ended is not None:
            outcome = OUTCOMES[stream.ended]
    elif learnt.facts is not None:
        reported = learnt.facts.usage
    usage = reported_usage(admitted, reported, answer)
    output_tokens, partly = 0, None
    if usage is None or may_lack_output(admitted, usage):
        output_tokens = learnt.output_tokens
        if usage is None or output_tokens or lacks_output(usage):
            partly = partial_usage(admitted, usage, reported, answer, output_tokens)
            usage = None
    if learnt.works_on:
        output_tokens = admitted.admission.hold.output_tokens  # whatever it comes to is within the hold
    return ExchangeResult(outcome, _is_charged(admitted, learnt, usage), usage, output_tokens, partly)


def _is_charged(admitted: Admitted, learnt: Learnt, usage: Usage | None) -> bool:
    charge, known_response = admitted.target.operation.charge, admitted.known_response
    if charge == "usage":
        is_open = known_response is not None and known_response.settled == Standing.ESTIMATED
        return is_open and admitted.route.is_priced and (usage is not None or learnt.has_ended)
    return charge == "usage or estimate"
