"""The client goes away: the upstream is stopped at once, or read on for its usage where the operator chose so.

| it leaves                   | abort (default)                        | drain                          |
|-----------------------------|----------------------------------------|--------------------------------|
| before the upstream answers | nothing is charged                     | the same: nothing to read on   |
| in the middle of a stream   | what was relayed is charged            | what the upstream says it used |
| while the upstream is silent| the same, noticed without a byte moved | bounded by `drain_timeout_s`   |
"""

import asyncio

from tests.contract.scripted import hang, request, wait_for
from tests.faults.conftest import Stages
from tests.faults.stage import completed, created, delta, end_of_body, more, stream
from tests.support.waiting import wait_until


async def test_before_the_upstream_answers_nothing_is_charged(stages: Stages) -> None:
    async with stages([request(), hang()]) as stage:
        client = await stage.ask(stream=True)
        await wait_until(lambda: bool(stage.upstream.requests))
        client.leave()
        await stage.upstream_left()
        await stage.ended(outcome="client_left", status=0)


async def test_in_mid_stream_what_was_relayed_is_charged(stages: Stages) -> None:
    async with stages([request(), stream(created(), delta("one", 1), delta("two", 2)), hang()]) as stage:
        client = await stage.ask(stream=True)
        await client.read_until(b'"two"')
        client.leave()
        await stage.upstream_left()
        await stage.ended(outcome="client_left", settled_by="estimate", output_tokens=2, status=200)


async def test_a_whole_answer_that_nobody_waits_for_any_more_is_not_waited_for(stages: Stages) -> None:
    async with stages([request(), stream(), hang()]) as stage:
        client = await stage.ask(stream=False)
        await wait_until(lambda: bool(stage.upstream.requests))
        client.leave()
        await stage.upstream_left()
        await wait_until(lambda: bool(stage.log_lines()))


async def test_while_the_upstream_is_silent_its_leaving_is_noticed(stages: Stages) -> None:
    silence = asyncio.Event()
    script = [request(), stream(created(), delta("one")), wait_for(silence)]
    async with stages(script, upstream={"chunk_timeout_s": 60}) as stage:
        client = await stage.ask(stream=True)
        await client.read_until(b'"one"')
        client.leave()
        await wait_until(lambda: bool(stage.log_lines()), timeout_s=2, what="the leaving is noticed")
        silence.set()
        await stage.upstream_left()
        await stage.ended(outcome="client_left", settled_by="estimate", output_tokens=1)


async def test_drain_reads_on_and_charges_the_usage(stages: Stages) -> None:
    left = asyncio.Event()
    script = [request(), stream(created(), delta("one")), wait_for(left), more(completed()), end_of_body()]
    async with stages(script, upstream={"on_client_leave": "drain"}) as stage:
        client = await stage.ask(stream=True)
        await client.read_until(b'"one"')
        client.leave()
        line = stage.gateway.services.line
        await wait_until(lambda: any(one.ends_later for one in line.running), what="the leaving is noticed")
        left.set()
        await stage.ended(outcome="client_left", settled_by="usage", usage=(100, 7))


async def test_drain_gives_up_after_its_timeout(stages: Stages) -> None:
    script = [request(), stream(created(), delta("one")), hang()]
    async with stages(script, upstream={"on_client_leave": "drain", "drain_timeout_s": 0.2}) as stage:
        client = await stage.ask(stream=True)
        await client.read_until(b'"one"')
        client.leave()
        await wait_until(lambda: stage.upstream.gone == 1, timeout_s=5)
        await stage.ended(outcome="client_left", settled_by="estimate", output_tokens=1)
