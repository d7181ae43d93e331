"""Calls of every kind, their outputs and items of hosted tools go on at another gateway as a provider needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.state.answers import MODEL, answer, message
from tests.support.gateway import RunningGateway
from tests.support.post_only_provider import PostOnlyProvider

Json = dict[str, Any]
Ask = Callable[..., httpx.Response]
EXIT = {"type": "exit", "exit_code": 0}
ITEM = {"id": "item_1", "status": "completed"}
CALLS: dict[str, tuple[Json, Json]] = {
    "function": (
        {"type": "function_call", "name": "t", "arguments": "{}"},
        {"type": "function_call_output", "output": "y"},
    ),
    "custom tool": (
        {"type": "custom_tool_call", "name": "t", "input": "x"},
        {"type": "custom_tool_call_output", "output": [{"type": "input_text", "text": "y"}]},
    ),
    "shell": (
        {"type": "shell_call", "action": {"commands": ["ls"]}, "environment": None},
        {"type": "shell_call_output", "output": [{"stdout": "a", "stderr": "", "outcome": EXIT}]},
    ),
    "computer": (
        {"type": "computer_call", "action": {"type": "screenshot"}, "pending_safety_checks": []},
        {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": "data:image/png,"}},
    ),
    "tool search": (
        {"type": "tool_search_call", "arguments": {}, "execution": "client"},
        {"type": "tool_search_output", "tools": [], "execution": "client"},
    ),
    "of no known kind": ({"type": "dance_call", "steps": 3}, {"type": "dance_call_output", "danced": True}),
}
HOSTED: list[Json] = [
    {"type": "web_search_call", "action": {"type": "search", "query": "x"}},
    {"type": "file_search_call", "queries": ["x"]},
    {"type": "code_interpreter_call", "code": "1", "container_id": "cntr_1"},
    {"type": "image_generation_call", "result": "AAAA"},
    {"type": "mcp_call", "name": "x", "arguments": "{}", "server_label": "s", "output": "y"},
    {"type": "mcp_list_tools", "server_label": "s", "tools": []},
    {"type": "weather_report", "of": {"tomorrow": None}},
]


@pytest.fixture
def ask(gateways: tuple[RunningGateway, RunningGateway], provider: PostOnlyProvider) -> Iterator[Ask]:
    """One turn: the provider answers with this output; each goes to the other gateway than the one before."""
    key = gateways[0].new_key()
    with gateways[0].http(key) as one, gateways[1].http(key) as two:
        clients = [one, two]

        def ask(given: Any, output: list[Json], previous: str | None = None) -> httpx.Response:
            provider.next(answer("", f"resp_{len(provider.received)}", output=output))
            clients.reverse()
            body = {"model": MODEL, "input": given, "previous_response_id": previous}
            got = clients[0].post("/v1/responses", json=body)
            provider.forget()
            return got

        yield ask


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_of_any_kind_is_answered_once_by_an_output_of_its_kind(
    kind: str, ask: Ask, provider: PostOnlyProvider
) -> None:
    call, output = ({**item, "call_id": "call_1"} for item in CALLS[kind])
    called = ask("Go.", [{**call, **ITEM}]).json()
    assert called["output"] == [{**call, **ITEM}]
    answered = ask([{**output, **ITEM, "id": "item_2"}], [message("Done.")], called["id"]).json()
    assert provider.received[-1]["input"][1:] == [
        {name: value for name, value in call.items() if value is not None},
        output,
    ]
    assert ask("And on.", [message("Done.")], answered["id"]).status_code == 200
    calls = len(provider.received)
    for refused in ([], [output, output], [{**output, "type": "strange_call_output"}], [{**output, "call_id": "no"}]):
        got = ask([*refused, {"role": "user", "content": "x"}], [], called["id"])
        assert (got.status_code, got.json()["error"]["param"]) == (400, "input")
        assert repr((refused or [call])[0]["call_id"]) in got.json()["error"]["message"]
    assert len(provider.received) == calls


def test_what_hosted_tools_leave_waits_for_nothing_and_goes_on_in_its_place(
    ask: Ask, provider: PostOnlyProvider
) -> None:
    made = [{**item, "id": f"item_{at}", "status": "completed"} for at, item in enumerate(HOSTED)]
    first = ask("Go.", [*made, message("Done.")]).json()
    assert ask("And on.", [message("Done.")], first["id"]).status_code == 200
    assert provider.received[-1]["input"][1 : 1 + len(HOSTED)] == HOSTED


def test_an_approval_names_its_request_upstream_too(ask: Ask, provider: PostOnlyProvider) -> None:
    request = {"type": "mcp_approval_request", "id": "mcpr_1", "name": "x", "arguments": "{}", "server_label": "s"}
    approval = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    first = ask("Go.", [request]).json()
    assert ask([approval], [message("Done.")], first["id"]).status_code == 200
    assert provider.received[-1]["input"][1:] == [request, approval]


def test_the_result_of_a_patch_reaches_the_provider(ask: Ask, provider: PostOnlyProvider) -> None:
    operation = {"type": "create_file", "path": "x", "diff": "+"}
    patch = {"type": "apply_patch_call", "call_id": "call_1", "operation": operation, "status": "completed"}
    failed = {"type": "apply_patch_call_output", "call_id": "call_1", "status": "failed", "output": "no such file"}
    first = ask("Go.", [{**patch, "id": "apc_1"}]).json()
    assert ask([failed], [message("Done.")], first["id"]).status_code == 200
    assert provider.received[-1]["input"][1:] == [patch, failed]


@pytest.mark.parametrize("named", ["call_1", "lsh_1"])
def test_an_output_of_the_local_shell_names_its_call_by_either_id(
    named: str, ask: Ask, provider: PostOnlyProvider
) -> None:
    call = {"type": "local_shell_call", "call_id": "call_1", "action": {"type": "exec", "command": ["ls"], "env": {}}}
    output = {"type": "local_shell_call_output", "id": named, "output": "{}"}
    first = ask("Go.", [{**call, "id": "lsh_1", "status": "completed"}]).json()
    second = ask([output], [message("Done.")], first["id"]).json()
    assert provider.received[-1]["input"][1:] == [call, {**output, "id": "call_1"}]
    assert ask("And on.", [message("Done.")], second["id"]).status_code == 200
    assert ask([output, output], [], first["id"]).status_code == 400


@pytest.mark.parametrize(
    "reference",
    [
        {"type": "item_reference", "id": "ig_1"},
        {"type": None, "id": "ig_1"},
        {"id": "ig_1"},
        {"type": "image_generation_call", "id": "ig_1"},
        {"type": "image_generation_call", "id": "ig_1", "result": None},
    ],
)
def test_an_item_is_named_in_each_form_and_as_often_as_it_is_named(
    reference: Json, ask: Ask, provider: PostOnlyProvider
) -> None:
    image = {"type": "image_generation_call", "result": "AAAA"}
    ask("Draw.", [{**image, "id": "ig_1", "status": "completed"}])
    assert ask([reference, reference], [message("Nice.")]).status_code == 200
    assert provider.received[-1]["input"] == [image, image]
