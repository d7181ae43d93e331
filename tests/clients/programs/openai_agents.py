"""openai-agents: an agent with a tool, over responses and over chat completions."""

import os

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool
from openai import AsyncOpenAI


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}: sunny"


agent = Agent(name="a", model="gpt-4o-mini", tools=[weather])
assert Runner.run_sync(agent, "What is the weather in Paris?").final_output
chatting = Agent(name="b", model=OpenAIChatCompletionsModel(model="gpt-4o-mini", openai_client=AsyncOpenAI()))
assert Runner.run_sync(chatting, "Say hello.").final_output
prefixed = Runner.run_sync(Agent(name="c", model="openai/gpt-4o-mini"), "Say hello.")
assert prefixed.final_output
