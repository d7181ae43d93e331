"""Runs a scenario of tests/data/state: its steps, what the provider must receive and what the client must get."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from tests.support.post_only_provider import Answer, PostOnlyProvider
from tests.support.waiting import wait_until_sync
from tests.support.websocket_client import Socket

FREE = ("id", "status")
MISSING = object()


def filled(value: Any, saved: Mapping[str, Any]) -> Any:
    """The value with `${name}` replaced by what was saved."""
    if isinstance(value, str):
        whole = re.fullmatch(r"\$\{(\w+)\}", value)
        if whole:
            return saved[whole[1]]
        return re.sub(r"\$\{(\w+)\}", lambda found: str(saved[found[1]]), value)
    if isinstance(value, list):
        return [filled(one, saved) for one in value]
    if isinstance(value, dict):
        return {name: filled(one, saved) for name, one in value.items()}
    return value


def at(document: Any, path: str) -> Any:
    """The value at a dotted path, MISSING where there is none."""
    for step in path.split("."):
        if isinstance(document, list):
            document = document[int(step)] if step.isdigit() and int(step) < len(document) else MISSING
        elif isinstance(document, dict):
            document = document.get(step, MISSING)
        else:
            return MISSING
    return document


def matches(value: Any, expected: Any) -> bool:
    if isinstance(expected, dict) and len(expected) == 1 and next(iter(expected)).startswith("$"):
        ((name, wanted),) = expected.items()
        checks: dict[str, Callable[[], Any]] = {
            "$len": lambda: len(value) == wanted,
            "$in": lambda: any(matches(value, one) for one in wanted),
            "$prefix": lambda: str(value).startswith(wanted),
            "$contains": lambda: wanted in str(value),
            "$not_contains": lambda: wanted not in json.dumps(value),
            "$not": lambda: not matches(value, wanted),
            "$nonempty": lambda: value not in (MISSING, None, "", [], {}),
        }
        return bool(checks[name]())
    if isinstance(expected, dict) and isinstance(value, dict):
        return all(matches(value.get(name, MISSING), one) for name, one in expected.items())
    return bool(value == expected)


def plain(item: Any) -> Any:
    """An item without what is free: ids, statuses, nulls, empty annotations and logprobs; a string is one text part."""
    if isinstance(item, str):
        item = {"role": "user", "content": item}
    kept = {name: value for name, value in item.items() if name not in FREE and value is not None}
    if "role" in kept:
        kept.setdefault("type", "message")
        content = kept["content"]
        if isinstance(content, str):
            content = [{"type": "input_text", "text": content}]
        kept["content"] = [
            {k: v for k, v in part.items() if v is not None and not (k in ("annotations", "logprobs") and v == [])}
            for part in content
        ]
    return kept


def texts(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False)


def check_upstream_input(received: Mapping[str, Any], expected: Any) -> None:
    items = received["input"]
    if isinstance(expected, dict):
        whole, place = texts(items), 0
        for text in expected.get("$contains_texts", ()):
            place = whole.index(text, place)
        assert not [text for text in expected.get("$lacks_texts", ()) if text in whole]
        assert not [item for item in items if item.get("type") in expected.get("$lacks_types", ())]
        return
    items = [items] if isinstance(items, str) else items
    assert [plain(item) for item in items] == [plain(item) for item in expected]


class Scenario:
    """One run: `clients` are HTTP clients of the workers, used in turn; `keys` are those of the teams."""

    def __init__(self, provider: PostOnlyProvider, clients: list[httpx.Client], keys: Mapping[str, str]) -> None:
        self.provider = provider
        self.clients = clients
        self.keys = keys
        self.saved: dict[str, Any] = {}
        self.sent = 0
        self.sockets: dict[str, Socket] = {}

    def run(self, steps: list[dict[str, Any]], *, stream: bool) -> None:
        try:
            for step in steps:
                self.step(step, stream=stream)
        finally:
            for socket in self.sockets.values():
                socket.close()

    def step(self, step: dict[str, Any], *, stream: bool) -> None:
        calls = len(self.provider.received)
        answer = step.get("upstream_answer")
        if answer is not None:
            status, delay_s = step.get("upstream_status", 200), step.get("upstream_delay_s", 0)
            self.provider.next(Answer(filled(answer, self.saved), status, delay_s))
        got = self.ask(step, stream=stream)
        if poll := step.get("poll"):
            wait_until_sync(
                lambda: (
                    at((again := self.ask(step, stream=False))[1], poll["field"]) in poll["until"]
                    or at(again[1], poll["field"]) not in poll["while"]
                ),
                timeout_s=poll["within_s"],
                what=f"{poll['field']} is {poll['until']}",
            )
            got = self.ask(step, stream=False)
        self.check(step, got)
        if answer is None:
            assert len(self.provider.received) == calls, "no call may be made"
        else:
            self.provider.wait_for_calls(calls + 1)
            self.check_call(step, self.provider.received[calls])

    def ask(self, step: dict[str, Any], *, stream: bool) -> tuple[int, Any]:
        request = filled(step["request"], self.saved)
        if request["method"] == "WS":
            return self.socket(step).turn(request["body"])
        client = self.clients[self.sent % len(self.clients)]
        self.sent += 1
        headers = {"authorization": f"Bearer {self.keys[step.get('as', 'team-a')]}"}
        body = request.get("body")
        create = request["method"] == "POST" and request["path"] == "/v1/responses"
        streamed = stream and create and not body.get("background")
        if streamed:
            body = {**body, "stream": True}
        got = client.request(request["method"], request["path"], json=body, headers=headers)
        if got.headers["content-type"].startswith("text/event-stream"):
            events = [json.loads(line[6:]) for line in got.text.split("\n") if line.startswith("data: {")]
            return got.status_code, {"$events": events, **(events[-1].get("response") or {})}
        return got.status_code, got.json()

    def socket(self, step: dict[str, Any]) -> Socket:
        """The step's socket, which stays open; a new one is at the next worker."""
        name = step["socket"]
        if name not in self.sockets:
            worker = self.clients[len(self.sockets) % len(self.clients)].base_url
            url = str(worker.copy_with(scheme="ws", path="/v1/responses"))
            self.sockets[name] = Socket(url, self.keys[step.get("as", "team-a")])
        return self.sockets[name]

    def check(self, step: dict[str, Any], got: tuple[int, Any]) -> None:
        status, document = got
        expected = filled(step["expect"], self.saved)
        if "last_event" in expected:
            assert document["type"] == expected["last_event"], document
        assert matches(status, expected.get("status", status)), document
        for path, wanted in expected.get("fields", {}).items():
            value = self.event_field(document, path) if path.startswith("$events") else at(document, path)
            without_a_gap = list(range(len(document["$events"]))) if path == "$events.sequence" else wanted
            assert matches(value, without_a_gap), f"{path}: {value!r} is not {wanted!r}"
        for path in expected.get("absent", ()):
            assert at(document, path) is MISSING
        for name, path in step.get("save", {}).items():
            self.saved[name] = at(document, path)
            assert self.saved[name] is not MISSING

    def event_field(self, document: Any, path: str) -> Any:
        events = document["$events"]
        ids = {event["response"]["id"] for event in events if "response" in event}
        found: dict[str, Any] = {
            "first": events[0]["type"],
            "last": events[-1]["type"],
            "first_sequence": events[0]["sequence_number"],
            "sequence": [event["sequence_number"] for event in events],
            "all_ids": ids.pop() if len(ids) == 1 else ids,
        }
        return found[path.removeprefix("$events.")]

    def check_call(self, step: dict[str, Any], received: dict[str, Any]) -> None:
        if (expected := filled(step.get("upstream_input"), self.saved)) is not None:
            check_upstream_input(received, expected)
        for path, wanted in filled(step.get("upstream_fields", {}), self.saved).items():
            assert matches(at(received, path), wanted), f"{path} upstream: {at(received, path)!r}"
        for path in step.get("upstream_absent", ()):
            assert at(received, path) is MISSING, f"{path} went upstream"
