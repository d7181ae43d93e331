"""One call of each method of the official SDK below `responses` and `conversations`.

A call is a generator: it makes what the method needs at one gateway, yields the arguments of the call, which is sent to
the other gateway, gets the answer, and checks it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.state.sdk_client import Sdk, collected, entered, result
from tests.support.waiting import wait_until_found

MODEL = "o4-mini"
SLOW = "sim/tokens-100000+slow-10"
CallOf = Callable[["Made"], AsyncGenerator[dict[str, Any], Any]]


class Sum(BaseModel):
    a: int


class Made:
    """What a call finds: a client of each gateway."""

    def __init__(self, one: Sdk, two: Sdk) -> None:
        self.one: Any = one
        self.two: Any = two

    async def response(self, text: str = "Hello.", **fields: Any) -> Any:
        return await result(self.one.responses.create(**{"model": MODEL, "input": text, **fields}))

    async def conversation(self, *texts: str) -> Any:
        return await result(self.one.conversations.create(items=list(map(said, texts)), metadata={"made": "at one"}))

    async def items(self, conversation_id: str) -> list[Any]:
        return await collected(await result(self.one.conversations.items.list(conversation_id, order="asc")))


def said(text: str) -> dict[str, str]:
    return {"type": "message", "role": "user", "content": text}


async def create(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.response()
    answer = yield {"model": MODEL, "input": "Go on.", "previous_response_id": first.id}
    assert (answer.status, answer.previous_response_id, answer.store) == ("completed", first.id, True)
    assert answer.output_text
    assert answer.usage.input_tokens > first.usage.input_tokens


async def parse(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.response()
    answer = yield {"model": MODEL, "input": "Add.", "text_format": Sum, "previous_response_id": first.id}
    assert isinstance(answer.output_parsed, Sum)


async def retrieve(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.response()
    answer = yield {"response_id": first.id, "include": ["reasoning.encrypted_content"]}
    assert answer.to_dict() == first.to_dict()


async def delete(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.response()
    answer = yield {"response_id": first.id}
    assert answer is None
    with pytest.raises(openai.NotFoundError):
        await result(made.one.responses.retrieve(first.id))


async def cancel(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    begun = await made.response(model=SLOW, background=True)
    answer = yield {"response_id": begun.id}
    assert (answer.id, answer.status) == (begun.id, "cancelled")
    assert (await result(made.one.responses.retrieve(begun.id))).status == "cancelled"


async def compact(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.response("Remember this.")
    answer = yield {"model": MODEL, "previous_response_id": first.id}
    assert (answer.object, answer.output[-1].type) == ("response.compaction", "compaction")
    items = [item.to_dict(warnings=False) for item in answer.output]
    assert (await made.response(input=[*items, said("Go on.")])).status == "completed"


async def input_items(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.response("First.")
    second = await made.response("Second.", previous_response_id=first.id)
    answer = yield {"response_id": second.id, "limit": 2, "order": "asc", "include": ["message.output_text.logprobs"]}
    assert (len(answer.data), answer.has_more) == (2, True)
    texts = [item.content[0].text for item in await collected(answer)]
    assert texts == ["First.", first.output_text, "Second."]


async def input_tokens(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.response("A first text.")
    alone = await result(made.two.responses.input_tokens.count(model=MODEL, input="Go on."))
    answer = yield {"model": MODEL, "input": "Go on.", "previous_response_id": first.id}
    assert (answer.object, answer.input_tokens > alone.input_tokens > 0) == ("response.input_tokens", True)


async def create_conversation(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    answer = yield {"items": [said("Hello.")], "metadata": {"a": "b"}}
    assert (answer.object, answer.metadata) == ("conversation", {"a": "b"})
    assert [item.content[0].text for item in await made.items(answer.id)] == ["Hello."]


async def retrieve_conversation(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.conversation()
    answer = yield {"conversation_id": first.id}
    assert answer == first


async def update_conversation(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.conversation("Hello.")
    answer = yield {"conversation_id": first.id, "metadata": {"changed": "at two"}}
    assert answer == await result(made.one.conversations.retrieve(first.id))
    assert (answer.metadata, len(await made.items(first.id))) == ({"changed": "at two"}, 1)


async def delete_conversation(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.conversation("Hello.")
    answer = yield {"conversation_id": first.id}
    assert (answer.id, answer.object, answer.deleted) == (first.id, "conversation.deleted", True)
    with pytest.raises(openai.NotFoundError):
        await result(made.one.conversations.retrieve(first.id))


async def create_items(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.conversation("Before.")
    answer = yield {"conversation_id": first.id, "items": [said(str(number)) for number in range(25)]}
    assert [item.content[0].text for item in answer.data] == list(map(str, range(25)))
    assert len(await made.items(first.id)) == 26


async def list_items(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.conversation("a", "b", "c")
    await made.response("d", conversation=first.id)
    answer = yield {"conversation_id": first.id, "limit": 2}
    assert (len(answer.data), answer.has_more) == (2, True)
    newest_first = await collected(answer)
    assert newest_first == (await made.items(first.id))[::-1]
    assert [item.content[0].text for item in newest_first[1:]] == ["d", "c", "b", "a"]


async def retrieve_item(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.conversation("a", "b")
    [_, wanted] = await made.items(first.id)
    answer = yield {"conversation_id": first.id, "item_id": wanted.id}
    assert answer == wanted


async def delete_item(made: Made) -> AsyncGenerator[dict[str, Any], Any]:
    first = await made.conversation("a", "b")
    [deleted, left] = await made.items(first.id)
    answer = yield {"conversation_id": first.id, "item_id": deleted.id}
    assert answer == first
    assert await made.items(first.id) == [left]


CALLS: Mapping[str, CallOf] = {
    "responses.create": create,
    "responses.parse": parse,
    "responses.retrieve": retrieve,
    "responses.delete": delete,
    "responses.cancel": cancel,
    "responses.compact": compact,
    "responses.input_items.list": input_items,
    "responses.input_tokens.count": input_tokens,
    "conversations.create": create_conversation,
    "conversations.retrieve": retrieve_conversation,
    "conversations.update": update_conversation,
    "conversations.delete": delete_conversation,
    "conversations.items.create": create_items,
    "conversations.items.list": list_items,
    "conversations.items.retrieve": retrieve_item,
    "conversations.items.delete": delete_item,
}


async def stream(made: Made) -> None:
    """A stream that is read to its end, and read again at the other gateway from its beginning and from its middle."""
    first = await made.response()
    async with entered(made.one.responses.stream(model=MODEL, input="Go on.", previous_response_id=first.id)) as begun:
        events = await collected(begun)
        final = await result(begun.get_final_response())
    assert (final.status, final.previous_response_id) == ("completed", first.id)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == final.output_text
    for after in (None, 3):
        more: dict[str, Any] = {} if after is None else {"starting_after": after}
        async with entered(made.two.responses.stream(response_id=final.id, **more)) as again:
            numbers = [event.sequence_number for event in await collected(again)]
            assert (await result(again.get_final_response())).output_text == final.output_text
        assert numbers == list(range(0 if after is None else after + 1, numbers[-1] + 1))


async def connect(made: Made) -> None:
    """Turns over one connection, the first of which continues what was made over HTTP at the other gateway."""
    first = await made.response()
    async with entered(made.two.responses.connect()) as connection:
        previous = first.id
        for text in ("One.", "Two."):
            await result(connection.response.create(model=MODEL, input=text, previous_response_id=previous))
            while (event := await result(connection.recv())).type != "response.completed":
                assert event.type != "error", event
            assert event.response.previous_response_id == previous
            previous = event.response.id
    assert (await result(made.one.responses.retrieve(previous))).status == "completed"


MANAGERS: Mapping[str, Callable[[Made], Any]] = {"responses.stream": stream, "responses.connect": connect}
"""The methods that return what is entered, so that the SDK gives them no variants."""


async def until_ended(client: Any, response_id: str) -> Any:
    """Polls a background response, as programs do, and returns it when it has ended."""

    async def ended() -> bool:
        return (await result(client.responses.retrieve(response_id))).status not in ("queued", "in_progress")

    await wait_until_found(ended, what=f"{response_id} has ended")
    return await result(client.responses.retrieve(response_id))
