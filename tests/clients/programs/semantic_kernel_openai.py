"""semantic-kernel: chat, whole and streamed, and embeddings, over an openai client of the caller's."""

import asyncio

from openai import AsyncOpenAI
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
    OpenAITextEmbedding,
)
from semantic_kernel.contents import ChatHistory


async def main() -> None:
    history = ChatHistory()
    history.add_user_message("Say hello.")
    settings = OpenAIChatPromptExecutionSettings()
    chat = OpenAIChatCompletion(ai_model_id="gpt-4o-mini", async_client=AsyncOpenAI())
    assert str(await chat.get_chat_message_content(history, settings))
    assert [piece async for piece in chat.get_streaming_chat_message_content(history, settings)]
    embedding = OpenAITextEmbedding(ai_model_id="text-embedding-3-small", async_client=AsyncOpenAI())
    assert len((await embedding.generate_embeddings(["a"]))[0])


asyncio.run(main())
