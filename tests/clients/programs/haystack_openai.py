"""haystack: chat, streams and embeddings. Below it, openai-python reads the base URL from its variable."""

from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage

generator = OpenAIChatGenerator(model="gpt-4o-mini")
assert generator.run([ChatMessage.from_user("Say hello.")])["replies"][0].text
pieces = []
OpenAIChatGenerator(model="gpt-4o-mini", streaming_callback=pieces.append).run([ChatMessage.from_user("Say hello.")])
assert pieces
assert OpenAITextEmbedder(model="text-embedding-3-small").run("a")["embedding"]
