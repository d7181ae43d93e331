"""What admins read costs clients little: it is bounded for each caller, and large reads go in pages and slices."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.api.admin.answers import SLICE_S, large_answer
from gateway.concurrency.caller_turns import CallerTurns
from gateway.errors import GatewayError
from gateway.store.keyspace import TeamKeys
from tests.support.admins import admin_client, code_of, done, new_admin, new_team
from tests.support.gateway import ADMIN_KEY, RunningGateway, running_gateway
from tests.support.servers import Server, valkey_server
from tests.support.stores import hasty, opened
from tests.support.waiting import let_run, wait_until_sync

TEAMS = 150
PENDING = 100
"""Calls that may wait for the store: more than a page of a large read, fewer than it has in all."""


async def test_of_one_caller_a_few_run_some_wait_in_order_and_the_others_come_back_later() -> None:
    turns, ran, ends = CallerTurns(2, 3), list[int](), [asyncio.Event() for _ in range(6)]

    async def call(number: int) -> None:
        async with turns.turn("one"):
            ran.append(number)
            await ends[number].wait()

    tasks = [asyncio.create_task(call(number)) for number in range(5)]
    await let_run()
    assert ran == [0, 1]
    with pytest.raises(GatewayError) as refused:
        await call(5)
    assert (refused.value.code, refused.value.wait_ms) == ("concurrency_exceeded", 1000)
    async with turns.turn("another"):
        pass
    tasks[2].cancel()
    ends[0].set()
    await let_run()
    assert ran == [0, 1, 3], "whoever left is skipped"
    for end in ends:
        end.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert ran == [0, 1, 3, 4]
    async with turns.turn("one"), turns.turn("one"):
        pass


async def test_a_call_that_is_cancelled_when_its_turn_comes_gives_it_on() -> None:
    turns, ran = CallerTurns(1, 2), list[str]()

    async def call(name: str) -> None:
        async with turns.turn("one"):
            ran.append(name)

    async with turns.turn("one"):
        first, second = (asyncio.create_task(call(name)) for name in ("first", "second"))
        await let_run()
    first.cancel()  # its turn has been given to it, and it has not run yet
    await asyncio.gather(first, second, return_exceptions=True)
    assert ran == ["second"]
    async with turns.turn("one"):
        pass


@pytest.fixture(scope="module")
def narrow(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway that does one thing at a time for an admin, and lets few calls wait for the store.

    It looks for expired holds once in ten minutes. That is a call for each team, and they would wait, too.
    """
    directory: Path = tmp_path_factory.mktemp("narrow")
    sections: dict[str, Any] = {
        "admin": {"max_parallel": 1, "max_waiting": 0},
        "store": {"max_pending": PENDING},
        "ledger": {"hold_ttl_s": 1800.0},
    }
    with valkey_server() as own, running_gateway(own.url, upstream, directory, **sections) as running:
        yield running


def test_beyond_the_bound_an_admin_key_is_told_when_to_come_back(narrow: RunningGateway) -> None:
    host, _, port = narrow.url.removeprefix("http://").partition(":")
    head = (
        f"POST /admin/v1/teams HTTP/1.1\r\nhost: gw\r\nauthorization: Bearer {ADMIN_KEY}\r\ncontent-length: 2\r\n\r\n"
    )
    with ExitStack() as stack:
        root = stack.enter_context(admin_client(narrow))
        reader = stack.enter_context(admin_client(narrow, new_admin(root, "read")))
        slow = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
        slow.sendall(head.encode())
        wait_until_sync(lambda: root.get("/whoami").is_error)
        answer = root.get("/teams")
        assert (answer.status_code, code_of(answer)) == (429, "concurrency_exceeded")
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("1", "1000")
        done(reader.get("/teams"))
        slow.sendall(b"{}")
        assert slow.recv(100).startswith(b"HTTP/1.1 400")
        wait_until_sync(lambda: root.get("/whoami").is_success)


