"""openai-agents: an agent with a tool, over responses and over chat completions; and all that needs kept responses.

KEPT_STATE_BASE_URLS names two gateways that keep the state of a provider that only answers POST: what one run has begun
at the first goes on at the second.
"""

import asyncio
import os

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIProvider,
    RunConfig,
    Runner,
    function_tool,
    responses_websocket_session,
    set_default_openai_client,
    set_default_openai_responses_transport,
)
from agents.memory import OpenAIConversationsSession, OpenAIResponsesCompactionSession, SQLiteSession
from openai import AsyncOpenAI

MODEL = "gpt-4o-mini"
URLS = os.environ["KEPT_STATE_BASE_URLS"].split()
asked = []


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    asked.append(city)
    return f"{city}: sunny"


talker = Agent(name="talker", model=MODEL, instructions="Talk.")
forecaster = Agent(name="forecaster", model=MODEL, tools=[weather])
# The simulator calls a tool that must be called: here the handoff.
clerk = Agent(name="clerk", model=MODEL, handoffs=[forecaster], model_settings=ModelSettings(tool_choice="required"))


def without_state() -> None:
    assert Runner.run_sync(forecaster, "What is the weather in Paris?").final_output
    chatting = Agent(name="chatting", model=OpenAIChatCompletionsModel(model=MODEL, openai_client=AsyncOpenAI()))
    assert Runner.run_sync(chatting, "Say hello.").final_output
    assert Runner.run_sync(Agent(name="prefixed", model="openai/gpt-4o-mini"), "Say hello.").final_output


def runs(over_websocket: bool) -> list[RunConfig]:
    """How a run goes to each of the two gateways."""
    providers = [
        OpenAIProvider(
            openai_client=AsyncOpenAI(base_url=url, max_retries=0),
            use_responses=True,
            use_responses_websocket=over_websocket,
        )
        for url in URLS
    ]
    return [RunConfig(model_provider=provider) for provider in providers]


async def streamed(agent: Agent, text: str, **options: object) -> object:
    result = Runner.run_streamed(agent, text, **options)
    events = [event.type async for event in result.stream_events()]
    assert "raw_response_event" in events
    return result


async def chains(over_websocket: bool) -> None:
    one, two = runs(over_websocket)
    begun = await Runner.run(talker, "Remember 7.", run_config=one)
    went_on = await streamed(forecaster, "Go on.", previous_response_id=begun.last_response_id, run_config=two)
    assert went_on.final_output
    calls = len(asked)
    for run in (one, two):
        for agent in (forecaster, clerk):
            alone = await Runner.run(agent, "The weather?", auto_previous_response_id=True, run_config=run)
            again = await streamed(agent, "The weather?", auto_previous_response_id=True, run_config=run)
            assert {alone.last_agent.name, again.last_agent.name} == {"forecaster"}
            assert alone.final_output
            assert again.final_output
    assert len(asked) == calls + 4  # behind a handoff, whose output is there, the simulator calls no more tools


async def conversations(over_websocket: bool) -> None:
    one, two = runs(over_websocket)
    at_one, at_two = (AsyncOpenAI(base_url=url, max_retries=0) for url in URLS)
    session = OpenAIConversationsSession(openai_client=at_one)
    await Runner.run(forecaster, "The weather?", session=session, run_config=one)
    same = OpenAIConversationsSession(conversation_id=session.session_id, openai_client=at_two)
    await streamed(talker, "Thank you.", session=same, run_config=two)
    kinds = [item["type"] for item in await session.get_items()]
    assert kinds == ["message", "function_call", "function_call_output", "message", "message", "message"], kinds
    assert len(await same.get_items(limit=2)) == 2
    assert (await same.pop_item())["role"] == "assistant"
    assert len(await session.get_items()) == 5
    await session.clear_session()
    conversation = (await at_one.conversations.create()).id
    for run, agent in ((one, forecaster), (two, clerk), (one, talker)):
        assert (await Runner.run(agent, "The weather?", conversation_id=conversation, run_config=run)).final_output
        assert (await streamed(agent, "And now?", conversation_id=conversation, run_config=run)).final_output
    page = await at_two.conversations.items.list(conversation, limit=100)
    kinds = [item.type for item in page.data]
    assert kinds.count("function_call") == kinds.count("function_call_output") > 0


async def compaction() -> None:
    for mode in ("previous_response_id", "input", "auto"):
        one, two = runs(over_websocket=False)
        session = OpenAIResponsesCompactionSession(
            mode,
            SQLiteSession(mode),
            client=AsyncOpenAI(base_url=URLS[1], max_retries=0),
            model=MODEL,
            compaction_mode=mode,
            should_trigger_compaction=lambda context: len(context["compaction_candidate_items"]) >= 4,
        )
        for number in range(4):
            run = (one, two)[number % 2]
            assert (await Runner.run(forecaster, f"Weather {number}?", session=session, run_config=run)).final_output
        assert "compaction" in [item.get("type") for item in await session.get_items()], mode


async def sockets() -> None:
    """One connection for several runs, also where nothing is stored."""
    unstored = Agent(name="unstored", model=MODEL, tools=[weather], model_settings=ModelSettings(store=False))
    async with responses_websocket_session(base_url=URLS[0]) as socket:
        for agent in (forecaster, unstored):
            begun = await socket.run(agent, "The weather?", auto_previous_response_id=True)
            went_on = socket.run_streamed(agent, "More.", previous_response_id=begun.last_response_id)
            assert [event async for event in went_on.stream_events()]
            assert went_on.final_output


def sync() -> None:
    for transport in ("http", "websocket"):
        set_default_openai_responses_transport(transport)
        previous = None
        for url in (URLS[0], URLS[1], URLS[0]):
            set_default_openai_client(AsyncOpenAI(base_url=url, max_retries=0), use_for_tracing=False)
            run = RunConfig(model_provider=OpenAIProvider())
            result = Runner.run_sync(forecaster, "The weather?", previous_response_id=previous, run_config=run)
            assert result.final_output
            previous = result.last_response_id


without_state()
for websocket in (False, True):
    asyncio.run(chains(websocket))
    asyncio.run(conversations(websocket))
asyncio.run(compaction())
asyncio.run(sockets())
sync()
