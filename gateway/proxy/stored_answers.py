"""Answers calls about responses that the gateway stores itself.

No upstream is asked, and nothing is held or charged.
"""

from __future__ import annotations

from gateway.billing.lifecycle import Outcome
from gateway.http.client import Client
from gateway.identity.api_keys import key_of_request
from gateway.observability.request_record import RequestRecord
from gateway.protocol.operations import Target
from gateway.state.stored_calls import LocalAnswer
from gateway.state.turns import Turns


async def serve_stored(turns: Turns, target: Target, client: Client, record: RequestRecord) -> LocalAnswer | None:
    """Returns the answer, or None if the gateway does not store the response. Raises GatewayError."""
    key = key_of_request(client.fields)
    record.team_id, record.key_id, record.secret_hash = key.team_id, key.key_id, key.secret_hash
    operation, response_id = target.operation.name.rpartition(".")[2], target.response_id or ""
    answer = await turns.stored.serve(operation, key, response_id, client.scope["query_string"])
    if answer is not None:
        record.outcome, record.response_id = Outcome.SERVED, response_id
    return answer
