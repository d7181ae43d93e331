"""Background responses in the store: one ends each, the lease decides who may, and what a dead worker ran is found."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.identity.api_keys import ApiKey
from gateway.state.background import (
    Background,
    BackgroundPolicy,
    EndResult,
    Job,
    JobStep,
    QueueResult,
    ResponseEnd,
    new_job,
)
from gateway.state.event_log import EventLog
from gateway.state.records import StoredResponse
from gateway.state.responses import ResponseStore, StatePolicy
from gateway.store.keyspace import BACKGROUND_TEAMS, TeamKeys
from tests.state.answers import response
from tests.support.ledgers import LedgerParts
from tests.support.waiting import wait_until_found

LARGE = 1024 * 1024
POLICY = BackgroundPolicy(concurrency=2, queue=2, lease_s=60, max_duration_s=60, max_bytes=LARGE)
BRIEF = replace(POLICY, lease_s=0.1)


def background(ledgers: LedgerParts, policy: BackgroundPolicy = POLICY) -> Background:
    responses = ResponseStore(ledgers.store, StatePolicy(60, LARGE, LARGE, 100, LARGE))
    return Background(ledgers.store, responses, policy)


def record(job: Job, status: str) -> StoredResponse:
    made = response("text", job.response_id, status=status, background=True, store=job.kept)
    return StoredResponse(made, [], None, "key")


async def queued(kept: Background, team: str, identifier: str, *, stored: bool = True) -> tuple[Job, EventLog]:
    job, log = new_job(team, identifier, kept=stored), kept.new_log()
    log.add("response.created", {"response": {}})
    assert await kept.put(job, record(job, "queued"), log) is QueueResult.DONE
    return job, log


@pytest.fixture
async def key(ledgers: LedgerParts) -> ApiKey:
    return await ledgers.new_key()


@pytest.mark.parametrize("stored", [True, False])
async def test_of_all_that_end_a_response_at_once_one_does(ledgers: LedgerParts, key: ApiKey, stored: bool) -> None:
    kept = background(ledgers)
    for number in range(20):
        job, log = await queued(kept, key.team_id, f"resp_{stored}_{number}", stored=stored)
        endings = [ResponseEnd(record(job, status), log) for status in ("completed", "cancelled", "failed")]
        found = await asyncio.gather(
            kept.end(job, "worker", endings[0]),
            kept.end(job, "client", endings[1]),
            kept.end(job, "lost", endings[2]),
        )
        assert found.count(EndResult.DONE) == 1
        assert set(found) <= {EndResult.DONE, EndResult.ALREADY_ENDED, EndResult.LEASE}
        ended = await kept.responses.read(key.team_id, job.response_id)
        assert ended is not None
        assert ended.status == ("completed", "cancelled", "failed")[found.index(EndResult.DONE)]


async def test_a_worker_whose_lease_has_lapsed_ends_nothing(ledgers: LedgerParts, key: ApiKey) -> None:
    kept = background(ledgers, BRIEF)
    job, log = await queued(kept, key.team_id, "resp_a")
    await asyncio.sleep(0.15)  # time is what this test is about: longer than a lease
    assert await kept.end(job, "worker", ResponseEnd(record(job, "completed"), log)) is EndResult.LEASE
    log.add("response.in_progress", {"response": {}})
    await kept.keep_events(job, log)
    assert (await kept.events(key.team_id, job.response_id, 0)).data == b""
    assert await kept.end(job, "lost", ResponseEnd(record(job, "failed"), log)) is EndResult.DONE
    assert (await kept.round(key.team_id, [job])).steps == [JobStep.GONE]
    assert await kept.end(job, "worker", ResponseEnd(record(job, "completed"), log)) is EndResult.ALREADY_ENDED


async def test_a_token_of_another_worker_ends_and_renews_nothing(ledgers: LedgerParts, key: ApiKey) -> None:
    kept = background(ledgers)
    job, log = await queued(kept, key.team_id, "resp_a")
    stranger = job._replace(token="other")
    assert await kept.end(stranger, "worker", ResponseEnd(record(job, "completed"), log)) is EndResult.ALREADY_ENDED
    assert (await kept.round(key.team_id, [stranger])).steps == [JobStep.GONE]
    assert (await kept.round(key.team_id, [job])).steps == [JobStep.STARTS]


async def test_those_that_wait_start_in_their_order_on_whichever_worker(ledgers: LedgerParts, key: ApiKey) -> None:
    one, two = background(ledgers), background(ledgers)
    jobs = [(await queued((one, two)[n % 2], key.team_id, f"resp_{n}"))[0] for n in range(4)]
    mine, theirs = jobs[::2], jobs[1::2]
    job, log = new_job(key.team_id, "resp_more", kept=True), one.new_log()
    assert await one.put(job, record(job, "queued"), log) is QueueResult.FULL
    assert (await one.round(key.team_id, mine)).steps == [JobStep.STARTS, JobStep.WAITS]
    assert (await two.round(key.team_id, theirs)).steps == [JobStep.STARTS, JobStep.WAITS]
    assert (await two.round(key.team_id, theirs)).steps == [JobStep.RUNS, JobStep.WAITS]
    await one.end(mine[0], "worker", ResponseEnd(record(mine[0], "completed"), log))
    assert (await two.round(key.team_id, theirs)).steps == [JobStep.RUNS, JobStep.WAITS]
    assert (await one.round(key.team_id, mine)).steps == [JobStep.GONE, JobStep.STARTS]


async def test_a_pause_of_everybody_costs_no_lease_and_a_dead_worker_is_found_after_it(
    ledgers: LedgerParts, key: ApiKey
) -> None:
    kept = background(ledgers, BRIEF)
    mine, _ = await queued(kept, key.team_id, "resp_mine")
    await queued(kept, key.team_id, "resp_dead")
    await asyncio.sleep(0.2)  # time is what this test is about: the store stood still for longer than a lease
    found = await kept.round(key.team_id, [mine])
    assert (found.steps, found.lapsed, found.left) == ([JobStep.STARTS], [], 2)

    async def lapsed() -> bool:
        return (await kept.round(key.team_id, [mine])).lapsed == ["resp_dead"]

    await wait_until_found(lapsed, what="the other worker's lease lapses")
    await kept.fail_lost(key.team_id, "resp_mine")
    assert (await kept.round(key.team_id, [mine])).steps == [JobStep.RUNS]
    await kept.fail_lost(key.team_id, "resp_dead")
    dead = await kept.responses.read(key.team_id, "resp_dead")
    assert dead is not None
    assert (dead.status, dead.response["error"]["code"]) == ("failed", "server_error")
    last = (await kept.events(key.team_id, "resp_dead", 0)).data
    assert last.startswith(b"event: response.failed\n")


async def test_teams_are_told_to_one_worker_when_their_leases_may_have_lapsed(
    ledgers: LedgerParts, key: ApiKey
) -> None:
    kept = background(ledgers, replace(POLICY, lease_s=0.2))
    await queued(kept, key.team_id, "resp_a")
    assert key.team_id not in await kept.due_teams()
    told: list[str] = []

    async def is_due() -> bool:
        found = await asyncio.gather(*(kept.due_teams() for _ in range(5)))
        told.extend(due[key.team_id] for due in found if key.team_id in due)
        return bool(told)

    await wait_until_found(is_due)
    assert len(told) == 1
    await kept.note_teams([key.team_id])
    await kept.forget(key.team_id, told[0])
    assert await ledgers.store.run("ZSCORE", BACKGROUND_TEAMS, key.team_id) is not None
    told.clear()
    await wait_until_found(is_due)
    await kept.forget(key.team_id, told[0])
    assert await ledgers.store.run("ZSCORE", BACKGROUND_TEAMS, key.team_id) is None


async def test_a_response_whose_job_was_lost_reads_as_failed(ledgers: LedgerParts, key: ApiKey) -> None:
    kept = background(ledgers)
    await queued(kept, key.team_id, "resp_a")
    await ledgers.store.run("DEL", TeamKeys(key.team_id).background)
    found = await kept.responses.read(key.team_id, "resp_a")
    assert found is not None
    assert found.status == "failed"


async def test_events_are_read_behind_any_number_while_it_runs_and_after(ledgers: LedgerParts, key: ApiKey) -> None:
    kept = background(ledgers)
    job, log = await queued(kept, key.team_id, "resp_a")
    for number in range(1, 600):  # more pieces than are read at once
        log.add("response.output_text.delta", {"delta": str(number)})
        await kept.keep_events(job, log)

    async def behind(number: int) -> list[bytes]:
        data, last = b"", number
        while True:
            found = await kept.events(key.team_id, job.response_id, last)
            data, last = data + found.data, found.last
            if not found.data:
                return [event for event in data.split(b"\n\n") if event]

    for number in (-1, 0, 1, 250, 255, 256, 511, 598, 599, 700):
        assert len(await behind(number)) == max(0, 599 - number)
    await kept.end(job, "worker", ResponseEnd(record(job, "completed"), log))
    for number in (-1, 0, 256, 598, 599, 700):
        assert len(await behind(number)) == max(0, 599 - number)


async def test_events_that_are_too_large_to_keep_end_with_the_response_shown_again(
    ledgers: LedgerParts, key: ApiKey
) -> None:
    from gateway.state.following import follow  # noqa: PLC0415 - beside the one test of it

    kept = background(ledgers)
    job, log = new_job(key.team_id, "resp_a", kept=True), EventLog(max_bytes=10)
    log.add("response.created", {"response": {}})
    await kept.put(job, record(job, "queued"), log)
    for number in range(1, 100):
        log.add("response.output_text.delta", {"delta": str(number)})
    await kept.keep_events(job, log)
    await kept.end(job, "worker", ResponseEnd(record(job, "completed"), log))
    told = [data async for data in follow(kept, key.team_id, "resp_a", 99)]
    assert b'"sequence_number":100' in told[0]
    assert told[0].startswith(b"event: response.completed\n")
