"""Background responses in the store: queued, run under a lease, ended once.

    put(job, record, log)        queues a response; the result is TAKEN, PARENT_GONE or FULL if that is impossible
    round(team, jobs)            renews a worker's leases, starts jobs that may run, and returns the lapsed ones
    keep_events(job, log)        stores the events of a running response
    end(job, ended_by, end)      ends a response: its worker while it has the lease, a client, or anyone after the lease
    fail_lost(team, id)          ends a response whose worker has died; it is not run again
    events(team, id, number)     the events after a number, and whether more will come

Each step is one script in the team's slot. A job that has ended is removed from the list of jobs, so that nothing can
change it any more. Raises GatewayError `store_unavailable`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import structlog

from gateway.concurrency.off_loop import LONG_BYTES
from gateway.errors import GatewayError, JsonScalar
from gateway.protocol.response_events import RUNNING
from gateway.protocol.sse_framing import split_events
from gateway.state.event_log import EventLog, Piece, after
from gateway.state.records import Sealer, StoredResponse, pack_bytes, unpack_bytes
from gateway.state.replay import terminal_event
from gateway.state.responses import ResponseStore
from gateway.state.snapshot import failed_response
from gateway.store.keyspace import BACKGROUND_TEAMS, TeamKeys
from gateway.store.replies import gather
from gateway.store.script import Script
from gateway.store.store import Store

PUT: Final = Script.load("background_put_v1")
ROUND: Final = Script.load("background_round_v1")
EVENTS: Final = Script.load("background_events_v1")
END: Final = Script.load("background_end_v2")
DELETE: Final = Script.load("background_delete_v1")
TEAMS: Final = Script.load("background_teams_v1")
TEMPORARY_MS: Final = 600_000
"""How long a response that is not stored can be read after it has ended. OpenAI keeps it about ten minutes."""
QUEUE_FULL_WAIT_MS: Final = 5000
"""An estimate, because it is unknown when a place in the queue becomes free."""
_MAX_PIECES: Final = 256
_LIST_LIFE_MS: Final = "86400000"
_LOST: Final = ("server_error", "The worker that ran the response has stopped. The response is not run again.")

EndedBy = Literal["worker", "lost", "client", "unborn"]


@dataclass(frozen=True, slots=True)
class BackgroundPolicy:
    """Bounds of background responses.

    `concurrency` and `queue`: how many responses of one team may run and wait. `lease_s`: how long a worker may be
    silent before its responses fail. `max_duration_s`: how long one may wait and run together. `max_bytes`: of all
    requests that wait in one worker.
    """

    concurrency: int
    queue: int
    lease_s: float
    max_duration_s: float
    max_bytes: int


class QueueResult(IntEnum):
    """The result of queueing a response."""

    DONE = 1
    TAKEN = 0
    PARENT_GONE = -1
    FULL = -2


class EndResult(IntEnum):
    """The result of ending a response."""

    DONE = 1
    DELETED = 2  # it was deleted meanwhile, so it is not kept
    NOT_APPENDED = 3  # its conversation is full
    ALREADY_ENDED = 0
    LEASE = -1  # for its worker: its lease has lapsed; for others: it has not lapsed yet


class JobStep(IntEnum):
    """What a round decides about a job."""

    GONE = 0
    WAITS = 1
    STARTS = 2
    RUNS = 3


_STEPS: Final[Mapping[int, JobStep]] = MappingProxyType({int(step): step for step in JobStep})


class Job(NamedTuple):
    """One background response, and the token of the worker that runs it. `kept`: it is stored after it has ended."""

    team_id: str
    response_id: str
    token: str
    kept: bool


class ResponseEnd(NamedTuple):
    """The end of a response: its record, its events, and the items that its conversation gets."""

    record: StoredResponse
    log: EventLog
    conversation: str | None = None
    lock: str = ""
    appended: Sequence[bytes] = ()


class Round(NamedTuple):
    """The result of a round: a step for each job, the ids with lapsed leases, and how many jobs the team has left."""

    steps: Sequence[JobStep]
    lapsed: Sequence[str]
    left: int


class FoundEvents(NamedTuple):
    """Events of a response. `last`: the number of the last one. `is_over`: no more will come.

    `are_gone`: the response has ended, and its events were not kept.
    """

    last: int
    data: bytes
    is_over: bool
    are_gone: bool


def new_job(team_id: str, response_id: str, *, kept: bool) -> Job:
    """Returns a job with a token of its own."""
    return Job(team_id, response_id, secrets.token_hex(8), kept)


def _keys(job: Job) -> list[str]:
    return TeamKeys(job.team_id).background_response(job.response_id)


def queue_full(message: str, limit: int, scope: str) -> GatewayError:
    """Returns the refusal of a background response for which there is no room."""
    explain: dict[str, JsonScalar] = {"limit": limit, "scope": scope}
    return GatewayError("background_queue_full", message, wait_ms=QUEUE_FULL_WAIT_MS, explain=explain)


class Background:
    """The background responses of all teams. Mutable: the bytes of all requests that wait in this worker."""

    def __init__(
        self, store: Store, responses: ResponseStore, policy: BackgroundPolicy, sealer: Sealer | None = None
    ) -> None:
        self.policy = policy
        self.responses = responses
        self._store = store
        self._sealer = sealer
        self._lease_ms = str(int(policy.lease_s * 1000))
        self._max_duration_ms = str(int(policy.max_duration_s * 1000))
        self._waiting_bytes = 0
        self._log = structlog.get_logger("gateway.state")

    def reserve_bytes(self, size: int) -> None:
        """Reserves room for a request that waits in this worker. Raises GatewayError `background_queue_full`."""
        if self._waiting_bytes + size > self.policy.max_bytes:
            raise queue_full(
                "This worker holds as many background requests as it may.", self.policy.max_bytes, "worker"
            )
        self._waiting_bytes += size

    def release_bytes(self, size: int) -> None:
        """Releases the room of a request that has ended."""
        self._waiting_bytes -= size

    def new_log(self) -> EventLog:
        """Returns a log for the events of one response."""
        return EventLog(self.responses.policy.max_response_bytes)

    async def put(self, job: Job, record: StoredResponse, log: EventLog) -> QueueResult:
        """Queues a response. Raises ValueError if it is too large to be stored."""
        await self.note_teams([job.team_id])
        policy, piece = self.responses.policy, log.unsent or Piece(0, b"")
        args: list[str | bytes] = [
            job.response_id,
            (record.parent or "") if job.kept else "",
            await self.responses.packed(job.team_id, record),
            job.token,
            self._lease_ms,
            str(self.policy.concurrency + self.policy.queue),
            "kept" if job.kept else "temporary",
            str(policy.ttl_s * 1000),
            str(policy.max_team_bytes),
            self._max_duration_ms,
            str(piece.end),
            await self._packed(job.team_id, piece.data),
        ]
        done = QueueResult((await gather([self._store.call(PUT, _keys(job), args, is_large=True)]))[0])
        if done is QueueResult.DONE:
            log.sent(piece)
        return done

    async def round(self, team_id: str, jobs: Sequence[Job]) -> Round:
        """Runs one round for the jobs of one team that a worker has, which may be none."""
        args = [self._lease_ms, str(self.policy.concurrency), self._max_duration_ms]
        for job in jobs:
            args += [job.response_id, job.token]
        call = self._store.call(ROUND, [TeamKeys(team_id).background], args)
        steps, lapsed, left = (await gather([call]))[0]
        return Round([_STEPS[step] for step in steps], [raw.decode() for raw in lapsed], left)

    async def keep_events(self, job: Job, log: EventLog) -> None:
        """Stores the new events of a running response. If that fails, they stay in the log."""
        piece = log.unsent
        if piece is None:
            return
        keys = TeamKeys(job.team_id)
        names = [keys.background, keys.background_response(job.response_id)[5]]
        packed = await self._packed(job.team_id, piece.data)
        args: list[str | bytes] = [job.response_id, job.token, str(piece.end), packed, self._max_duration_ms]
        await gather([self._store.call(EVENTS, names, args, is_large=True)])
        log.sent(piece)

    async def end(self, job: Job, ended_by: EndedBy, response_end: ResponseEnd) -> EndResult:
        """Ends a response. Raises ValueError if it is too large to be stored."""
        policy = self.responses.policy
        packed = await self.responses.packed(job.team_id, response_end.record)
        events = await self._packed(job.team_id, response_end.log.whole) if response_end.log.whole else b""
        if len(packed) + len(events) > policy.max_response_bytes:
            events = b""  # its stream can then only be replayed from the response
        args: list[str | bytes] = [
            job.response_id,
            ended_by,
            job.token,
            packed,
            events,
            "kept" if job.kept else "temporary",
            str(policy.ttl_s * 1000),
            str(policy.max_team_bytes),
            self.responses.item_ids(response_end.record),
            str(TEMPORARY_MS),
            str(response_end.log.end),
            str(policy.max_response_bytes),
            response_end.lock,
            response_end.conversation or "",
            *response_end.appended,
        ]
        keys = _keys(job)
        if response_end.conversation is not None:
            names = TeamKeys(job.team_id)
            keys += [names.conversation(response_end.conversation), *names.conversation_account]
        return EndResult((await gather([self._store.call(END, keys, args, is_large=True)]))[0])

    async def delete(self, team_id: str, response_id: str) -> bool:
        """Deletes a temporary response, and cancels a running one. Returns whether there was one."""
        call = self._store.call(DELETE, TeamKeys(team_id).background_response(response_id), [response_id])
        return bool((await gather([call]))[0])

    async def cancel(self, team_id: str, record: StoredResponse, response: dict[str, Any]) -> bool:
        """Ends a waiting or running response with this last state. Returns False if it had ended already."""
        ended = await self._end_without_worker(team_id, "client", record._replace(response=response))
        return ended is not EndResult.ALREADY_ENDED

    async def fail_lost(self, team_id: str, response_id: str) -> None:
        """Marks a response whose worker has died as failed."""
        record = await self.responses.read(team_id, response_id)
        if record is None or record.status not in RUNNING:
            return
        failed = record._replace(response=failed_response(record.response, *_LOST))
        if await self._end_without_worker(team_id, "lost", failed) is EndResult.DONE:
            self._log.warning("background_response_lost", team_id=team_id, response_id=response_id)

    async def _end_without_worker(self, team_id: str, ended_by: EndedBy, record: StoredResponse) -> EndResult:
        job = Job(team_id, record.response_id, "-", record.response.get("store") is not False)
        found = await self.events(team_id, record.response_id, -1)
        log = self.new_log()
        log.restore(found.data)
        log.add(*terminal_event(record.response))
        return await self.end(job, ended_by, ResponseEnd(record, log))

    async def events(self, team_id: str, response_id: str, number: int) -> FoundEvents:
        """Returns the events of a response so far, after the one with this number."""
        contents, *_, jobs, events, _ = TeamKeys(team_id).background_response(response_id)
        calls = [
            self._store.run("HEXISTS", jobs, response_id),
            self._store.run("XRANGE", events, f"{number + 2}-0", "+", "COUNT", str(_MAX_PIECES)),
            self._store.run("HGET", contents, f"{response_id}|events"),
            self._store.run("EXISTS", events),
        ]
        runs, entries, whole, follows = await gather(calls)
        if whole is not None:
            data = unpack_bytes(whole, team_id, self._sealer)
            pieces = [Piece(len(split_events(data)), data)]
        else:
            pieces = [
                Piece(int(name.partition(b"-")[0]), unpack_bytes(fields[1], team_id, self._sealer))
                for name, fields in entries
            ]
        is_over = not runs and len(entries) < _MAX_PIECES
        return FoundEvents(*after(pieces, number), is_over, is_over and whole is None and not follows)

    async def note_teams(self, team_ids: Sequence[str]) -> None:
        """Notes that these teams have jobs, so that other workers find them if this one dies."""
        await self._teams("note", *team_ids)

    async def due_teams(self) -> dict[str, str]:
        """Returns the teams whose leases may have lapsed. The values are for `forget`."""
        reply = await self._teams("due")
        return dict(zip((raw.decode() for raw in reply[::2]), map(str, reply[1::2]), strict=True))

    async def forget(self, team_id: str, ends: str) -> None:
        """Notes that a team has no jobs any more, unless it was noted again since `due_teams`."""
        await self._teams("forget", team_id, ends)

    async def _teams(self, what: str, *names: str) -> list[Any]:
        args = [what, self._lease_ms, _LIST_LIFE_MS, *names]
        reply: list[Any] = (await gather([self._store.call(TEAMS, [BACKGROUND_TEAMS], args)]))[0]
        return reply

    async def _packed(self, team_id: str, data: bytes) -> bytes:
        work = partial(pack_bytes, data, team_id, self._sealer)
        return await self.responses.large_work.run(work, is_long=len(data) > LONG_BYTES)
