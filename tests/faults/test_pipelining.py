"""Requests that are sent before their predecessors have answers: they wait their turn, and little of them is kept."""

from __future__ import annotations

import asyncio

from tests.faults.conftest import Stages
from tests.support.scenario import body_of, whole
from tests.support.scripted_upstream import request, wait_for
from tests.support.waiting import wait_until_found

SENT = 40_000_000  # more than the buffers of two sockets hold


async def test_behind_a_request_that_waits_reading_pauses(stages: Stages) -> None:
    go_on = asyncio.Event()
    async with stages([request(), wait_for(go_on), whole()]) as scenario:
        client = await scenario.connect()
        body = body_of()
        head = (
            "POST /v1/responses HTTP/1.1\r\nhost: gateway\r\n"
            f"authorization: Bearer {scenario.key.text}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        one = head.encode() + body
        client.writer.write(one * (SENT // len(one)))
        left = -1

        async def stands_still() -> bool:
            nonlocal left
            before, left = left, client.writer.transport.get_write_buffer_size()
            await asyncio.sleep(0.2)  # in which the gateway would have taken more
            return before == left

        await wait_until_found(stands_still)
        assert left > SENT // 2
        go_on.set()
        client.leave()
