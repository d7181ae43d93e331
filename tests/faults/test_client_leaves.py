"""The client goes away: the upstream is read on for its usage, or stopped at once where the operator chose so.

| it leaves                   | drain (default)                        | abort                                  |
|-----------------------------|----------------------------------------|----------------------------------------|
| before the request was sent | nothing is charged                     | the same                               |
| before the upstream answers | what the upstream says it used         | the input                              |
| in the middle of a stream   | the same                               | what was relayed                       |
| while the upstream is silent| bounded by `drain_timeout_s`           | the same, noticed without a byte moved |

What is charged where no answer comes has a file of its own (test_unanswered.py). One that only ends its side behind its
request stays, and gets its answer. One that stays and takes nothing goes.
"""

import asyncio

import pytest

from tests.faults.conftest import Stages
from tests.support.scenario import completed, created, delta, end_of_body, more, stream, whole
from tests.support.scripted_upstream import hang, request, wait_for
from tests.support.waiting import wait_until

ABORT = {"on_client_leave": "abort"}


async def test_in_mid_stream_what_was_relayed_is_charged(stages: Stages) -> None:
    script = [request(), stream(created(), delta("one", 1), delta("two", 2)), hang()]
    async with stages(script, upstream=ABORT) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_until(b'"two"')
        client.leave()
        await scenario.upstream_left()
        await scenario.ended(outcome="client_left", settled_by="estimate", output_tokens=2, status=200)


async def test_a_whole_answer_that_nobody_waits_for_any_more_is_not_waited_for(stages: Stages) -> None:
    async with stages([request(), stream(), hang()], upstream=ABORT) as scenario:
        client = await scenario.ask(stream=False)
        await wait_until(lambda: bool(scenario.upstream.requests))
        client.leave()
        await scenario.upstream_left()
        await wait_until(lambda: bool(scenario.log_lines()))


async def test_while_the_upstream_is_silent_its_leaving_is_noticed(stages: Stages) -> None:
    silence = asyncio.Event()
    script = [request(), stream(created(), delta("one")), wait_for(silence)]
    async with stages(script, upstream={"chunk_timeout_s": 60, **ABORT}) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_until(b'"one"')
        client.leave()
        await wait_until(lambda: bool(scenario.log_lines()), what="the leaving is noticed")
        silence.set()
        await scenario.upstream_left()
        await scenario.ended(outcome="client_left", settled_by="estimate", output_tokens=1)


async def test_drain_reads_on_and_charges_the_usage(stages: Stages) -> None:
    left = asyncio.Event()
    script = [request(), stream(created(), delta("one")), wait_for(left), more(completed()), end_of_body()]
    async with stages(script) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_until(b'"one"')
        client.leave()
        await scenario.drains()
        left.set()
        await scenario.ended(outcome="client_left", settled_by="usage", usage=(100, 7))


async def test_drain_gives_up_after_its_timeout(stages: Stages) -> None:
    script = [request(), stream(created(), delta("one")), hang()]
    async with stages(script, upstream={"drain_timeout_s": 0.2}) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_until(b'"one"')
        client.leave()
        await wait_until(lambda: scenario.upstream.gone == 1)
        await scenario.ended(outcome="client_left", settled_by="estimate", output_tokens=1)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("slow", [False, True], ids=["at once", "later"])
async def test_a_client_that_ends_its_side_behind_its_request_gets_its_answer(
    stages: Stages, streamed: bool, slow: bool
) -> None:
    go_on = asyncio.Event()
    events = [created(), delta("one"), completed()]
    script = [request(), wait_for(go_on), *([stream(*events), end_of_body()] if streamed else [whole()])]
    async with stages(script) as scenario:
        client = await scenario.ask(stream=streamed)
        client.writer.write_eof()
        if slow:
            await client.read_until(b"100 Continue")  # whether it is still there
        go_on.set()
        await client.read_all()
        while client.status == 100:
            del client.received[: client.received.index(b"\r\n\r\n") + 4]
        assert client.status == 200
        if streamed:
            assert client.body == b"".join(events)
        await scenario.ended(outcome="completed", settled_by="usage", usage=(100, 7))


async def test_a_client_that_takes_nothing_does_not_keep_its_connection(stages: Stages) -> None:
    """Its time is over, and the closing events wait in a buffer behind bytes that it does not read."""
    flood = stream(created(), *[delta("x" * 60_000, number) for number in range(1, 400)])
    server = {"port": 0, "total_timeout_s": 0.5, "client_write_timeout_s": 1}
    async with stages([request(), flood, hang()], server=server) as scenario:
        client = await scenario.ask(stream=True)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a transport that reads, too
        await wait_until(lambda: bool(scenario.log_lines()), what="the request has ended")
        assert scenario.log_lines()[0]["outcome"] == "timed_out"
        await scenario.upstream_left()
        await wait_until(lambda: scenario.gateway.server.connections == 0, what="the connection is gone")


async def test_a_client_that_stops_reading_gives_its_slot_back(stages: Stages) -> None:
    flood = stream(created(), *[delta("x" * 60_000, number) for number in range(1, 400)])
    server = {"port": 0, "client_write_timeout_s": 0.5}
    async with stages([request(), flood, hang()], server=server, upstream=ABORT) as scenario:
        client = await scenario.ask(stream=True)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a transport that reads, too
        await scenario.upstream_left()
        await wait_until(lambda: bool(scenario.log_lines()), what="the request has ended")
        assert scenario.log_lines()[0]["outcome"] == "client_left"
        await scenario.next_is_admitted()


async def test_a_client_that_reads_slowly_gets_its_whole_answer(stages: Stages) -> None:
    flood = [delta("x" * 60_000, number) for number in range(1, 200)]
    answer = (request(), stream(created(), *flood, completed()), end_of_body())
    async with stages(answer, server={"port": 0, "client_write_timeout_s": 1}) as scenario:
        client = await scenario.ask(stream=True)
        received = b""
        while data := await client.reader.read(2_000_000):
            received += data
            await asyncio.sleep(0.02)  # slower than the answer comes
        assert received.endswith(completed() + b"\r\n0\r\n\r\n")
        assert received.count(b"event: response.output_text.delta") == len(flood)
