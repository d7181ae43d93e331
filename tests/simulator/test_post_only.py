"""The simulator as a provider that keeps nothing: what refers to something kept is refused, all else is answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.simulator import build_simulator
from tests.simulator.client import Simulator
from tests.simulator.conftest import running

SAID = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
CALL = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "seen"}
THOUGHT = {"type": "reasoning", "summary": [], "encrypted_content": "sealed"}


@pytest.fixture(scope="module")
def stateless() -> Iterator[Simulator]:
    with running(build_simulator(post_only=True)) as url:
        headers = {"authorization": "Bearer sk-anything"}
        with httpx.Client(base_url=url, headers=headers, timeout=10) as client:
            yield Simulator(client)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
    ],
)
def test_a_field_that_needs_state_is_refused(stateless: Simulator, fields: dict[str, Any], param: str) -> None:
    got = stateless.post("o4-mini", "hello", **fields)
    assert (got.status_code, got.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("items", "status", "param"),
    [
        ([{"type": "item_reference", "id": "msg_1"}], 400, "input[0]"),
        ([{"id": "msg_1"}], 400, "input[0]"),
        ([{"type": "compaction", "encrypted_content": "x"}], 400, "input[0]"),
        ([SAID, {"type": "compaction_trigger"}], 400, "input[1]"),
        ([{**SAID, "id": "msg_1"}], 404, "input[0]"),
        ([{**SAID, "status": "completed"}], 400, "input[0].status"),
        ([{**THOUGHT, "content": None}], 400, "input[0].content"),
        ([{"type": "reasoning", "summary": []}], 400, "input[0]"),
        (
            [{"role": "assistant", "content": [{"type": "output_text", "text": "x", "logprobs": []}]}],
            400,
            "input[0].content[0].logprobs",
        ),
        ([SAID, RESULT], 400, "input"),
        ([SAID, CALL], 400, "input"),
        ([SAID, CALL, RESULT, RESULT], 400, "input"),
    ],
)
def test_an_item_that_needs_state_is_refused(
    stateless: Simulator, items: list[dict[str, Any]], status: int, param: str
) -> None:
    got = stateless.post("o4-mini", items)
    assert (got.status_code, got.json()["error"]["param"]) == (status, param)


def test_what_needs_no_state_is_answered(stateless: Simulator) -> None:
    named = {"type": "mcp_approval_request", "id": "mcpr_1", "name": "x", "arguments": "{}", "server_label": "s"}
    patch = {"type": "apply_patch_call", "call_id": "call_2", "operation": {}, "status": "completed"}
    patched = {"type": "apply_patch_call_output", "call_id": "call_2", "status": "failed"}
    shell = {"type": "local_shell_call", "call_id": "call_3", "action": {}}
    listed = {"type": "local_shell_call_output", "id": "call_3", "output": "{}"}
    for given in (
        "hello",
        [SAID],
        [SAID, THOUGHT, CALL, RESULT],
        [{"type": "shell_call", "command": "ls"}],
        [named, patch, patched, shell, listed],
    ):
        answer = stateless.answer("o4-mini", given, store=False)
        assert (answer["status"], answer["store"]) == ("completed", False)
    assert stateless.answer("o4-mini", "hello", previous_response_id=None)["status"] == "completed"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/input_items"),
    ],
)
def test_there_is_nothing_by_id(stateless: Simulator, method: str, path: str) -> None:
    made = stateless.answer("o4-mini")
    got = stateless.http.request(method, f"/v1/responses/{made['id']}{path}")
    assert (got.status_code, got.json()["error"]["code"]) == (404, "unknown_url")


@pytest.mark.parametrize("path", ["compact", "input_tokens"])
def test_there_is_no_other_call_of_the_responses_api(stateless: Simulator, path: str) -> None:
    got = stateless.http.post(f"/v1/responses/{path}", json={"model": "o4-mini", "input": "x"})
    assert got.status_code == 404
