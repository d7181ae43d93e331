"""Runs the background responses of one worker. Each has a task of its own, after its client has been answered.

    runner.accept(...)     takes a response that was admitted and queued, and returns the answer for its client
    runner.round()         every ROUND_S: renews leases, starts the responses that may run, ends cancelled ones
    runner.finish(...)     waits for the responses at shutdown

A response that waits keeps its hold and its place in the queue. If its worker dies, its lease lapses, and any worker
then marks it as failed. It is not run again, because it may have started work at the provider.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from gateway.billing.lifecycle import TRANSITIONS, Event, Outcome
from gateway.billing.settlement import void
from gateway.concurrency.cancellation import CancelScope, Reason
from gateway.errors import GatewayError
from gateway.http.client import Client
from gateway.ledger.admissions import AdmissionRefused
from gateway.ledger.ledger import Ledger
from gateway.observability.request_record import RequestRecord
from gateway.protocol.operations import Operation
from gateway.proxy.admission import Admitted
from gateway.proxy.admitting import admit_request
from gateway.proxy.background_client import BackgroundClient
from gateway.state.background import Background, JobStep
from gateway.state.background_turn import BackgroundTurn, Problem
from gateway.state.stored_calls import LocalAnswer, LocalStream, response_answer

ROUND_S: Final = 0.25
"""The interval between rounds. A cancelled response ends within two rounds."""
_NOTES_PER_LEASE: Final = 3
_STOPPED: Final = Problem("server_error", "The gateway was stopped before the response ran.")
_WAITED_TOO_LONG: Final = Problem("server_error", "The response waited for too long.")


class RequestRunner(Protocol):
    """The methods of the request handler that a background response uses."""

    @property
    def running(self) -> Mapping[CancelScope, HasRecord]:
        """The requests that talk to an upstream, by the scope that can cancel each."""

    async def exchange(self, admitted: Admitted, client: Client, record: RequestRecord) -> None:
        """Runs steps 5 to 8 for an admitted request."""

    async def refuse(self, operation: Operation, client: Client, record: RequestRecord, error: GatewayError) -> None:
        """Answers with an error of the gateway's own."""


class HasRecord(Protocol):
    """A request that talks to an upstream."""

    @property
    def record(self) -> RequestRecord:
        """Its record."""


@dataclass(slots=True, eq=False)
class BackgroundRun:
    """One background response. `on_end` is called when it has ended, whatever the reason.

    `waits_until_s` is the event loop's time at which it has waited for too long. `may_start` is resolved with True by
    the first round that has room for the response, or with False if it will not run. Mutable: its task, and whether it
    was cancelled.
    """

    admitted: Admitted
    turn: BackgroundTurn
    client: BackgroundClient
    record: RequestRecord
    on_end: Callable[[], None]
    waits_until_s: float
    may_start: asyncio.Future[bool]
    task: asyncio.Task[None] | None = None
    is_cancelled: bool = False

    def release(self, *, may_run: bool) -> None:
        """Ends the waiting of the response: it runs, or it will not run at all."""
        if not self.may_start.done():
            self.may_start.set_result(may_run)


