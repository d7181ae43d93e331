"""A threshold is noticed once, over workers, restarts and crashes; what was sent and not noted is sent again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.accounts.entities import Changes
from gateway.notices.outbox import MARK_LIFE_MS
from gateway.notices.thresholds import DAY_MS
from gateway.store.keyspace import NOTICE_MARKS, NOTICE_SENDER
from tests.support.ledgers import ask, open_ledger, settled
from tests.support.noticing import noticing, recipient
from tests.support.program import ROOT, environment
from tests.support.servers import Server
from tests.support.waiting import wait_until
from tests.support.webhook_receiver import Received, WebhookReceiver, webhook_receiver

PROGRAM = """
import asyncio, sys
from tests.support.noticing import noticing, recipient

async def main():
    async with noticing(sys.argv[1], recipient("ops", url=sys.argv[2]), timeout_s=0.3):
        await asyncio.Event().wait()

asyncio.run(main())
"""
"""The notices of a worker that can be killed."""


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with webhook_receiver() as running:
        yield running


def texts(receiver: WebhookReceiver) -> list[str]:
    return [str(sent.json["data"]["text"]) for sent in receiver.requests]


async def test_each_threshold_of_a_budget_is_noticed_once_as_requests_use_it_up(
    store: Server, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    ops = recipient("ops", url=receiver.url, balance_below=())
    async with open_ledger(store.url, tmp_path) as ledger, noticing(store.url, ops) as parts:
        key = await ledger.new_key(credit=1000, limits={"budget_usd_total": 100})
        for cost, wanted in ((49, 0), (1, 1), (10, 1), (25, 2), (15, 3)):
            admission = await ledger.ledger.admit(ask(key, amount=cost))
            await ledger.ledger.settle(settled(admission.hold, cost=cost))
            await parts.rounds_until(lambda wanted=wanted: len(receiver.requests) >= wanted)  # type: ignore[misc]  # mypy infers no type for a default
            await parts.rounds(2)
            assert len(receiver.requests) == wanted
        team = await parts.accounts.team(key.team_id)
        await parts.accounts.update_team(team, Changes(limits={"budget_usd_total": 120}))
        await parts.rounds_until(lambda: len(receiver.requests) == 4)
        await parts.rounds(2)
    thresholds = [sent.json["data"]["threshold_percent"] for sent in receiver.requests]
    assert thresholds == [50, 80, 100, 80], "at another limit it is noticed again"


async def test_what_falls_back_below_a_threshold_is_not_noticed_at_the_one_before(
    store: Server, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    ops = recipient("ops", url=receiver.url, balance_below=())
    async with open_ledger(store.url, tmp_path) as ledger, noticing(store.url, ops) as parts:
        key = await ledger.new_key(credit=1000, limits={"budget_usd_total": 100})
        admission = await ledger.ledger.admit(ask(key, amount=85))  # a hold counts as used
        await parts.rounds_until(lambda: receiver.requests)
        await ledger.ledger.settle(settled(admission.hold, cost=55))
        await parts.rounds(3)
        admission = await ledger.ledger.admit(ask(key, amount=30))
        await parts.rounds(3)
        await ledger.ledger.settle(settled(admission.hold, cost=1))
    assert [sent.json["data"]["threshold_percent"] for sent in receiver.requests] == [80]


async def test_a_key_that_expires_soon_is_noticed_with_its_team(store: Server, receiver: WebhookReceiver) -> None:
    async with noticing(store.url, recipient("ops", url=receiver.url, balance_below=())) as parts:
        team = await parts.new_team()
        soon_ms = int(time.time() * 1000) + 2 * DAY_MS
        key, _ = await parts.accounts.create_key(team, Changes(name="laptop", expires_ms=soon_ms))
        await parts.accounts.create_key(team, Changes(name="other", expires_ms=soon_ms * 2))
        revoked, _ = await parts.accounts.create_key(team, Changes(name="revoked", expires_ms=soon_ms))
        await parts.accounts.update_key(team, revoked, Changes(status="revoked"))
        await parts.rounds_until(lambda: receiver.requests)
        await parts.rounds(3)
    [sent] = receiver.requests
    assert sent.json["data"]["key"] == {"id": key.id, "name": "laptop"}
    assert (sent.json["type"], sent.json["data"]["threshold_days"]) == ("key.expiring", 7)


async def test_a_recipient_is_told_of_its_own_teams_alone(store: Server, receiver: WebhookReceiver) -> None:
    async with noticing(store.url, run=False) as parts:
        mine, other = await parts.new_team(), await parts.new_team()
    by_id = recipient("id", url=receiver.url, teams=frozenset({mine.id}))
    by_name = recipient("name", url=receiver.url, teams=frozenset({other.name}))
    async with noticing(store.url, by_id, by_name) as parts:
        await parts.rounds_until(lambda: len(receiver.requests) == 2)
        await parts.rounds(2)
    told = {(sent.json["data"]["recipient"], sent.json["data"]["team"]["id"]) for sent in receiver.requests}
    assert told == {("id", mine.id), ("name", other.id)}
    assert len(receiver.requests) == 2


async def test_several_workers_and_restarts_send_each_notice_once(store: Server, receiver: WebhookReceiver) -> None:
    ops = recipient("ops", url=receiver.url)
    async with noticing(store.url, ops) as one, noticing(store.url, ops) as other:
        teams = [await one.new_team() for _ in range(20)]
        await one.rounds_until(lambda: len(receiver.requests) == len(teams))
        await asyncio.gather(one.rounds(3), other.rounds(3))
        senders = [parts for parts in (one, other) if parts.notices.results["ops", "sent"]]
        assert len(senders) == 1, "one worker of all sends"
    store.run("DEL", NOTICE_SENDER)  # its turn has lapsed
    async with noticing(store.url, ops) as later:
        await later.rounds(3)
    assert Counter(sent.json["data"]["team"]["id"] for sent in receiver.requests) == {team.id: 1 for team in teams}


async def test_a_worker_that_dies_leaves_its_turn_to_another(store: Server, receiver: WebhookReceiver) -> None:
    store.run("SET", NOTICE_SENDER, "a-dead-worker", "PX", 1500)
    async with noticing(store.url, recipient("ops", url=receiver.url)) as parts:
        await parts.new_team()
        await parts.rounds(3)
        assert receiver.requests == []
        await parts.rounds_until(lambda: receiver.requests)
        assert len(receiver.requests) == 1


async def test_a_sender_that_is_killed_between_sending_and_noting_it_sends_again_under_the_same_id(
    store: Server, receiver: WebhookReceiver
) -> None:
    processes: list[subprocess.Popen[bytes]] = []

    def kill(_: Received) -> None:
        if len(receiver.requests) == 1:
            os.kill(processes[0].pid, signal.SIGKILL)
            processes[0].wait()

    def start() -> None:
        command = [sys.executable, "-c", PROGRAM, store.url, receiver.url]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment()))

    async with noticing(store.url, run=False) as parts:
        await parts.new_team()
        receiver.before_answer = kill
        try:
            start()
            await wait_until(lambda: processes[0].poll() is not None, what="the sender is killed")
            assert len(receiver.requests) == 1
            assert len(await parts.notices.outbox.waiting(10)) == 1
            start()
            await wait_until(lambda: len(receiver.requests) == 2, what="the next one sends it")

            async def is_noted() -> bool:
                return [one.result for one in await parts.notices.outbox.ended(10)] == ["sent"]

            deadline = time.monotonic() + 30
            while not await is_noted():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)  # until it is noted
        finally:
            for process in processes:
                process.kill()
                process.wait()
    first, second = receiver.requests
    assert first.id == second.id
    assert first.body == second.body


async def test_a_notice_is_sent_once_while_its_threshold_is_reached(store: Server, receiver: WebhookReceiver) -> None:
    async with noticing(store.url, recipient("ops", url=receiver.url)) as parts:
        await parts.new_team()
        await parts.rounds_until(lambda: receiver.requests)
        [(mark, first)] = marks(store)
        store.run("ZADD", NOTICE_MARKS, int(first - MARK_LIFE_MS / 2), mark)  # as after half of its life
        store.run("ZADD", NOTICE_MARKS, 1, "long-over")
        await parts.rounds_until(lambda: dict(marks(store))[mark] >= first)
        await parts.rounds(2)
        assert len(receiver.requests) == 1
        assert [name for name, _ in marks(store)] == [mark]


def marks(store: Server) -> list[tuple[bytes, float]]:
    """The thresholds that were noticed, with the time at which that is forgotten."""
    flat = store.run("ZRANGE", NOTICE_MARKS, 0, -1, "WITHSCORES")
    assert isinstance(flat, list)
    pairs = flat if flat and isinstance(flat[0], tuple) else list(zip(flat[::2], flat[1::2], strict=True))
    return [(name, float(score)) for name, score in pairs]
