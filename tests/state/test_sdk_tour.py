"""Every method of the official SDK below `responses` and `conversations`, over a provider that keeps nothing.

What one process has made goes on at another one. The methods are those that the installed SDK has: one that a newer
version adds fails here until it is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from tests.state.sdk_calls import CALLS, MANAGERS, MODEL, SLOW, Made, Sum, said, until_ended
from tests.state.sdk_client import RAW, STREAMED, Sdk, collected, entered, member, methods, result
from tests.support.gateway import simulator
from tests.support.ledgers import new_secret
from tests.support.processes import gateway_process
from tests.support.servers import Server

pytestmark = [
    pytest.mark.timeout(150),  # processes start slowly where tests share a machine
    pytest.mark.filterwarnings(
        "ignore:connect.. must be used as a context manager:DeprecationWarning"  # the SDK does not use it as one
    ),
]
TOOL = {"type": "function", "name": "sum", "parameters": Sum.model_json_schema(), "strict": True}


@pytest.fixture(scope="module")
def urls(shared_store: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Two gateways, as on two machines, over a provider that refuses whatever refers to something kept."""
    new, route = tmp_path_factory.mktemp, 'state = "gateway"'
    with (
        simulator(post_only=True) as upstream,
        gateway_process(shared_store.url, upstream, new("one"), route=route) as one,
        gateway_process(shared_store.url, upstream, new("two"), route=route) as two,
    ):
        yield one.url, two.url


@pytest.fixture(scope="module")
def secret(shared_store: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_secret(shared_store.url, tmp_path_factory.mktemp("ledger"))


@pytest.fixture(params=[openai.OpenAI, openai.AsyncOpenAI], ids=["sync", "async"])
async def made(request: pytest.FixtureRequest, urls: tuple[str, str], secret: str) -> AsyncIterator[Made]:
    def client(url: str) -> Any:
        return request.param(base_url=f"{url}/v1", api_key=secret, max_retries=0)

    async with entered(client(urls[0])) as one, entered(client(urls[1])) as two:
        yield Made(one, two)


def uncovered(client: Sdk) -> set[str]:
    return {plain(path) for path in methods(client)} - CALLS.keys() - MANAGERS.keys()


def plain(path: str) -> str:
    return ".".join(name for name in path.split(".") if name not in (RAW, STREAMED))


def variants(client: Sdk, variant: str) -> list[str]:
    """The methods of this variant; "": those that are none."""
    found = [path for path in methods(client) if plain(path) in CALLS]
    return [path for path in found if (variant in path.split(".") if variant else path == plain(path))]


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Says which method it was that failed."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in {path}")
        raise


async def answer_of(call: Any, variant: str) -> Any:
    """The answer to a call, as its plain method returns it."""
    if variant == STREAMED:
        async with entered(call) as streamed:
            assert streamed.headers["x-request-id"]
            return await result(streamed.parse())
    answer = await result(call)
    if variant == RAW:
        assert answer.status_code == 200
        assert answer.headers["x-request-id"]
        return await result(answer.parse())
    return answer


def test_the_tour_calls_every_method() -> None:
    with openai.OpenAI(api_key="none") as client:
        assert uncovered(client) == set()
    assert uncovered(openai.AsyncOpenAI(api_key="none")) == set()


@pytest.mark.parametrize("variant", ["", RAW, STREAMED], ids=["plain", "raw", "streamed"])
async def test_every_method_goes_on_from_what_another_process_has_made(made: Made, variant: str) -> None:
    paths = variants(made.two, variant)
    assert len(paths) > 10
    for path in paths:
        with named(path):
            steps = CALLS[plain(path)](made)
            arguments = await anext(steps)
            answer = await answer_of(member(made.two, path)(**arguments), variant)
            with pytest.raises(StopAsyncIteration):
                await steps.asend(answer)


@pytest.mark.parametrize("path", sorted(MANAGERS))
async def test_what_is_entered_goes_on_too(made: Made, path: str) -> None:
    await MANAGERS[path](made)


