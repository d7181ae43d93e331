"""Steps 7 and 8 of a request: decides its settlement from what the relay has learned, and posts it.

terms_of     route and configuration -> the terms of a settlement
Settler      decides, posts, and remembers the response; once for each request
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from gateway.billing.lifecycle import TRANSITIONS, Event, Outcome
from gateway.billing.money import format_usd
from gateway.billing.settlement import ExchangeResult, Hold, Settlement, Terms, attempt_of, decide, void
from gateway.identity.api_keys import ApiKey
from gateway.ledger.known_responses import KnownResponse, KnownResponses, Standing, correction, known_response_of
from gateway.ledger.ledger import Ledger
from gateway.ledger.settlement_call import Resolution
from gateway.protocol.operations import is_response_id
from gateway.proxy.admission import Admitted
from gateway.proxy.answer_record import exchange_result
from gateway.proxy.answer_usage import input_usage
from gateway.proxy.answered_price import priced_by
from gateway.proxy.exchange import Exchange
from gateway.proxy.failover import Search

OnEstimatedUsage = Callable[[ApiKey, KnownResponse], None]
"""Called with a response that was charged by an estimate and whose provider may report its usage later."""


class Settler:
    """Settles the requests of one worker. `on_estimated_usage`: see `OnEstimatedUsage`. None: estimates are final."""

    def __init__(self, ledger: Ledger, responses: KnownResponses) -> None:
        self._ledger = ledger
        self._responses = responses
        self.on_estimated_usage: OnEstimatedUsage | None = None
        self._diagnostics = structlog.get_logger("gateway.relay")

    async def settle(self, exchange: Exchange, search: Search, *, answered: bool) -> None:
        """Posts the cost of a request. `answered`: its client has received an answer that is not an error.

        A cancellation ends the waiting, but not the settlement. The store's timeout is the deadline.
        """
        admitted, _, record, answer = exchange
        hold, known_response, memory = admitted.admission.hold, admitted.known_response, None
        if not answered and hold.idempotency_key is not None and not hold.is_followed:
            hold = hold._replace(idempotency_key=None)  # so that a repetition by the client is not refused
        try:
            result, settlement = decide_settlement(exchange, search, hold)
        except Exception:  # noqa: BLE001 - a bug must not keep credits and a slot for ever
            self._diagnostics.exception("decision_failed", request_id=record.request_id)
            result = ExchangeResult(Outcome.INTERNAL_ERROR)
            settlement = void(hold, result.outcome)
        corrects = admitted.target.operation.by_id and result.answered
        if known_response is not None and corrects:
            settlement, known_response = correction(known_response, settlement)
            memory = self._responses.memory(
                known_response.response_id, known_response.upstream_key, corrected=known_response
            )
            _ = self._ledger.settle(void(hold, result.outcome))
        elif settlement.kind == "settle" or answer.remembered_id:
            response_id = referable_response_id(exchange)
            if response_id is not None:
                memory = self._responses.memory(response_id, answer.upstream_key, shown_id=answer.remembered_id)
                self._report_estimate(exchange, settlement, response_id)
        settled = self._ledger.settle(settlement, memory)
        record.outcome = result.outcome
        record.settlement = settlement
        record.state = TRANSITIONS[record.state, Event.SETTLE if settlement.kind == "settle" else Event.VOID]
        if settlement.pauses:
            self._diagnostics.warning(
                "team_paused",
                request_id=settlement.made_by or record.request_id,
                team_id=hold.team_id,
                model=settlement.model,
                over_hold_usd=format_usd(settlement.over_nano_usd),
            )
        posted = await settled
        record.spooled = posted is None
        if corrects and posted is not None and posted.resolution is not Resolution.LATE:
            record.settlement = void(hold, result.outcome)  # another request has posted the usage before

    def _report_estimate(self, exchange: Exchange, settlement: Settlement, response_id: str) -> None:
        """Reports a response that was charged by an estimate, if its provider may report the usage later."""
        admitted, _, record, answer = exchange
        if self.on_estimated_usage is None or not answer.may_report_later or admitted.route.rule.state != "upstream":
            return
        made = known_response_of(settlement, response_id, answer.upstream_key)
        if made.settled == Standing.ESTIMATED:
            hold = settlement.hold
            self.on_estimated_usage(ApiKey(hold.team_id, hold.key_id, record.key.secret_hash), made)


def referable_response_id(exchange: Exchange) -> str | None:
    """Returns the id of the new response, if later requests can refer to it."""
    admitted, _, record, answer = exchange
    kept = admitted.request.store and admitted.route.rule.state == "upstream"
    if not admitted.target.operation.makes_response or not kept or not answer.answered:
        return None
    found = record.response_id if answer.stream is None else answer.response_id
    return found if found is not None and is_response_id(found) else None


def decide_settlement(exchange: Exchange, search: Search, hold: Hold) -> tuple[ExchangeResult, Settlement]:
    """Runs step 7."""
    admitted, _, record, answer = exchange
    unanswered = search.unanswered(ended_by=answer.outcome.value) if search.started_attempts or search.sent else None
    result = exchange_result(admitted, answer, begun=unanswered is not None)
    answered = answer.fields.get("model") if admitted.route.is_priced_by_answer else None
    bound = hold
    if admitted.known_response is not None and admitted.target.operation.charge == "usage":
        bound = bound_of_known_response(admitted.known_response, hold, result.output_tokens_estimate)
    terms = terms_of(admitted, (record.upstream.name or "") if unanswered is None else unanswered.upstream, answered)
    settlement = decide(result, bound, terms)
    if bound is not hold:
        settlement = settlement._replace(hold=hold)
    if unanswered is not None and not (result.begun and settlement.kind == "settle"):
        search.started_attempts.append(unanswered)
    if search.started_attempts and admitted.target.operation.charge == "usage or estimate":
        usage = input_usage(admitted)
        attempts = (attempt_of(one.upstream, one.reason, usage, hold, terms) for one in search.started_attempts)
        settlement = settlement._replace(attempts=tuple(attempts))
    if settlement.kind == "settle" and (response_id := answer.response_id):
        settlement = settlement._replace(response_id=response_id)
    return result, settlement


def bound_of_known_response(known_response: KnownResponse, hold: Hold, output_tokens: int) -> Hold:
    """Returns the hold that bounds the charge of a known response: that of the request which made the response.

    Only the amount of that hold is remembered, so that it does not bound the estimated `output_tokens`. If the amount
    is unknown, the earlier charge by an estimate bounds both.
    """
    input_tokens, _, charged_tokens = known_response[8:11]
    amount, max_tokens = known_response.held_nano_usd, max(charged_tokens, output_tokens)
    if not amount:
        amount, max_tokens = known_response.cost_nano_usd, charged_tokens
    return hold._replace(amount_nano_usd=amount, input_tokens=input_tokens, output_tokens=max_tokens)


def terms_of(admitted: Admitted, upstream: str, answered: object) -> Terms:
    """Returns the terms of a request whose answer ends now. `answered` is the model that its answer names."""
    route, limits = admitted.route, admitted.snapshot.limits
    rule = route.rule
    failed_input, unanswered, overrun = rule.charge_failed_input, rule.charge_unanswered, rule.on_overrun
    by_answer = None if answered is None else priced_by(route, admitted.snapshot.router, answered)
    return Terms(
        route.price if by_answer is None else by_answer.price,
        route.model,
        upstream,
        time.time_ns() // 1_000_000,
        admitted.snapshot.router.prices,
        rule.cost_source == "upstream",
        (limits.charge_unanswered if unanswered is None else unanswered) == "input",
        limits.charge_failed_input if failed_input is None else failed_input,
        *(("", "") if by_answer is None else by_answer[1:]),
        (limits.on_overrun if overrun is None else overrun) == "pause",
    )
