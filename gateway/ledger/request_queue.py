"""Lets requests wait in a queue instead of refusing them at a limit that clears: `queue_s`, `queue_length`.

The queue is in the store, so that all workers serve it in one order (queue.lua). A waiting request has no hold. It
retries its admission a few times per second. It leaves the queue at once when its client leaves, its time is over, or
its worker stops.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Literal, Protocol

from gateway.errors import GatewayError
from gateway.ledger.admissions import Admission, AdmissionRefused, AdmissionRequest
from gateway.ledger.slot_times import SlotTimes
from gateway.store.errors import StoreError, StoreUnavailable
from gateway.store.keyspace import TeamKeys
from gateway.store.script import Script
from gateway.store.store import Store

LEAVE: Final = Script.load("queue_leave_v1")
_RETRY_S: Final = 0.05
_MAX_PAUSE_S: Final = 0.5  # a quarter of the time after which the queue drops a silent request
Result = Literal["admitted", "refused", "left"]
OnLeave = Callable[[], object]


class Watch(Protocol):
    """The result of a client's `watch`."""

    def close(self) -> None:
        """Stops watching."""


class LeftQueue(Exception):
    """The client has left while its request waited."""


class RequestQueue:
    """The waiting requests of one worker.

    Mutable: `waiting`, `results` and `waited_s` for metrics, and whether the worker stops.
    """

    def __init__(self, store: Store) -> None:
        self.waiting = 0
        self.results: Counter[Result] = Counter()
        self.waited_s = 0.0
        self.slot_times = SlotTimes()
        self._store = store
        self._woken: set[asyncio.Event] = set()
        self._stopped = False

    def stop(self) -> None:
        """Refuses all waiting requests, because the worker stops. Another one will serve them."""
        self._stopped = True
        for woken in self._woken:
            woken.set()

    async def admit(
        self,
        admit: Callable[[AdmissionRequest], Awaitable[Admission]],
        request: AdmissionRequest,
        queue_s: int,
        watch: Callable[[OnLeave], Watch],
    ) -> Admission:
        """Waits until a request is admitted. `admit` makes one attempt.

        Raises the refusal of the last attempt, GatewayError `shutting_down`, or LeftQueue.
        """
        loop = asyncio.get_running_loop()
        since_s, woken, gone = loop.time(), asyncio.Event(), asyncio.Event()
        request = request._replace(waits=True)

        def leave() -> None:
            gone.set()
            woken.set()

        client = watch(leave)
        self._woken.add(woken)
        self.waiting += 1
        result: Result = "refused"
        try:
            admission = await self._retry(admit, request, since_s + queue_s, woken, gone)
        except (LeftQueue, asyncio.CancelledError):
            result = "left"
            raise
        else:
            result = "admitted"
            return admission
        finally:
            client.close()
            self._woken.discard(woken)
            self.waiting -= 1
            self.results[result] += 1
            self.waited_s += loop.time() - since_s
            if result != "admitted":
                self._leave(request)

    async def _retry(
        self,
        admit: Callable[[AdmissionRequest], Awaitable[Admission]],
        request: AdmissionRequest,
        deadline_s: float,
        woken: asyncio.Event,
        gone: asyncio.Event,
    ) -> Admission:
        loop = asyncio.get_running_loop()
        while True:
            if gone.is_set():
                raise LeftQueue
            if self._stopped:
                raise GatewayError("shutting_down", "This gateway is stopping. Try again.", wait_ms=1000)
            try:
                return await admit(request)
            except AdmissionRefused as refused:
                left_s = deadline_s - loop.time()
                if not refused.queue_s or left_s <= 0:
                    raise
                pause_s = min(left_s, _MAX_PAUSE_S, _RETRY_S * (1 + refused.ahead / 4))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), pause_s)

    def _leave(self, request: AdmissionRequest) -> None:
        names = TeamKeys(request.key.team_id)
        reply = self._store.call(LEAVE, [names.queue, names.state], [request.request_id])
        reply.add_done_callback(_ignore_outage)


def _ignore_outage(reply: asyncio.Future[object]) -> None:
    """Ignores an unavailable store, because a place in the queue lapses by itself."""
    with contextlib.suppress(StoreUnavailable, StoreError, asyncio.CancelledError):
        reply.result()
