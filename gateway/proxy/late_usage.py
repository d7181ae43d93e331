"""Asks a provider later what a response used that nobody followed to its end, and corrects what it was charged.

    late_usage.want(key, known_response)    it was charged by an estimate, and its provider keeps it
    late_usage.work                         asks for what is due, as long as the worker runs

The question is a GET of the response, without a client: it passes the steps of a request from the fifth on, so that its
usage is charged once, whoever sees it first. A response is asked for some times within about an hour, while it runs or
its provider does not answer; a worker that stops leaves the rest at its estimate, which a client's own GET corrects.
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
from gateway.proxy.admission import Admitted, about
from gateway.proxy.nobody_client import NobodyClient
from gateway.proxy.pinning import pinned
from gateway.proxy.reservation import NOTHING
from gateway.proxy.snapshot import ConfigSnapshot

_EVERY_S: Final = 1.0
_AFTER_S: Final = (1.0, 10.0, 60.0, 600.0, 3000.0)
_MOST_WAITING: Final = 1000
_AT_ONCE: Final = 4
_LONGEST_S: Final = 20.0
_ROUTE: Final = f"{PREFIX}/{{id}}"
_OFFERS_NONE: Final = (404, 405, 410, 501)


class Exchanges(Protocol):
    """What a question needs of the request handler."""

    @property
    def snapshot(self) -> ConfigSnapshot:
        """The configuration that the next request runs on."""

    async def exchange(self, admitted: Admitted, client: Client, record: RequestRecord) -> None:
        """Steps 5 to 9 for an admitted request."""

    def note(self, client: Client, record: RequestRecord) -> None:
        """Writes the log line of a call that has ended, and counts it."""


class Wanted(NamedTuple):
    """A response that is asked for at `due_s`, by the event loop's clock, after so many questions. `key` made it."""

    due_s: float
    key: ApiKey
    known_response: KnownResponse
    asked: int = 0


class LateUsage:
    """What one worker asks for later. Mutable: the responses that wait."""

    def __init__(self, ledger: Ledger, responses: KnownResponses, exchanges: Exchanges) -> None:
        self._ledger = ledger
        self._responses = responses
        self._exchanges = exchanges
        self.work: Final = Periodic("ask-for-usage", _EVERY_S, self.round, outages=(GatewayError,))
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Wanted] = []

    def want(self, key: ApiKey, known_response: KnownResponse) -> None:
        """Asks for a response later, if not too many wait."""
        self._wait(Wanted(0.0, key, known_response))

    async def round(self) -> None:
        """Asks for some of what is due. Raises GatewayError `store_unavailable`."""
        now_s, due = self._loop.time(), list[Wanted]()
        while self._waiting and self._waiting[0].due_s <= now_s and len(due) < _AT_ONCE:
            due.append(heapq.heappop(self._waiting))
        for one, settled in zip(due, await asyncio.gather(*map(self._ask, due), return_exceptions=True), strict=True):
            if settled is not True:
                self._wait(one._replace(asked=one.asked + 1))
            if isinstance(settled, BaseException):
                raise settled

    def _wait(self, one: Wanted) -> None:
        if one.asked < len(_AFTER_S) and len(self._waiting) < _MOST_WAITING:
            heapq.heappush(self._waiting, one._replace(due_s=self._loop.time() + _AFTER_S[one.asked]))

    async def _ask(self, wanted: Wanted) -> bool:
        """Asks once. Returns whether there is nothing more to ask."""
        known_response, key = wanted.known_response, wanted.key
        try:
            known_response = await self._responses.find(key, known_response.response_id)
        except GatewayError as error:
            if error.code != "invalid_api_key":  # a key that has been revoked since had made it all the same
                raise
        if known_response.settled != Standing.ESTIMATED:
            return True
        try:
            admitted = self._admitted(key.team_id, known_response)
        except GatewayError:  # its provider is not used any more
            return True
        record = RequestRecord(admitted.admission.hold.id, "GET", f"{PREFIX}/{known_response.response_id}", _ROUTE)
        record.key, record.model = key, admitted.route.model
        record.detail, record.state = "asked by the gateway: the usage was not known", State.ADMITTED
        client = NobodyClient(record.path)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_S):
                    await self._exchanges.exchange(admitted, client, record)
        finally:
            self._exchanges.note(client, record)
        return client.status in _OFFERS_NONE or (record.settlement is not None and record.settlement.kind == "settle")

    def _admitted(self, team_id: str, known_response: KnownResponse) -> Admitted:
        """A question that holds nothing and counts against no limit: its caller is the gateway."""
        target = find("GET", f"{PREFIX}/{known_response.response_id}")
        if target is None:
            raise GatewayError("response_not_found", "No path has this id.")
        snapshot, operation = self._exchanges.snapshot, target.operation
        route = snapshot.router.resolve(known_response.model, free=True, pinned=True)
        route = pinned(snapshot, route, known_response, target)
        request_id, key = self._ledger.new_request_id(), ApiKey(team_id, known_response.key_id, "")
        demand = Demand(route.model, 0, 0, 0, NOTHING.worst, 0, operation.name)
        asked = AdmissionRequest(request_id, key, route.patterns, demand, None, operations=operation.grants, free=True)
        hold = Hold(request_id, team_id, key.key_id, 0, 0, 0, known_response.admitted_ms, reserved=False)
        admission = Admission(hold, NO_RATES, 0)
        return Admitted(snapshot, target, about(known_response, b""), route, known_response, asked, admission)
