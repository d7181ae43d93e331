"""The store as a whole: its breaker, and every way in which a store goes away and comes back."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import uvloop

from gateway.store.script import Script
from gateway.store.store import Store, StoreError, StoreSettings, StoreUnavailable
from tests.support.servers import STORES, Server, binary_of, valkey_server
from tests.support.stores import COUNT, hasty, opened
from tests.support.waiting import wait_until


@pytest.fixture(params=STORES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with valkey_server(binary=binary_of(request.param)) as server:
        yield server


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Store]:
    async with opened(hasty(server.url)) as store:
        assert store.available
        yield store


async def reason(future: asyncio.Future[object]) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        await future
    return caught.value.reason


async def counts(store: Store) -> bool:
    """Whether a script call is answered now."""
    try:
        await store.call(COUNT, ["n"], [1])
    except StoreUnavailable:
        return False
    return True


async def test_calls_run_scripts_and_plain_commands(store: Store) -> None:
    assert await store.call(COUNT, ["n"], [2]) == 2
    assert await store.call(COUNT, ["n"], ["3"]) == 5
    assert await store.run("GET", "n") == b"5"
    assert await store.run("PING") == b"PONG"
    assert store.fault is None


async def test_the_redis_client_reaches_the_same_data(store: Store) -> None:
    await store.call(COUNT, ["n"], [7])
    assert await store.redis.get("n") == b"7"


async def test_arguments_of_a_wrong_type_fail_the_future_alone(store: Store) -> None:
    wrong: list[int] = [None]  # type: ignore[list-item]  # what a caller without mypy may pass
    for future in (store.call(COUNT, ["n"], wrong), store.run("GET", *wrong)):
        with pytest.raises(StoreError):
            await future
    assert await counts(store)


async def test_a_store_that_works_has_no_task_and_leaves_no_key(store: Store, server: Server) -> None:
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert server.run("DBSIZE") == 0


async def test_a_hung_store_opens_the_breaker_until_it_answers_again(store: Store, server: Server) -> None:
    changes: list[bool] = []
    store.on_change = changes.append
    server.pause()
    assert await reason(store.call(COUNT, ["n"], [1])) == "timeout"
    assert not store.available
    refused = [store.call(COUNT, ["n"], [1]) for _ in range(1000)]
    assert all(call.done() for call in refused)  # none waits: nothing piles up
    assert {await reason(call) for call in refused} == {"timeout"}
    assert store.fault is not None
    server.resume()
    await wait_until(lambda: store.available)
    assert changes == [False, True]
    assert await counts(store)


async def test_a_hung_store_stays_unavailable_while_it_hangs(store: Store, server: Server) -> None:
    server.pause()
    await reason(store.call(COUNT, ["n"], [1]))
    changes: list[bool] = []
    store.on_change = changes.append
    with pytest.raises(TimeoutError):  # several probes long
        await asyncio.wait_for(asyncio.Event().wait(), 0.6)
    assert changes == []
    server.resume()


async def test_a_killed_store_that_restarts_without_its_scripts_serves_again(store: Store, server: Server) -> None:
    assert await counts(store)
    server.kill()
    await wait_until(lambda: not store.available)
    assert await reason(store.call(COUNT, ["n"], [1])) in {"lost", "connect"}
    server.start()
    await wait_until(lambda: store.available)
    assert await store.call(COUNT, ["n"], [1]) == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_script_flush_goes_unnoticed(store: Store, server: Server) -> None:
    for number in range(1, 4):
        assert await store.call(COUNT, ["n"], [1]) == number
        server.run("SCRIPT", "FLUSH")


async def test_a_store_that_is_down_at_the_start_is_found_when_it_comes(server: Server) -> None:
    server.kill()
    async with opened(hasty(server.url)) as store:
        assert not store.available
        assert await reason(store.call(COUNT, ["n"], [1])) == "connect"
        server.start()
        await wait_until(lambda: store.available)
        assert await counts(store)


async def test_a_read_only_replica_is_unavailable_until_it_is_promoted(server: Server) -> None:
    with valkey_server(tcp=True) as primary, valkey_server(replicaof=f"127.0.0.1 {primary.port}") as replica:
        async with opened(hasty(replica.url)) as store:
            assert await reason(store.call(COUNT, ["n"], [1])) == "READONLY"
            assert not store.available
            replica.run("REPLICAOF", "NO", "ONE")
            await wait_until(lambda: store.available)
            assert await counts(store)


async def test_a_primary_that_is_demoted_becomes_unavailable(store: Store, server: Server) -> None:
    with valkey_server(tcp=True) as primary:
        server.run("REPLICAOF", "127.0.0.1", primary.port)
        await wait_until(lambda: store.run("SET", "n", 1).done() or not store.available)
        assert not store.available
        server.run("REPLICAOF", "NO", "ONE")
        await wait_until(lambda: store.available)


@pytest.mark.parametrize(
    ("option", "broken", "mended", "word"),
    [("maxmemory", "1", "0", "OOM"), ("min-replicas-to-write", "1", "0", "NOREPLICAS")],
)
async def test_a_store_that_refuses_writes_is_unavailable_until_it_takes_them(
    store: Store, server: Server, option: str, broken: str, mended: str, word: str
) -> None:
    server.run("CONFIG", "SET", option, broken)
    assert await reason(store.call(COUNT, ["n"], [1])) == word
    assert not store.available
    assert await reason(store.call(COUNT, ["n"], [1])) == word
    server.run("CONFIG", "SET", option, mended)
    await wait_until(lambda: store.available)
    assert await counts(store)


async def test_a_store_that_loads_its_data_is_unavailable_until_it_has() -> None:
    with valkey_server(
        rdbcompression="no", key_load_delay="500", loading_process_events_interval_bytes="1024"
    ) as server:
        server.run("EVAL", "for i = 1, 2000 do redis.call('SET', KEYS[1] .. i, ('x'):rep(100)) end", 1, "key")
        server.run("SAVE")
        async with opened(hasty(server.url)) as store:
            server.restart()
            await wait_until(lambda: store.fault is not None and store.fault.reason == "LOADING")
            assert await reason(store.call(COUNT, ["n"], [1])) == "LOADING"
            await wait_until(lambda: store.available)
            assert await store.run("DBSIZE") == 2000


async def test_wrong_credentials_are_an_error_at_the_start_and_an_outage_later(server: Server) -> None:
    server.run("ACL", "SETUSER", "gw", "on", ">right", "~*", "+@all")
    path = server.url.removeprefix("unix://")
    with pytest.raises(StoreError, match="WRONGPASS"):
        await Store.open(StoreSettings(url=f"unix://{path}", username="gw", password="wrong"))
    settings = StoreSettings(url=f"unix://{path}", username="gw", password="right", breaker_open_s=0.05)
    async with opened(settings) as store:
        server.run("ACL", "SETUSER", "gw", "resetpass", ">other")
        server.run("CLIENT", "KILL", "TYPE", "normal")
        await wait_until(lambda: store.fault is not None and store.fault.reason == "refused")
        server.run("ACL", "SETUSER", "gw", ">right")
        await wait_until(lambda: store.available)


async def test_closing_fails_what_is_pending_and_leaves_nothing_open(server: Server) -> None:
    store = await Store.open(hasty(server.url))
    await store.redis.ping()
    call = store.run("BLPOP", "nothing", 0)
    await asyncio.sleep(0)
    await store.close()
    assert await reason(call) == "closed"
    assert await reason(store.call(COUNT, ["n"], [1])) == "closed"
    await store.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await wait_until(lambda: b"name=gateway" not in server.run("CLIENT", "LIST"))


async def test_closing_ends_the_search_for_a_store_that_is_down(server: Server) -> None:
    server.kill()
    store = await Store.open(hasty(server.url))
    await store.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancelled_callers_leave_the_store_in_order(store: Store) -> None:
    async def caller(number: int) -> object:
        return await store.run("ECHO", str(number))

    tasks = [asyncio.create_task(caller(number)) for number in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    assert replies[1::2] == [str(number).encode() for number in range(1, 50, 2)]
    assert all(isinstance(reply, asyncio.CancelledError) for reply in replies[::2])


def test_settings_do_not_show_secrets() -> None:
    settings = StoreSettings(url="redis://:secret-1@host", password="secret-2", sentinel_password="secret-3")
    assert "secret" not in repr(settings)


def test_every_script_of_the_package_loads_with_its_includes() -> None:
    script = Script.load("admit_v8")
    assert "--@include" not in script.source
    assert len(script.sha) == 40


def test_uvloop_sees_outages_and_recoveries_too() -> None:
    async def run(server: Server) -> None:
        async with opened(hasty(server.url)) as store:
            server.pause()
            assert await reason(store.call(COUNT, ["n"], [1])) == "timeout"
            server.resume()
            await wait_until(lambda: store.available)
            server.kill()
            await wait_until(lambda: not store.available)
            server.start()
            await wait_until(lambda: store.available)
            assert await counts(store)

    with valkey_server(tcp=True) as server:
        uvloop.run(run(server))