@pytest.mark.parametrize("fields", [{}, {"background": True}], ids=["in front", "in the background"])
@pytest.mark.parametrize("model", [MODEL, "sim/reasoner"])
async def test_a_stream_is_followed_from_any_event_on_at_another_process(made: Made, fields: Any, model: str) -> None:
    """In the background with the events that were sent, else with those of a text in one piece."""
    asked: Any = {"model": model, "input": "Hello.", "stream": True, "tools": [TOOL], "tool_choice": "required"}
    sent = await collected(await result(made.one.responses.create(**asked, **fields)))
    identifier, final = sent[0].response.id, sent[-1].response
    whole = await collected(await result(made.two.responses.retrieve(identifier, stream=True)))
    assert whole == sent or not fields
    assert [event.sequence_number for event in whole] == list(range(len(whole)))
    assert whole[-1].response.to_dict() == final.to_dict()
    for after in (0, len(whole) // 2, len(whole) - 2):
        rest = await result(made.two.responses.retrieve(identifier, stream=True, starting_after=after))
        assert await collected(rest) == whole[after + 1 :]
    [call] = [item for item in final.output if item.type == "function_call"]
    for events in (sent, whole):
        deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        assert "".join(deltas) == call.arguments


async def test_who_has_seen_nearly_all_of_a_stream_gets_its_end_at_another_process(made: Made) -> None:
    events = await collected(await result(made.one.responses.create(model=MODEL, input="Hello.", stream=True)))
    seen = events[-3].sequence_number
    asked: Any = {"stream": True, "starting_after": seen}
    rest = await collected(await result(made.two.responses.retrieve(events[0].response.id, **asked)))
    assert (rest[-1].type, rest[0].sequence_number) == ("response.completed", seen + 1)


async def test_a_background_response_is_polled_followed_and_continued_at_another_process(made: Made) -> None:
    begun = await made.response("Work.", background=True)
    assert begun.status in ("queued", "in_progress")
    raw = await result(made.one.responses.with_raw_response.create(model=SLOW, input="x", background=True))
    assert raw.headers["openai-poll-after-ms"] == "1000"
    ended = await until_ended(made.two, begun.id)
    assert (ended.status, ended.background) == ("completed", True)
    async with entered(made.two.responses.stream(response_id=begun.id)) as followed:
        assert (await result(followed.get_final_response())).output_text == ended.output_text
    more = await made.response("Go on.", previous_response_id=begun.id, background=True)
    assert (await until_ended(made.two, more.id)).previous_response_id == begun.id


async def test_pages_are_turned_in_both_orders_by_each_helper(made: Made) -> None:
    texts = list("abcdefg")
    conversation = await made.conversation(*texts)
    response = await made.response(input=[said(text) for text in texts])
    lists: list[Any] = [made.two.conversations.items, made.two.responses.input_items]
    for resource, identifier in zip(lists, (conversation.id, response.id), strict=True):
        for order, wanted in (("asc", texts), ("desc", texts[::-1])):
            page = await result(resource.list(identifier, limit=3, order=order))
            pages = [page]
            while page.has_next_page():
                page = await result(page.get_next_page())
                pages.append(page)
            assert [[item.content[0].text for item in page.data] for page in pages] == [
                wanted[:3],
                wanted[3:6],
                wanted[6:],
            ]
            behind = await result(resource.list(identifier, order=order, after=pages[0].data[-1].id))
            assert [item.content[0].text for item in behind.data] == wanted[3:]
            first = await result(resource.list(identifier, limit=4, order=order))
            sizes = [len(page.data) for page in await collected(first.iter_pages())]
            assert sizes == [4, 3]


async def test_a_tool_is_called_at_one_process_and_answered_at_another(made: Made) -> None:
    called = await result(made.one.responses.parse(model=MODEL, input="Add.", tools=[TOOL], tool_choice="required"))
    [call] = [item for item in called.output if item.type == "function_call"]
    assert isinstance(call.parsed_arguments["a"], int)
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "3"}
    answered = await result(
        made.two.responses.parse(model=MODEL, input=[output], previous_response_id=called.id, text_format=Sum)
    )
    assert isinstance(answered.output_parsed, Sum)


async def test_a_conversation_takes_turns_of_both_processes_whole_and_streamed(made: Made) -> None:
    conversation = await made.conversation()
    await made.response("One.", conversation=conversation.id)
    streamed: Any = {"model": MODEL, "input": "Two.", "conversation": {"id": conversation.id}, "stream": True}
    events = await collected(await result(made.two.responses.create(**streamed)))
    assert events[-1].response.conversation.id == conversation.id
    items = await made.items(conversation.id)
    assert [item.role for item in items] == ["user", "assistant"] * 2