def test_a_large_read_has_a_page_of_calls_on_its_way_and_no_more(narrow: RunningGateway) -> None:
    with admin_client(narrow) as root:
        names = {new_team(root)["name"] for _ in range(TEAMS)}
        assert names <= {team["name"] for team in done(root.get("/teams?limit=1000"))["data"]}
        for path in ("/requests?limit=1000", "/usage?by=team", "/usage?by=key&step=day", "/ledger/verify?limit=1000"):
            done(root.get(path))
        assert code_of(root.get("/requests/req_unknown")) == "request_not_found"
        team = min(names)
        for number in range(PENDING + 1):
            done(root.post(f"/teams/{team}/keys", json={"name": str(number)}))
        assert len(done(root.get(f"/teams/{team}/keys?limit=1000"))["data"]) == PENDING + 1
        assert done(root.get(f"/ledger/verify?team={team}"))["ok"]


async def test_a_large_answer_is_rendered_in_slices_between_which_others_run(store: Server) -> None:
    loop, turns, rows = asyncio.get_running_loop(), 0, 20

    def work(number: int) -> dict[str, int]:
        end_s = loop.time() + SLICE_S
        while loop.time() < end_s:
            pass
        return {"number": number, "turns": turns}

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with opened(hasty(store.url)) as opened_store:
        other = asyncio.create_task(others())
        answer = await large_answer(opened_store, {"data": map(work, range(rows)), "next": None}, "data")
        other.cancel()
    body = orjson.loads(answer.body)
    assert [row["number"] for row in body["data"]] == list(range(rows))
    assert len({row["turns"] for row in body["data"]}) > rows / 2, "others ran in between"


CORRUPT = {
    "a counter": ("HSET", "state", "open", "many"),
    "the packed counters": ("HSET", "state", "window", b"\x9d\xdb"),
    "counters of another type": ("SET", "state", "a mistake"),
    "a setting": ("HSET", "team", "created_ms", "yesterday"),
    "a limit": ("HSET", "team", "rpm", "fast"),
    "a missing setting": ("HDEL", "team", "version"),
}


@pytest.mark.parametrize("damage", CORRUPT.values(), ids=CORRUPT)
def test_a_team_that_cannot_be_read_is_listed_with_its_fault_and_the_others_as_ever(
    gateway: RunningGateway, store: Server, damage: tuple[str | bytes, ...]
) -> None:
    command, place, *words = damage
    with admin_client(gateway) as root:
        broken, whole = new_team(root), new_team(root)
        names = TeamKeys(broken["id"])
        name = names.state if place == "state" else names.team
        if command == "SET":
            store.run("DEL", name)
        store.run(command, name, *words)
        try:
            found = {team["id"]: team for team in done(root.get("/teams?limit=1000"))["data"]}
            assert found[whole["id"]] == whole
            assert "cannot be read" in found[broken["id"]]["fault"]
            assert done(root.get(f"/teams/{broken['id']}"))["fault"] == found[broken["id"]]["fault"]
            assert root.get(f"/teams/{broken['id']}/credits").status_code == (500 if place == "state" else 200)
            assert broken["id"] in {team["team_id"] for team in done(root.get("/ledger/verify?limit=1000"))["data"]}
            done(root.get("/requests"))
        finally:
            for key in store.run("KEYS", f"gw:{{{broken['id']}}}:*"):
                store.run("DEL", key)
            store.run("ZREM", "gw:teams", broken["id"])
            store.run("HDEL", "gw:team-names", broken["name"])


def test_a_key_that_cannot_be_read_is_listed_with_its_fault(gateway: RunningGateway, store: Server) -> None:
    with admin_client(gateway) as root:
        team = new_team(root)
        keys = [done(root.post(f"/teams/{team['id']}/keys", json={"name": name})) for name in ("broken", "whole")]
        store.run("HSET", TeamKeys(team["id"]).key(keys[0]["id"]), "rpm", "fast")
        found = done(root.get(f"/teams/{team['id']}/keys"))["data"]
        assert [bool(key["fault"]) for key in found] == [True, False]
