"""Open WebUI, as a server of its own: its list of models, chat with and without a stream, and a response."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

START_S = 180
KEY, GATEWAY = os.environ["OPENAI_API_KEY"], os.environ["OPENAI_BASE_URL"]

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
settings = {
    "OPENAI_API_BASE_URL": GATEWAY,
    "RAG_EMBEDDING_ENGINE": "openai",  # otherwise it loads a model of its own when it starts
    "ENABLE_OLLAMA_API": "false",
    "OFFLINE_MODE": "true",
    "WEBUI_AUTH": "false",
    "WEBUI_SECRET_KEY": "for this run only",
    "DATA_DIR": str(Path.home() / "open-webui"),
}


def called(path: str, body: object = None, token: str = "") -> str:
    """What Open WebUI answers; a refusal is an answer, too."""
    return httpx.request(
        "GET" if body is None else "POST",
        f"http://127.0.0.1:{port}{path}",
        content=None if body is None else json.dumps(body),
        headers={"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {}),
        timeout=60,
    ).text


def wait_until_it_serves(server: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + START_S
    while True:
        try:
            called("/health")
        except httpx.TransportError:
            assert server.poll() is None, "Open WebUI has ended"
            assert time.monotonic() < ends, "Open WebUI does not start"
            time.sleep(0.5)  # between two looks
        else:
            return


program = [str(Path(sys.executable).parent / "open-webui"), "serve", "--host", "127.0.0.1", "--port", str(port)]
server = subprocess.Popen(program, env={**os.environ, **settings})
try:
    wait_until_it_serves(server)
    token = json.loads(called("/api/v1/auths/signin", {"email": "admin@localhost", "password": "admin"}))["token"]

    accepted = json.loads(called("/openai/verify", {"url": GATEWAY, "key": KEY}, token))
    assert accepted["object"] == "list", accepted
    refused = json.loads(called("/openai/verify", {"url": GATEWAY, "key": "wrong"}, token))
    assert refused["error"]["code"] == "invalid_api_key", refused

    models = [model["id"] for model in json.loads(called("/api/models", token=token))["data"]]
    assert "openai/gpt-5.2" in models, models

    chat = {"model": "openai/gpt-5.2", "messages": [{"role": "user", "content": "Hello."}]}
    whole = json.loads(called("/api/chat/completions", chat, token))
    assert "This is the simulator" in whole["choices"][0]["message"]["content"], whole
    streamed = called("/api/chat/completions", {**chat, "stream": True}, token)
    assert streamed.count("data: {") > 5, streamed
    assert "data: [DONE]" in streamed, streamed

    response = json.loads(called("/openai/responses", {"model": "openai/gpt-5.2", "input": "Hello."}, token))
    assert response["status"] == "completed", response
finally:
    server.terminate()
    server.wait(60)
