"""smolagents: a model whole, streamed and with a tool; by its arguments, and by openai-python's variables."""

import os

from smolagents import OpenAIServerModel, tool


@tool
def add(a: int) -> int:
    """Adds one.

    Args:
        a: a number
    """
    return a + 1


model = OpenAIServerModel("gpt-4o-mini", api_base=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"])
messages = [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}]
assert model.generate(messages).content
assert "".join(piece.content or "" for piece in model.generate_stream(messages))
assert model.generate(messages, tools_to_call_from=[add]).tool_calls[0].function.name == "add"
plain = OpenAIServerModel("gpt-4o-mini")
assert plain.generate(messages).content
