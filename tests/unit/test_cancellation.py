"""Ending a request from outside: for a named reason, without a second task, and never mistaken for a cancellation."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.concurrency.cancellation import CancelScope, Reason, ScopeCancelled
from gateway.http.asgi_client import DisconnectWatch
from tests.support.waiting import wait_until


def soon(call: Callable[..., Any], *arguments: Any) -> None:
    asyncio.get_running_loop().call_soon(call, *arguments)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("reason", Reason)
async def test_what_waits_inside_ends_with_the_reason(reason: Reason) -> None:
    cancel_scope = CancelScope()
    soon(cancel_scope.cancel, reason)
    with pytest.raises(ScopeCancelled) as caught, cancel_scope:
        await forever()
    assert caught.value.reason is reason
    await asyncio.sleep(0)  # the task itself is not cancelled


async def test_the_first_reason_stays() -> None:
    cancel_scope = CancelScope()
    soon(cancel_scope.cancel, Reason.TIMED_OUT)
    soon(cancel_scope.cancel, Reason.CLIENT_LEFT)
    with pytest.raises(ScopeCancelled, match="timed_out"), cancel_scope:
        await forever()


async def test_one_that_was_fired_before_lets_nothing_start() -> None:
    cancel_scope = CancelScope()
    cancel_scope.cancel(Reason.SHUT_DOWN)
    started = False
    with pytest.raises(ScopeCancelled, match="shut_down"), cancel_scope:
        started = True
    assert not started


async def test_one_that_is_fired_after_the_end_does_nothing() -> None:
    cancel_scope = CancelScope()
    with cancel_scope:
        await asyncio.sleep(0)
    cancel_scope.cancel(Reason.CLIENT_LEFT)
    await asyncio.sleep(0)


async def test_one_that_comes_with_the_awaited_result_still_ends_the_request() -> None:
    """Both in one turn of the loop: whichever wins, no cancellation is left behind for the next await."""
    cancel_scope = CancelScope()
    result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    soon(result.set_result, 1)
    soon(cancel_scope.cancel, Reason.CLIENT_LEFT)
    with pytest.raises(ScopeCancelled), cancel_scope:
        await result
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_failure_inside_stays_what_it_is() -> None:
    with pytest.raises(ValueError, match="mine"), CancelScope():
        raise ValueError("mine")


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def request() -> None:
        with CancelScope():
            await forever()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_from_elsewhere_wins_over_a_reason() -> None:
    interrupts: list[CancelScope] = []

    async def request() -> None:
        interrupts.append(CancelScope())
        with interrupts[0]:
            await forever()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    interrupts[0].cancel(Reason.CLIENT_LEFT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_timeout_outside_and_a_reason_inside_are_told_apart() -> None:
    async def request() -> None:
        async with asyncio.timeout(0.01):
            with CancelScope():
                await forever()

    with pytest.raises(TimeoutError):
        await request()


async def test_one_that_fires_later_ends_what_still_runs() -> None:
    cancel_scope = CancelScope()
    cancel_scope.cancel_later(Reason.CLIENT_LEFT, 0.01)
    assert cancel_scope.ends_later
    with pytest.raises(ScopeCancelled, match="client_left"), cancel_scope:
        await forever()


class Client:
    """An ASGI `receive` of which the test says what it gives."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive(self) -> dict[str, Any]:
        return await self.messages.get()


GONE = {"type": "http.disconnect"}
MORE = {"type": "http.request", "body": b"", "more_body": False}


async def test_a_client_that_is_gone_is_noticed_once() -> None:
    client, calls = Client(), list[int]()
    DisconnectWatch(client.receive, lambda: calls.append(1))
    for message in (MORE, MORE, GONE, GONE):
        client.messages.put_nowait(message)
    await wait_until(lambda: bool(calls))
    assert calls == [1]
    assert client.messages.qsize() == 1  # it asked no more


async def test_a_client_that_was_gone_before_is_noticed_at_once() -> None:
    client, calls = Client(), list[int]()
    client.messages.put_nowait(GONE)
    DisconnectWatch(client.receive, lambda: calls.append(1))
    await wait_until(lambda: calls == [1])


async def test_a_closed_watch_notices_nothing_and_leaves_nothing() -> None:
    client, calls = Client(), list[int]()
    watch = DisconnectWatch(client.receive, lambda: calls.append(1))
    watch.close()
    watch.close()
    client.messages.put_nowait(GONE)
    for _ in range(3):
        await asyncio.sleep(0)
    assert calls == []
    assert client.messages.qsize() == 1


async def test_a_watch_that_closes_while_its_message_is_under_way_stays_quiet() -> None:
    client, calls = Client(), list[int]()
    watch = DisconnectWatch(client.receive, lambda: calls.append(1))
    client.messages.put_nowait(GONE)  # its callback is scheduled
    watch.close()
    for _ in range(3):
        await asyncio.sleep(0)
    assert calls == []


async def test_a_closed_watch_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    watch = DisconnectWatch(Client().receive, lambda: None)
    watch.close()
    await wait_until(lambda: asyncio.all_tasks() == before)