class BackgroundRunner:
    """Runs the background responses of one worker.

    Mutable: its responses, and the teams that it searches for responses of dead workers.
    """

    def __init__(self, background: Background, ledger: Ledger, requests: RequestRunner, max_wait_s: float) -> None:
        self._background = background
        self._ledger = ledger
        self._requests = requests
        self._max_wait_s = max_wait_s
        self._runs: dict[str, BackgroundRun] = {}
        self._watched: dict[str, tuple[str, int]] = {}  # team -> result of `due_teams`, remaining rounds
        self._loop = asyncio.get_running_loop()
        self._last_note_s = float("-inf")
        self._last_search_s = float("-inf")
        self._note_interval_s = background.policy.lease_s / _NOTES_PER_LEASE
        self._log = structlog.get_logger("gateway.background")

    @property
    def running(self) -> int:
        """The number of responses that run or wait in this worker."""
        return len(self._runs)

    def accept(
        self,
        admitted: Admitted,
        turn: BackgroundTurn,
        client: Client,
        record: RequestRecord,
        on_end: Callable[[], None],
    ) -> LocalAnswer | LocalStream:
        """Takes a queued response, which runs as soon as there is room. Returns the answer for its client."""
        turn.accepted = True
        record.response_id = turn.response_id
        run = BackgroundRun(
            admitted,
            turn,
            BackgroundClient(client, turn),
            record,
            on_end,
            self._loop.time() + self._max_wait_s,
            self._loop.create_future(),
        )
        self._runs[turn.job.response_id] = run
        run.task = asyncio.create_task(self._run(run), name=f"background-{record.request_id}")
        return turn.event_stream if record.stream else response_answer(turn.snapshot)

    async def _run(self, run: BackgroundRun) -> None:
        try:
            if await run.may_start:
                admitted = await self._admit_after_summary(run)
                if admitted is not None:
                    await self._requests.exchange(admitted, run.client, run.record)
            else:
                await self._discard(run)
        except Exception:  # noqa: BLE001 - nobody awaits this task: a bug is logged, and the response fails by its lease
            self._log.exception("background_run_failed", request_id=run.record.request_id)
        finally:
            del self._runs[run.turn.job.response_id]
            run.on_end()

    async def _admit_after_summary(self, run: BackgroundRun) -> Admitted | None:
        """Makes the summary that is due, and returns the admitted request. None: the response has ended instead."""
        admitted, record = run.admitted, run.record
        summary = admitted.pending_summary
        if summary is None:
            return admitted
        try:
            routed = await summary.make(admitted._replace(turn=None, pending_summary=None), run.client)
            if routed is not None and not run.is_cancelled:
                return await admit_request(admitted.snapshot, self._ledger, routed, run.client, record)
            record.outcome = Outcome.CANCELLED if run.is_cancelled else Outcome.SHUT_DOWN
            run.turn.problem = _STOPPED
        except GatewayError as error:
            if isinstance(error, AdmissionRefused):
                record.day = error.day
            await self._requests.refuse(admitted.target.operation, run.client, record, error)
        record.state = TRANSITIONS[record.state, Event.REFUSE]
        await run.turn.close()
        await summary.give_up()
        return None

    async def _discard(self, run: BackgroundRun) -> None:
        """Ends a response that will not run, and releases its hold."""
        record, summary = run.record, run.admitted.pending_summary
        if summary is not None:
            await summary.discard(run.admitted)
            await summary.give_up()
            record.outcome, record.state = Outcome.CANCELLED, TRANSITIONS[record.state, Event.REFUSE]
            await run.turn.close()
            return
        record.outcome, record.state = Outcome.CANCELLED, TRANSITIONS[record.state, Event.VOID]
        record.settlement = void(run.admitted.admission.hold, record.outcome)
        record.spooled = await self._ledger.settle(record.settlement) is None
        await run.turn.close()

    def _cancel(self, run: BackgroundRun) -> None:
        """Ends a response that was cancelled, whether it runs or waits."""
        run.is_cancelled = True
        run.release(may_run=False)
        summary = run.admitted.pending_summary
        records = [run.record] if summary is None else [run.record, summary.record]
        for cancel_scope, relay in list(self._requests.running.items()):
            if any(relay.record is one for one in records):
                cancel_scope.cancel(Reason.CANCELLED)

    async def round(self) -> None:
        """Runs one round. Raises GatewayError `store_unavailable`."""
        by_team: defaultdict[str, list[BackgroundRun]] = defaultdict(list)
        for run in self._runs.values():
            by_team[run.turn.job.team_id].append(run)
        await self._note_teams(list(by_team))
        for team_id in {*by_team, *self._watched}:
            await self._run_team_round(team_id, by_team.get(team_id, []))
        for runs in by_team.values():
            for run in runs:
                await run.turn.keep_events()

    async def _run_team_round(self, team_id: str, runs: list[BackgroundRun]) -> None:
        steps, lapsed, left = await self._background.round(team_id, [run.turn.job for run in runs])
        for run, step in zip(runs, steps, strict=True):
            if step is JobStep.GONE:
                self._cancel(run)
            elif step is not JobStep.WAITS:
                run.release(may_run=True)
            elif self._loop.time() >= run.waits_until_s:
                run.turn.problem = _WAITED_TOO_LONG
                run.release(may_run=False)
        for response_id in lapsed:
            await self._background.fail_lost(team_id, response_id)
        if team_id in self._watched:
            ends, rounds = self._watched.pop(team_id)
            if not left:
                await self._background.forget(team_id, ends)
            elif rounds > 0:
                self._watched[team_id] = ends, rounds - 1

    async def _note_teams(self, team_ids: list[str]) -> None:
        """Notes the teams that have responses here, and looks for teams whose workers may have died."""
        now_s = self._loop.time()
        if team_ids and now_s - self._last_note_s >= self._note_interval_s:
            await self._background.note_teams(team_ids)
            self._last_note_s = now_s
        if now_s - self._last_search_s >= self._note_interval_s:
            self._last_search_s = now_s
            rounds = int(self._background.policy.lease_s * 2 / ROUND_S)
            for team_id, ends in (await self._background.due_teams()).items():
                self._watched[team_id] = ends, rounds

    def stop(self) -> None:
        """Ends the responses that wait. Those that run are ended together with all other requests."""
        for run in list(self._runs.values()):
            if not run.may_start.done():
                run.turn.problem = _STOPPED
                run.release(may_run=False)

    async def finish(self, timeout_s: float, stop: Callable[[], None]) -> None:
        """Waits until all responses have ended. `stop` is called after `timeout_s` to end those that still run."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=timeout_s)
        if left:
            stop()
            await asyncio.wait(left)
