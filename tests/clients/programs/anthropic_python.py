"""anthropic: messages, whole and streamed, tools, counts, models."""

import asyncio

from anthropic import Anthropic, AsyncAnthropic

MESSAGES = [{"role": "user", "content": "Say hello."}]
TOOL = {"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}

client = Anthropic()
assert client.messages.create(model="claude-sonnet", max_tokens=99, messages=MESSAGES).content[0].text
with client.messages.stream(model="claude-sonnet", max_tokens=99, messages=MESSAGES) as stream:
    assert stream.get_final_message().usage.output_tokens
called = client.messages.create(
    model="claude-sonnet", max_tokens=99, messages=MESSAGES, tools=[TOOL], tool_choice={"type": "any"}
)
assert called.stop_reason == "tool_use"
assert client.messages.count_tokens(model="claude-sonnet", messages=MESSAGES).input_tokens
assert [model.display_name for model in client.models.list(limit=1000)]


async def unsync() -> None:
    async with AsyncAnthropic() as client:
        assert (await client.messages.create(model="claude-sonnet", max_tokens=99, messages=MESSAGES)).content


asyncio.run(unsync())
