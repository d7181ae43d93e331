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
from gateway.protocol.dialects.dialect import AnswerFacts, Dialect, Ended, Json
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
    """What one answer has told so far: a stream by its observer, a whole one by its facts. Mutable.

    `answered`: an upstream has answered 2xx.
    """

    dialect: Dialect
    answered: bool = False
    observer: SseObserver | None = None
    facts: AnswerFacts | None = None
    answer: Json = field(default_factory=dict)

    @property
    def works_on(self) -> bool:
        """Whether the upstream goes on with the response after this, unseen."""
        observer = self.observer
        if observer is None or observer.facts.terminal is not None or observer.created is None:
            return self.facts is not None and self.facts.in_progress
        response = (parse_object(observer.created) or {}).get("response")
        return isinstance(response, dict) and response.get("background") is True

    @property
    def model(self) -> object:
        """The model that the answer names, as its upstream wrote it; None: it has named none."""
        return (self.answer if self.observer is None else self.observer.facts.answer).get("model")

    @property
    def has_ended(self) -> bool:
        """Whether the response itself has ended, and is known as a whole."""
        if self.observer is not None:
            return self.observer.facts.terminal is not None and bool(self.observer.facts.answer)
        return self.facts is not None and not self.facts.in_progress

    @property
    def output_tokens(self) -> int:
        """What has been put out, estimated from what came: from the answer where it is known as a whole."""
        observer = self.observer
        answer = self.answer if observer is None else observer.facts.answer
        tokens = -(-self.dialect.output_bytes(answer) // BYTES_PER_TOKEN)
        return tokens if tokens or observer is None else observer.output_tokens_estimate()


def exchange_result(admitted: Admitted, outcome: Outcome, learnt: Learnt, *, begun: bool) -> ExchangeResult:
    """What the policy decides on. `begun`: the request was sent, and no head of an answer came."""
    if not learnt.answered:
        charged = begun and admitted.target.operation.charge == "usage or estimate"
        return ExchangeResult(outcome, partly=input_usage(admitted) if charged else None, begun=charged)
    observer, reported, answer = learnt.observer, None, learnt.answer
    if observer is not None:
        facts = observer.facts
        reported, answer = facts.usage, facts.answer
        if outcome in _BROKEN and facts.ended is not None:
            outcome = OUTCOMES[facts.ended]
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
