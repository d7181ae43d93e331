"""What a route or a key may add to a stream: comments during silence, and an end at its cap.

Both are off by default.
"""

import asyncio

from tests.faults.conftest import Stages
from tests.faults.test_upstream_fails import events_of
from tests.support.scenario import (
    DONE,
    EVENT_STREAM,
    MODEL,
    chunk,
    completed,
    created,
    delta,
    end_of_body,
    more,
    stream,
)
from tests.support.scripted_upstream import hang, request, send, wait_for
from tests.support.waiting import wait_until

COMMENT = b": keep-alive\n\n"


async def test_a_comment_goes_out_between_events_after_silence(stages: Stages) -> None:
    heard = asyncio.Event()
    script = [request(), stream(created(), delta("one")), wait_for(heard), more(completed()), end_of_body()]
    async with stages(script, route={"keepalive_s": 0.1}) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_until(COMMENT)
        heard.set()
        await client.read_all()
        assert client.body.replace(COMMENT, b"") == created() + delta("one") + completed()
        assert client.body.startswith(created() + delta("one") + COMMENT)
        await scenario.ended(outcome="completed", settled_by="usage", usage=(100, 7))


async def test_no_comment_goes_into_an_event_that_is_not_whole(stages: Stages) -> None:
    heard = asyncio.Event()
    event = delta("x" * 5000)
    script = [
        request(),
        stream(created(), event[:3000]),
        wait_for(heard),
        more(event[3000:], completed()),
        end_of_body(),
    ]
    async with stages(script, route={"keepalive_s": 0.1}, upstream={"max_event_bytes": 1024}) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_until(event[:3000])  # it exceeds the bound, so it is passed on incomplete
        await asyncio.sleep(0.4)  # silence in which nothing may arrive, so there is nothing to wait for
        heard.set()
        await client.read_all()
        assert client.body == created() + event + completed()


async def test_a_client_that_leaves_ends_the_comments_too(stages: Stages) -> None:
    script = [request(), stream(created(), delta("one")), hang()]
    async with stages(script, route={"keepalive_s": 0.05}, upstream={"on_client_leave": "abort"}) as scenario:
        client = await scenario.ask(stream=True)
        await client.read_until(COMMENT)
        client.leave()
        await scenario.upstream_left()
        await scenario.ended(outcome="client_left", settled_by="estimate", output_tokens=1)


async def test_a_stream_that_would_exceed_its_hold_is_ended_as_incomplete(stages: Stages) -> None:
    deltas = [delta("ten ", number) for number in range(1, 12)]
    async with stages([request(), stream(created(), *deltas), hang()], route={"cut_at_cap": True}) as scenario:
        client = await scenario.ask(stream=True, max_output_tokens=10)
        await client.read_all()
        last, done = events_of(client.body)[-2:]
        assert isinstance(last, dict)
        assert (last["type"], last["sequence_number"], done) == ("response.incomplete", 12, "[DONE]")
        assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
        await scenario.upstream_left()
        await scenario.ended(outcome="capped", settled_by="estimate", output_tokens=10)


async def test_of_a_flood_no_more_than_the_hold_is_passed_on(stages: Stages) -> None:
    """One read brings two hundred events. The event that exceeds the cap is the last."""
    deltas = [delta("ten ", number) for number in range(1, 200)]
    flood = send(EVENT_STREAM + chunk(b"".join([created(), *deltas])))
    async with stages([request(), flood, hang()], route={"cut_at_cap": True}) as scenario:
        client = await scenario.ask(stream=True, max_output_tokens=10)
        await client.read_all()
        assert client.body.startswith(b"".join([created(), *deltas[:11]]))
        last, done = events_of(client.body)[-2:]
        assert isinstance(last, dict)
        assert (last["type"], last["sequence_number"], done) == ("response.incomplete", 12, "[DONE]")
        await scenario.ended(outcome="capped", settled_by="estimate", output_tokens=10)


async def test_an_answer_that_came_whole_is_not_cut(stages: Stages) -> None:
    events = [created(), *[delta("word ", number) for number in range(1, 12)], completed(12), DONE]
    whole_stream = send(EVENT_STREAM + chunk(b"".join(events)) + b"0\r\n\r\n")
    async with stages([request(), whole_stream], route={"cut_at_cap": True}) as scenario:
        client = await scenario.ask(stream=True, max_output_tokens=10)
        await client.read_all()
        assert client.body == b"".join(events)
        await scenario.ended(outcome="completed", settled_by="usage", usage=(100, 7))


async def test_a_key_may_ask_for_the_cut_where_its_route_does_not(stages: Stages) -> None:
    deltas = [delta("word ", number) for number in range(1, 12)]
    async with stages([request(), stream(created(), *deltas), hang()]) as scenario:
        key = scenario.gateway.new_key(cut_at_cap=True)
        async with scenario.gateway.async_sdk(key) as sdk:
            answer = await sdk.responses.create(model=MODEL, input="hello", max_output_tokens=10, stream=True)
            *_, last = [event async for event in answer]
        assert last.type == "response.incomplete"


async def test_the_sdk_reads_a_stream_that_was_cut_at_its_cap_as_incomplete(stages: Stages) -> None:
    deltas = [delta("word ", number) for number in range(1, 12)]
    async with stages([request(), stream(created(), *deltas), hang()], route={"cut_at_cap": True}) as scenario:
        answer = await scenario.sdk().responses.create(model=MODEL, input="hello", max_output_tokens=10, stream=True)
        *_, last = [event async for event in answer]
        assert last.type == "response.incomplete"
        assert last.response.status == "incomplete"


async def test_without_the_setting_a_stream_is_passed_on_whatever_it_costs(stages: Stages) -> None:
    deltas = [delta("word ", number) for number in range(1, 12)]
    events = [created(), *deltas, completed(12, output_tokens=11), DONE]
    async with stages([request(), stream(*events), end_of_body()]) as scenario:
        client = await scenario.ask(stream=True, max_output_tokens=10)
        await client.read_all()
        assert client.body == b"".join(events)
        await wait_until(lambda: bool(scenario.log_lines()))
        await scenario.ended(outcome="completed", settled_by="usage", usage=(100, 11))
