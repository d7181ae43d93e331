"""Lines for programs that use a new key. Pure."""

from __future__ import annotations

import json
from typing import Final

_MODEL: Final = "o4-mini"


def snippets(base_url: str, key: str) -> tuple[tuple[str, str], ...]:
    """Returns (client, lines) pairs."""
    body = json.dumps({"model": _MODEL, "input": "Hello, world!"})
    return (
        (
            "The OpenAI SDK for Python",
            f"""from openai import OpenAI

client = OpenAI(base_url="{base_url}", api_key="{key}")
print(client.responses.create(model="{_MODEL}", input="Hello, world!").output_text)""",
        ),
        (
            "curl",
            f"""curl {base_url}/responses \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{body}'""",
        ),
        (
            "environment variables of most programs",
            f'export OPENAI_BASE_URL="{base_url}"\nexport OPENAI_API_KEY="{key}"',
        ),
    )
