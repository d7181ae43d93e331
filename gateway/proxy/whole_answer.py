"""Step 6 for an answer that is not a stream. All of it is read and checked before its head is passed on.

A 2xx without a valid answer must not reach the client as one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.billing.lifecycle import Outcome
from gateway.protocol.dialects.dialect import AnswerFacts, Json
from gateway.proxy.admission import Opened
from gateway.proxy.exchange import Exchange
from gateway.proxy.failover import InvalidAnswer, NotAnAnswer
from gateway.proxy.large_answers import decode_answer
from gateway.proxy.upstream_answer import read_body, refuse_unreadable, refused_addition

_JSON: Final = b"application/json"
_SERVER_ERROR: Final = 500


class WholeAnswer(NamedTuple):
    """A JSON answer: its bytes, its decoded fields, and the facts that the dialect reads from them."""

    body: bytes
    fields: Json
    facts: AnswerFacts


async def read_whole(exchange: Exchange, opened: Opened, kind: bytes) -> WholeAnswer:
    """Reads a 2xx. `kind` is its media type. Raises InvalidAnswer if it is invalid or was cut, and UpstreamFault."""
    admitted, _, record, answer = exchange
    off_loop, operation = admitted.snapshot.off_loop, admitted.target.operation
    body = opened.already_read or await read_body(opened, off_loop, answered=answer.answered)
    fields = await decode_answer(body, opened.upstream.policy, off_loop)
    if not body and operation.by_id and operation.method != "GET":
        fields, kind = {}, _JSON  # 204, to DELETE
    if fields is None and kind == _JSON:
        # The provider has probably done the work: the policy's "2xx without usage".
        answer.outcome = Outcome.UPSTREAM_CUT
        raise InvalidAnswer(answer.outcome, "The provider's answer was cut short.")
    facts = operation.dialect.read_answer(fields) if fields is not None and kind == _JSON else None
    if fields is None or facts is None:
        record.detail = f"2xx with {kind.decode('latin-1') or 'no content type'}: not a response"
        raise InvalidAnswer(Outcome.INVALID_ANSWER, "The provider's answer was not a response.")
    return WholeAnswer(body, fields, facts)


async def read_refusal_body(exchange: Exchange, opened: Opened) -> bytes:
    """Reads an upstream's own refusal, which is passed on unchanged.

    Raises NotAnAnswer if it refuses a field that the gateway added. Raises GatewayError if it concerns the gateway's
    own account, which the client must not mistake for its own, or if clients cannot read it.
    """
    admitted, _, _, answer = exchange
    status = opened.answer.status
    body = await read_body(opened, admitted.snapshot.off_loop, answered=answer.answered)
    if status < _SERVER_ERROR:
        refused = refused_addition(opened, body)
        if refused is not None:
            raise NotAnAnswer(opened, status, body, refused)
    headers = opened.answer.headers
    refuse_unreadable(status, headers, body, may_be_missing=admitted.target.operation.may_be_missing)
    return body
