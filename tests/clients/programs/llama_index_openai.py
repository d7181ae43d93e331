"""LlamaIndex: completions, chat, streams, embeddings. It reads OPENAI_API_BASE, the older name of the variable."""

import os

os.environ["OPENAI_API_BASE"] = os.environ["OPENAI_BASE_URL"]

from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike

llm = OpenAI(model="gpt-4o-mini")
assert llm.complete("Say hello.").text
assert llm.chat([ChatMessage(role="user", content="Say hello.")]).message.content
assert "".join(piece.delta or "" for piece in llm.stream_complete("Say hello."))
assert OpenAIResponses(model="gpt-4o-mini").complete("Say hello.").text
like = OpenAILike(
    model="team/any-model",
    is_chat_model=True,
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
)
assert like.complete("Say hello.").text
assert OpenAIEmbedding(model="text-embedding-3-small").get_text_embedding("a")
