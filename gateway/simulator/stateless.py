"""The requests that a provider without state refuses, for `--post-only`: those that refer to something it would store.

| in the request                                             | status | code                  |
|------------------------------------------------------------|--------|-----------------------|
| `previous_response_id`, `conversation`, `store: true`,     | 400    | unsupported_parameter |
| `background: true`, `context_management`                   |        |                       |
| an item that is only a reference, or a compaction item     | 400    | invalid_field         |
| an item with an `id`, unless another one names it          | 404    | item_not_found        |
| an item with a `status` or a null, a text with `logprobs`; | 400    | unknown_parameter     |
| of an applied patch the `status` is required               |        |                       |
| reasoning without `encrypted_content`                      | 400    | invalid_field         |
| a tool output without its call, a second one, an open call | 400    | invalid_field         |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.simulator.request import JsonObject, ProviderError

_REFERRING: Final = ("previous_response_id", "conversation", "context_management")
_SWITCHES: Final = ("store", "background")
_NEEDS_STATE: Final = frozenset({"item_reference", "compaction", "compaction_trigger"})
_NAMED_BY_OTHERS: Final = frozenset({"mcp_approval_request", "local_shell_call_output"})
_HAVE_STATUS: Final = frozenset({"apply_patch_call", "apply_patch_call_output"})
_OUTPUT: Final = "_output"
_CALL: Final = "_call"


def check_stateless(fields: Mapping[str, Any], items: Iterable[JsonObject]) -> None:
    """Raises `ProviderError` for a request that needs state."""
    for name in _REFERRING:
        if fields.get(name) is not None:
            raise _unsupported(name)
    for name in _SWITCHES:
        if fields.get(name) is True:
            raise _unsupported(name)
    open_calls: dict[str, None] = {}
    answered: set[str] = set()
    for place, item in enumerate(items):
        _check_item(f"input[{place}]", item)
        _check_call(item, open_calls, answered)
    for call_id in open_calls:
        raise _wrong("input", f"No tool output found for the call {call_id}")


def _check_item(place: str, item: JsonObject) -> None:
    kind = item.get("type")
    if kind in _NEEDS_STATE or (kind is None and "role" not in item):
        raise _wrong(place, f"An item of the type {kind} refers to something that is not kept here")
    if "id" in item and kind not in _NAMED_BY_OTHERS:
        message = f"The item {item['id']} is not found: items are not kept here"
        raise ProviderError("item_not_found", message, param=place, status=404, type_="not_found")
    for name, value in item.items():
        if (name == "status" and kind not in _HAVE_STATUS) or value is None:
            raise ProviderError("unknown_parameter", f"Unknown parameter: {place}.{name}", param=f"{place}.{name}")
    if kind == "reasoning" and not item.get("encrypted_content"):
        raise _wrong(place, "A reasoning item without encrypted_content is not kept here")
    content = item.get("content")
    for at, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, dict) and "logprobs" in part:
            name = f"{place}.content[{at}].logprobs"
            raise ProviderError("unknown_parameter", f"Unknown parameter: {name}", param=name)


def _check_call(item: JsonObject, open_calls: dict[str, None], answered: set[str]) -> None:
    kind = item.get("type")
    call_id = item.get("id" if kind == "local_shell_call_output" else "call_id")
    if not isinstance(kind, str) or not isinstance(call_id, str):
        return
    if kind.endswith(_OUTPUT):
        if call_id in answered:
            raise _wrong("input", f"The call {call_id} has two outputs")
        if call_id not in open_calls:
            raise _wrong("input", f"No tool call found for the output with call_id {call_id}")
        del open_calls[call_id]
        answered.add(call_id)
    elif kind.endswith(_CALL):
        open_calls[call_id] = None


def _unsupported(name: str) -> ProviderError:
    return ProviderError("unsupported_parameter", f"{name} is not supported: nothing is kept here", param=name)


def _wrong(param: str, message: str) -> ProviderError:
    return ProviderError("invalid_field", message, param=param)
