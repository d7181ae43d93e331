"""Claude Code, whose program comes with claude-agent-sdk: asked once from its command line, and by the SDK."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import claude_agent_sdk
from claude_agent_sdk import AssistantMessage, ClaudeAgentOptions, ResultMessage, query

os.environ |= {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "ANTHROPIC_MODEL": "claude-sonnet-4"}
PROGRAM = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"


def from_the_command_line(**variables: str) -> None:
    """The simulator calls each tool that it is offered, once, so that a turn is many requests."""
    done = subprocess.run(
        [str(PROGRAM), "-p", "Say hello.", "--output-format", "json"],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    told = json.loads(done.stdout)
    assert (told["subtype"], told["is_error"]) == ("success", False), told
    assert told["num_turns"] > 1
    assert "This is the simulator" in told["result"]
    assert told["usage"]["output_tokens"] > 0


async def by_the_sdk() -> None:
    options = ClaudeAgentOptions(tools=[], max_turns=1, include_partial_messages=True)
    messages = [message async for message in query(prompt="Say hello.", options=options)]
    assert any(isinstance(message, AssistantMessage) for message in messages)
    last = messages[-1]
    assert isinstance(last, ResultMessage)
    assert last.subtype == "success", last


from_the_command_line()
from_the_command_line(ANTHROPIC_AUTH_TOKEN=os.environ["ANTHROPIC_API_KEY"], ANTHROPIC_API_KEY="")
asyncio.run(by_the_sdk())
