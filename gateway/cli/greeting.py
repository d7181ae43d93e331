"""The text that `gateway demo` prints when it serves. Commands start at the left margin, so that they can be pasted."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.cli.client import DEFAULT_URL, DEMO_ADMIN_KEY
from gateway.cli.options import program

MODEL: Final = "o4-mini"


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demo. `url` is without /v1."""

    url: str
    data_dir: Path
    simulated: bool


def text(demo: Demo, key: str) -> str:
    """Returns the greeting."""
    base_url = f"{demo.url}/v1"
    cli = f"{_environment(demo)}{program()}"
    provider = (
        "The answers come from the built-in simulator. For real ones, set SIRAYA_API_KEY and start again."
        if demo.simulated
        else "Requests go to Siraya (SIRAYA_API_KEY is set)."
    )
    return f"""
The gateway serves. {provider}

Base URL   {base_url}
API key    {key}
Data       {demo.data_dir.absolute()}   (store, keys; its gateway.toml is the configuration in use)

# A request
{_curl(base_url, key, stream=False)}

# The same, streamed
{_curl(base_url, key, stream=True)}

# The OpenAI SDK for Python (pip install openai)
from openai import OpenAI
client = OpenAI(base_url="{base_url}", api_key="{key}")
print(client.responses.create(model="{MODEL}", input="Hello, world!").output_text)

# Another team, a key for it, and what they spend
{cli} teams create research --credits 25.00 --rpm 60
{cli} keys create research --name laptop
{cli} teams list

Ctrl-C stops everything; the next start finds the same teams, keys and balances.
"""


def _curl(base_url: str, key: str, *, stream: bool) -> str:
    flags = "-sSN" if stream else "-sS"
    body = json.dumps({"model": MODEL, "input": "Hello, world!", **({"stream": True} if stream else {})})
    return (
        f"curl {flags} {base_url}/responses \\\n"
        f'  -H "Authorization: Bearer {key}" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d '{body}'"
    )


def _environment(demo: Demo) -> str:
    """Returns the environment variables that the command line needs where its defaults do not fit."""
    out = ""
    if demo.url != DEFAULT_URL:
        out += f"GATEWAY_URL={demo.url} "
    key_file = demo.data_dir / "admin-key"
    if key_file.absolute() != DEMO_ADMIN_KEY.absolute():
        out += f'GATEWAY_ADMIN_KEY="$(cat {shlex.quote(str(key_file.absolute()))})" '
    return out
