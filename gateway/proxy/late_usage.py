"""Fetches the usage of responses that were charged by an estimate, and corrects their charges.

    late_usage.add(key, known_response)     a response that was charged by an estimate, and that its provider keeps
    late_usage.work                         fetches what is due, as long as the worker runs

The call is a GET of the response, without a client. It passes steps 5 to 9 of a request, so that its usage is charged
once, whoever sees it first. While the response runs, or its provider does not answer, the call is repeated a few times
within about an hour. If the worker stops before, the estimate stays until a client's own GET corrects it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from typing import Final, NamedTuple, Protocol

from gateway.billing.lifecycle import State
from gateway.billing.settlement import Hold
from gateway.concurrency.periodic import Periodic
from gateway.errors import GatewayError
from gateway.http.client import Client
from gateway.identity.api_keys import ApiKey
from gateway.ledger.admissions import Admission, AdmissionRequest
from gateway.ledger.known_responses import KnownResponse, KnownResponses, Standing
from gateway.ledger.ledger import Ledger
from gateway.ledger.refusals import Demand
from gateway.observability.request_record import RequestRecord
from gateway.protocol.operations import PREFIX, find
from gateway.protocol.rate_limit_headers import NO_RATES
from gateway.proxy.admission import Admitted, request_about
from gateway.proxy.discarding_client import DiscardingClient
from gateway.proxy.pinning import pin_to_response
from gateway.proxy.reservation import NO_RESERVATION
from gateway.proxy.snapshot import ConfigSnapshot

_ROUND_S: Final = 1.0
_DELAYS_S: Final = (1.0, 10.0, 60.0, 600.0, 3000.0)
_MAX_WAITING: Final = 1000
_MAX_PARALLEL: Final = 4
_TIMEOUT_S: Final = 20.0
_ROUTE: Final = f"{PREFIX}/{{id}}"
_GONE: Final = (404, 405, 410, 501)


class Exchanges(Protocol):
    """The methods of the request handler that such a call uses."""

    @property
    def snapshot(self) -> ConfigSnapshot:
        """The configuration that the next request runs on."""

    async def exchange(self, admitted: Admitted, client: Client, record: RequestRecord) -> None:
        """Runs steps 5 to 8 for an admitted request."""

    def record_end(self, client: Client, record: RequestRecord) -> None:
        """Writes the log line of a call that has ended, and counts it."""


class EstimatedResponse(NamedTuple):
    """A response whose usage is unknown. It is fetched next at `due_s`, by the event loop's clock. `key` made it.

    `attempts` counts the calls so far.
    """

    due_s: float
    key: ApiKey
    known_response: KnownResponse
    attempts: int = 0


class LateUsage:
    """Fetches the usage of responses later, for one worker. Mutable: the responses that wait."""

    def __init__(self, ledger: Ledger, responses: KnownResponses, exchanges: Exchanges) -> None:
        self._ledger = ledger
        self._responses = responses
        self._exchanges = exchanges
        self.work: Final = Periodic("ask-for-usage", _ROUND_S, self.round, outages=(GatewayError,))
        self._loop = asyncio.get_running_loop()
        self._waiting: list[EstimatedResponse] = []

    def add(self, key: ApiKey, known_response: KnownResponse) -> None:
        """Fetches the usage of a response later, unless too many responses wait already."""
        self._enqueue(EstimatedResponse(0.0, key, known_response))

    async def round(self) -> None:
        """Fetches some of the responses that are due. Raises GatewayError `store_unavailable`."""
        now_s, due = self._loop.time(), list[EstimatedResponse]()
        while self._waiting and self._waiting[0].due_s <= now_s and len(due) < _MAX_PARALLEL:
            due.append(heapq.heappop(self._waiting))
        for response, settled in zip(
            due, await asyncio.gather(*map(self._fetch, due), return_exceptions=True), strict=True
        ):
            if settled is not True:
                self._enqueue(response._replace(attempts=response.attempts + 1))
            if isinstance(settled, BaseException):
                raise settled

    def _enqueue(self, response: EstimatedResponse) -> None:
        if response.attempts < len(_DELAYS_S) and len(self._waiting) < _MAX_WAITING:
            heapq.heappush(self._waiting, response._replace(due_s=self._loop.time() + _DELAYS_S[response.attempts]))

    async def _fetch(self, response: EstimatedResponse) -> bool:
        """Fetches a response once. Returns whether it need not be fetched again."""
        known_response, key = response.known_response, response.key
        try:
            known_response = await self._responses.find(key, known_response.response_id)
        except GatewayError as error:
            if error.code != "invalid_api_key":  # a key that was revoked meanwhile did not prevent the response
                raise
        if known_response.settled != Standing.ESTIMATED:
            return True
        try:
            admitted = self._admit(key.team_id, known_response)
        except GatewayError:  # its provider is not used any more
            return True
        record = RequestRecord(admitted.admission.hold.id, "GET", f"{PREFIX}/{known_response.response_id}", _ROUTE)
        record.key, record.model = key, admitted.route.model
        record.detail, record.state = "asked by the gateway: the usage was not known", State.ADMITTED
        client = DiscardingClient(record.path)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TIMEOUT_S):
                    await self._exchanges.exchange(admitted, client, record)
        finally:
            self._exchanges.record_end(client, record)
        return client.status in _GONE or (record.settlement is not None and record.settlement.kind == "settle")

    def _admit(self, team_id: str, known_response: KnownResponse) -> Admitted:
        """Makes the admitted call. It holds nothing and counts against no limit, because the gateway makes it."""
        target = find("GET", f"{PREFIX}/{known_response.response_id}")
        if target is None:
            raise GatewayError("response_not_found", "No path has this id.")
        snapshot, operation = self._exchanges.snapshot, target.operation
        route = snapshot.router.resolve(known_response.model, free=True, pinned=True)
        route = pin_to_response(snapshot, route, known_response, target)
        request_id, key = self._ledger.new_request_id(), ApiKey(team_id, known_response.key_id, "")
        demand = Demand(route.model, 0, 0, 0, NO_RESERVATION.worst, 0, operation.name)
        admission_request = AdmissionRequest(
            request_id, key, route.patterns, demand, None, operations=operation.grants, free=True
        )
        hold = Hold(request_id, team_id, key.key_id, 0, 0, 0, known_response.admitted_ms, reserved=False)
        admission = Admission(hold, NO_RATES, 0)
        return Admitted(
            snapshot, target, request_about(known_response, b""), route, known_response, admission_request, admission
        )
