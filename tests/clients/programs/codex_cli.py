"""Codex CLI, whose program comes with openai-codex-cli-bin: over HTTP, and over a WebSocket."""

import json
import os
import subprocess
from pathlib import Path

import codex_cli_bin

PROGRAM = Path(codex_cli_bin.__file__).parent / "bin" / "codex"
HOME = Path.home() / "codex"


def asked(*, over_a_socket: bool) -> None:
    provider = {
        "name": json.dumps("Gateway"),
        "base_url": json.dumps(os.environ["OPENAI_BASE_URL"]),
        "env_key": json.dumps("OPENAI_API_KEY"),
        "wire_api": json.dumps("responses"),
        "supports_websockets": json.dumps(over_a_socket),
    }
    table = ", ".join(f"{name} = {value}" for name, value in provider.items())
    settings = ["-c", "model_provider=gateway", "-c", f"model_providers.gateway={{{table}}}"]
    done = subprocess.run(
        [str(PROGRAM), "exec", "-m", "gpt-5.2", "--skip-git-repo-check", "--json", *settings, "Say hello."],
        env={**os.environ, "CODEX_HOME": str(HOME)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert events[-1]["type"] == "turn.completed", events
    assert events[-1]["usage"]["output_tokens"] > 0
    said = [event["item"].get("text", "") for event in events if event["type"] == "item.completed"]
    assert any("This is the simulator" in text for text in said), events


HOME.mkdir(exist_ok=True)
asked(over_a_socket=False)
asked(over_a_socket=True)
