"""Waiting for something to become true, instead of sleeping and hoping.

The bounds are wide: they end a test that would wait for ever, on a machine that does much else. Where it costs a
request or more to look, `every_s` is longer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

_POLL_S = 0.005


async def wait_until(
    predicate: Callable[[], bool], *, timeout_s: float = 60.0, every_s: float = _POLL_S, what: str = ""
) -> None:
    """Returns as soon as `predicate()` is true; fails the test when it is not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or predicate}"
        await asyncio.sleep(every_s)


async def let_run(turns: int = 50) -> None:
    """Lets the event loop turn, for tasks that get on without anything from outside; enough to begin and to wait."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def wait_until_found(
    probe: Callable[[], Awaitable[bool]], *, timeout_s: float = 60.0, every_s: float = _POLL_S, what: str = ""
) -> None:
    """`wait_until`, for something that has to be asked for."""
    deadline = time.monotonic() + timeout_s
    while not await probe():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or probe}"
        await asyncio.sleep(every_s)


def wait_until_sync(
    predicate: Callable[[], bool], *, timeout_s: float = 60.0, every_s: float = _POLL_S, what: str = ""
) -> None:
    """`wait_until`, for code without an event loop."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or predicate}"
        time.sleep(every_s)
