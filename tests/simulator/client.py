"""Short forms of what tests send to a simulator; raw HTTP by httpx."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx

WEATHER: Final[Mapping[str, Any]] = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "strict": True,
}


@dataclass(frozen=True)
class Simulator:
    http: httpx.Client

    def post(self, model: str, text: object = "Hello, world!", /, **fields: object) -> httpx.Response:
        return self.http.post("/v1/responses", json={"model": model, "input": text, **fields})

    def answer(self, model: str, text: object = "Hello, world!", /, **fields: object) -> dict[str, Any]:
        answer = self.post(model, text, **fields)
        assert answer.status_code == 200, answer.text
        return cast("dict[str, Any]", answer.json())

    def events(self, model: str, text: object = "Hello, world!", /, **fields: object) -> list[dict[str, Any]]:
        answer = self.post(model, text, stream=True, **fields)
        assert answer.headers["content-type"] == "text/event-stream"
        return read_events(answer.content)

    def received(self, limit: int = 1) -> list[dict[str, Any]]:
        answer = self.http.get("/_sim/requests", params={"limit": limit})
        return cast("list[dict[str, Any]]", answer.json()["requests"])


def read_events(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream with LF line ends, each checked for its form; `[DONE]` must end it."""
    blocks = body.decode().split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    return [read_event(block) for block in blocks[:-2]]


def read_event(block: str) -> dict[str, Any]:
    match = re.fullmatch(r"event: (\S+)\ndata: (.*)", block)
    assert match, block
    event: dict[str, Any] = json.loads(match[2])
    assert event["type"] == match[1]
    return event


def text_of(answer: dict[str, Any]) -> str:
    return "".join(part["text"] for item in answer["output"] if item["type"] == "message" for part in item["content"])
