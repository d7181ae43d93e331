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
    admin_key = (demo.data_dir / "admin-key").absolute()
    return f"""
The gateway serves. {provider}

Base URL   {base_url}
API key    {key}
Dashboard  {demo.url}/dashboard   (sign in with the admin key, which lies in {admin_key})
Data       {demo.data_dir.absolute()}   (store, keys; its gateway.toml is the configuration in use)

# A request
{_curl(base_url, key, stream=False)}

# The same, streamed
{_curl(base_url, key, stream=True)}

# The OpenAI SDK for Python (pip install openai)
from openai import OpenAI
client = OpenAI(base_url="{base_url}", api_key="{key}")
print(client.responses.create(model="{MODEL}", input="Hello, world!").output_text)

# The OpenAI SDK for JavaScript (npm install openai; save as hello.mjs, then: node hello.mjs)
import OpenAI from "openai";
const client = new OpenAI({{ baseURL: "{base_url}", apiKey: "{key}" }});
const response = await client.responses.create({{ model: "{MODEL}", input: "Hello, world!" }});
console.log(response.output_text);

# Codex CLI (npm install -g @openai/codex)
{_codex(base_url, key)}

# opencode (npm install -g opencode-ai)
{_opencode(base_url, key)}

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


def _codex(base_url: str, key: str) -> str:
    provider = f'{{name = "Gateway", base_url = "{base_url}", env_key = "GATEWAY_KEY", wire_api = "responses"}}'
    return (
        f"GATEWAY_KEY={key} codex -m {MODEL} \\\n"
        "  -c model_provider=gateway \\\n"
        f"  -c 'model_providers.gateway={provider}'"
    )


def _opencode(base_url: str, key: str) -> str:
    provider = {
        "npm": "@ai-sdk/openai",
        "name": "Gateway",
        "options": {"baseURL": base_url, "apiKey": key},
        "models": {MODEL: {}},
    }
    config = json.dumps({"provider": {"gateway": provider}})
    return f"OPENCODE_CONFIG_CONTENT='{config}' \\\n  opencode -m gateway/{MODEL}"


def _environment(demo: Demo) -> str:
    """Returns the environment variables that the command line needs if its defaults do not fit."""
    out = ""
    if demo.url != DEFAULT_URL:
        out += f"GATEWAY_URL={demo.url} "
    key_file = demo.data_dir / "admin-key"
    if key_file.absolute() != DEMO_ADMIN_KEY.absolute():
        out += f'GATEWAY_ADMIN_KEY="$(cat {shlex.quote(str(key_file.absolute()))})" '
    return out
