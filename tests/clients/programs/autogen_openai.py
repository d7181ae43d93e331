"""autogen: an assistant over its OpenAI client, whole and streamed."""

import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient


async def main() -> None:
    client = OpenAIChatCompletionClient(model="gpt-4o-mini")
    message = UserMessage(content="Say hello.", source="user")
    assert (await client.create([message])).content
    assert [piece async for piece in client.create_stream([message])]
    answer = await AssistantAgent("a", model_client=client).run(task="Say hello.")
    assert answer.messages[-1].content


asyncio.run(main())
