"""A response that was made in a conversation is continued by its id: from what the conversation held before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.state.answers import MODEL, answer
from tests.support.gateway import RunningGateway
from tests.support.post_only_provider import PostOnlyProvider


@pytest.fixture
def sdk(gateway: RunningGateway) -> Iterator[openai.OpenAI]:
    with gateway.sdk(gateway.new_key()) as client:
        yield client


def texts(items: Any) -> list[str]:
    contents = [item["content"] for item in items]
    return [content if isinstance(content, str) else content[0]["text"] for content in contents]


def made(provider: PostOnlyProvider, sdk: openai.OpenAI, number: int, **fields: Any) -> Any:
    """The response to one more turn, whose output is its number."""
    provider.next(answer(str(number), f"gen-{number}"))
    return sdk.responses.create(model=MODEL, input=[{"role": "user", "content": f"Say {number}."}], **fields)


def test_it_goes_on_from_what_the_conversation_held_then_and_from_nothing_later(
    provider: PostOnlyProvider, sdk: openai.OpenAI
) -> None:
    conversation = sdk.conversations.create(items=[{"role": "user", "content": "Count."}]).id
    turns = [made(provider, sdk, number, conversation=conversation) for number in (1, 2, 3)]
    fork = made(provider, sdk, 4, previous_response_id=turns[1].id)
    said = ["Count.", "Say 1.", "1", "Say 2.", "2", "Say 4."]
    assert texts(provider.received[-1]["input"]) == said
    made(provider, sdk, 5, previous_response_id=fork.id)
    assert texts(provider.received[-1]["input"]) == [*said, "4", "Say 5."]
    for response, expected in ((turns[1], said[:4]), (fork, said)):
        listed = [item.to_dict() for item in sdk.responses.input_items.list(response.id, order="asc", limit=2)]
        assert texts(listed) == expected
        assert len({item["id"] for item in listed}) == len(listed)
    held = [item.to_dict() for item in sdk.conversations.items.list(conversation, order="asc")]
    assert texts(held) == ["Count.", "Say 1.", "1", "Say 2.", "2", "Say 3.", "3"]


def test_without_the_conversation_it_reads_as_before_and_is_not_continued(
    provider: PostOnlyProvider, sdk: openai.OpenAI
) -> None:
    conversation = sdk.conversations.create().id
    first = made(provider, sdk, 6, conversation=conversation)
    second = made(provider, sdk, 7, conversation=conversation)
    sdk.conversations.delete(conversation)
    assert sdk.responses.retrieve(second.id).output_text == "7"
    listed = [item.to_dict() for item in sdk.responses.input_items.list(second.id)]
    assert texts(listed) == ["Say 7."]
    calls = len(provider.received)
    with pytest.raises(openai.BadRequestError, match=conversation) as refused:
        made(provider, sdk, 8, previous_response_id=second.id)
    assert refused.value.code == "previous_response_not_found"
    assert len(provider.received) == calls
    made(provider, sdk, 8, previous_response_id=first.id)  # nothing came before it
    assert texts(provider.received[-1]["input"]) == ["Say 6.", "6", "Say 8."]
