"""What operators see is bounded: the audit log, refusals, a worker's notes, watchers, admin keys."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest

from gateway.accounts.admin_keys import MAX_ADMIN_KEYS, Admins
from gateway.errors import GatewayError
from gateway.observability.request_record import ErrorSummary, RequestRecord
from gateway.reporting.audit_log import Action, AuditLog
from gateway.reporting.live_requests import LiveRequests
from gateway.reporting.outcome_rollups import OutcomeRollups
from gateway.reporting.refused_requests import RefusedRequest, RefusedRequests
from gateway.reporting.request_reporter import MAX_EVENTS, MAX_REFUSED, RequestReporter
from gateway.reporting.request_timings import RequestTimings
from gateway.store import keyspace
from gateway.store.keyspace import ADMINS, AUDIT, TIMINGS_MS, TeamKeys
from tests.support.admins import admin_client, code_of
from tests.support.gateway import RunningGateway
from tests.support.ledgers import DAY_S, LedgerParts, open_ledger
from tests.support.servers import Server

NODE = 100  # entries in a node of a stream: what is trimmed at once


@pytest.fixture
async def parts(store: Server, tmp_path: Path) -> AsyncIterator[LedgerParts]:
    async with open_ledger(store.url, tmp_path) as opened:
        yield opened


async def test_the_audit_log_keeps_the_newest_entries(parts: LedgerParts) -> None:
    audit_log = AuditLog(parts.store, 100)
    for number in range(400):
        await audit_log.write(Action("root", "root", f"action {number}", "", "", None, None, "req_1"))
    assert 100 <= await parts.store.run("XLEN", AUDIT) <= 100 + NODE
    assert (await audit_log.read(None, 1, None)).data[0].action == "action 399"


async def test_a_long_change_is_cut_and_stays_readable(parts: LedgerParts) -> None:
    audit_log = AuditLog(parts.store, 100)
    await audit_log.write(Action("root", "root", "long", "", "", {"models": ["m" * 100] * 500}, None, "req_1"))
    (entry,) = (await audit_log.read(None, 1, None)).data
    assert set(entry.before) == {"cut"}


async def test_a_team_keeps_its_newest_refusals_for_a_while(parts: LedgerParts) -> None:
    key = await parts.new_key()
    log = RefusedRequests(parts.store, max_entries=10, retention_s=60)
    for number in range(300):
        refused = RefusedRequest(f"req_{number}", key.team_id, key.key_id, 429, "c", "m", "rpm", "key", "a/b")
        await log.write([(key.secret_hash, refused)])
    name = TeamKeys(key.team_id).refused
    assert 10 <= await parts.store.run("XLEN", name) <= 10 + NODE
    assert 0 < await parts.store.run("PTTL", name) <= 60_000


async def test_refusals_and_timings_that_are_older_than_they_may_be_go_though_new_ones_come(parts: LedgerParts) -> None:
    key, now_ms = await parts.new_key(), time.time_ns() // 1_000_000
    names, timings = TeamKeys(key.team_id), RequestTimings(parts.store)
    refused = RefusedRequest("req_new", key.team_id, key.key_id, 429, "c", "m", "rpm", "key", "a/b")
    for name, life_ms in ((names.refused, 60_000), (names.timings, TIMINGS_MS)):
        for age_ms in (2 * life_ms, life_ms + 2_000, life_ms - 2_000):
            await parts.store.run("XADD", name, f"{now_ms - age_ms}-0", "request", "req_old")
    await RefusedRequests(parts.store, max_entries=10, retention_s=60).write([(key.secret_hash, refused)])
    await timings.write([(key.team_id, "req_new", {})])
    for name in (names.refused, names.timings):
        assert await parts.store.run("XLEN", name) == 2, "a new one, and one that is not too old"


async def test_in_a_storm_a_worker_keeps_the_newest_and_counts_the_others(parts: LedgerParts) -> None:
    feed = RequestReporter(
        RefusedRequests(parts.store, max_entries=1000, retention_s=60),
        OutcomeRollups(parts.store, retention_s=60),
        RequestTimings(parts.store),
        LiveRequests(parts.store),
        AuditLog(parts.store, max_entries=100),
    )
    key = await parts.new_key()
    feed.watched = True
    for number in range(MAX_EVENTS + 7):
        record = RequestRecord(f"req_{number}", key=key)
        record.code, record.refusal = (
            "rate_limit_exceeded",
            ErrorSummary("slow down", MappingProxyType({"limit": "rpm"})),
        )
        feed.note(record)
    assert feed.dropped == 7 + MAX_EVENTS + 7 - MAX_REFUSED
    await feed.flush()
    stored = await parts.store.run("XRANGE", TeamKeys(key.team_id).refused, "-", "+")
    assert len(stored) == MAX_REFUSED
    assert stored[-1][1][1] == f"req_{MAX_EVENTS + 6}".encode()
    await feed.flush()
    assert await parts.store.run("XLEN", TeamKeys(key.team_id).refused) == MAX_REFUSED, "what was written is gone"


def test_one_watcher_too_many_is_refused_with_the_time_to_come_back(gateway: RunningGateway) -> None:
    feed = gateway.services.reporter
    before = feed.watchers
    feed.watchers = 50
    try:
        with admin_client(gateway) as root:
            answer: httpx.Response = root.get("/events")
    finally:
        feed.watchers = before
    assert (answer.status_code, code_of(answer)) == (429, "concurrency_exceeded")
    assert answer.headers["retry-after"] == "5"


async def test_one_admin_key_too_many_is_refused_and_one_that_was_never_finished_is_not_counted(
    parts: LedgerParts,
) -> None:
    ids = [f"none{number:06}" for number in range(MAX_ADMIN_KEYS)]
    admins, run = Admins(parts.store, idempotency_ttl_s=DAY_S), parts.store.run
    await run("ZADD", ADMINS, *(word for admin_id in ids for word in ("1", admin_id)))
    await asyncio.gather(*(run("HSET", keyspace.admin(admin_id), "name", "a") for admin_id in ids))
    try:
        with pytest.raises(GatewayError, match="Delete one first"):
            await admins.create("a", "read", team_id="", expires_ms=0, created_by="root")
        await run("DEL", keyspace.admin(ids[0]))
        created, _ = await admins.create("a", "read", team_id="", expires_ms=0, created_by="root")
        assert {admin.id for admin in await admins.admins()} == {created.id, *ids[1:]}
        await admins.delete(created)
    finally:
        await asyncio.gather(*(run("DEL", keyspace.admin(admin_id)) for admin_id in ids), run("DEL", ADMINS))
