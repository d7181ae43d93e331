"""Items of a response's input and output: how they are stored, shown and sent upstream. Pure.

    as_items(input)               a request's `input` as a list of items: a string is one user message
    shown(items, places)          the items as lists show them: each with an id of its own
    upstream_items(items, ids)    the items in the form that a provider without state accepts

A provider without state refuses references to its store and fields that occur only in answers: `id`, `status`, keys
whose value is null, the `logprobs` of a text, and reasoning without `encrypted_content`. These are removed, except
where a kind of item needs them (_KEPT_FIELDS). Items of unknown kinds otherwise pass unchanged. Item types:
OpenResponses specification of 2026-04-24, schemas `ItemParam` of what clients send, and `ItemField` of what is shown,
which requires more.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Container, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

Item = dict[str, Any]

_ID_PREFIXES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "message": "msg",
        "reasoning": "rs",
        "function_call": "fc",
        "function_call_output": "fco",
        "custom_tool_call": "ctc",
        "custom_tool_call_output": "ctco",
        "compaction": "cmp",
    }
)
_SPECIFIED: Final = frozenset({"message", "reasoning", "function_call", "function_call_output", "compaction"})
_HAVE_STATUS: Final = frozenset({"message", "function_call", "function_call_output"})
_STATUSES: Final = frozenset({"in_progress", "completed", "incomplete"})
_PART_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {"output_text": {"annotations": []}, "input_image": {"image_url": None, "detail": "auto"}}
)
"""What a list shows of parts, and a request may leave out."""
_REMOVED_FIELDS: Final = frozenset({"id", "status"})
_KEPT_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "local_shell_call_output": "id",  # the id of its call
        "mcp_approval_request": "id",  # what an `mcp_approval_response` names
        "apply_patch_call": "status",  # required, and of an output the result
        "apply_patch_call_output": "status",
    }
)
"""Fields that are sent upstream, by kind of item. Source: OpenAI's API reference, input items of POST /responses."""
_TEXT_PARTS: Final = frozenset({"output_text", "input_text", "text"})
_ITEM_ID: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,256}")
COMPACTION: Final = "compaction"
TRIGGER: Final = "compaction_trigger"
LOCAL_SHELL_CALL: Final = "local_shell_call"
LOCAL_SHELL_OUTPUT: Final = "local_shell_call_output"
"""The `id` of such an item is not its own, but names the call (OpenAI's API reference, `LocalShellCallOutput`)."""


def as_items(given: object) -> list[Item]:
    """Returns a request's `input` as items. List elements that are not objects are left for the provider to refuse."""
    if given is None:
        return []
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    if not isinstance(given, list):
        return []
    return [item if isinstance(item, dict) else {"type": "message", "role": "user", "content": item} for item in given]


def kind_of(item: Mapping[str, Any]) -> str:
    """Returns an item's type.

    Without a type, an item with a role is a message, and an item with only an id is a reference.
    """
    kind = item.get("type")
    if isinstance(kind, str) and kind:
        return kind
    if "role" in item or "content" in item:
        return "message"
    return "item_reference" if isinstance(item.get("id"), str) else ""


def is_reference(item: Mapping[str, Any]) -> bool:
    """Whether an item only names a stored one: `item_reference`, an id without a type, or a call with only an id."""
    kind = kind_of(item)
    if kind == "item_reference":
        return True
    return kind == "image_generation_call" and isinstance(item.get("id"), str) and item.get("result") is None


def with_ids(items: Iterable[Item], places: Sequence[str] = (), removed_ids: Iterable[str] = ()) -> list[Item]:
    """Returns the items with one id each. An item keeps its own id if it is usable and unique among the items.

    `places` are permanent names of the items' positions. New ids are derived from them, so that a list has the same ids
    every time. Without them, new ids are random. `removed_ids`: ids of removed items, which are not used again.
    """
    taken = set(removed_ids)
    found = []
    for at, item in enumerate(items):
        identifier = item.get("id")
        if kind_of(item) == LOCAL_SHELL_OUTPUT and identifier:
            found.append(item)
            continue
        if not isinstance(identifier, str) or _ITEM_ID.fullmatch(identifier) is None or identifier in taken:
            identifier = _free_id(kind_of(item), places[at] if places else "", taken)
        taken.add(identifier)
        found.append({**item, "id": identifier})
    return found


def _free_id(kind: str, place: str, taken: Container[str]) -> str:
    """Returns an id for this place. Only a client that has computed it can have taken it."""
    while (identifier := new_item_id(kind, place)) in taken:
        place += "+"
    return identifier


def new_item_id(kind: str, place: str = "") -> str:
    """Returns a new item id for this kind of item: random, or the same every time for the same place."""
    digest = hashlib.sha256(place.encode()).hexdigest()[:32] if place else secrets.token_hex(16)
    return f"{_ID_PREFIXES.get(kind, 'item')}_{digest}"


def shown(items: Sequence[Item], places: Sequence[str] = (), removed_ids: Iterable[str] = ()) -> list[Item]:
    """Returns items as a list shows them: each with an id, and with what the specification requires of its kind."""
    return [_shown(item) for item in with_ids(items, places, removed_ids)]


def _shown(item: Item) -> Item:
    kind = kind_of(item)
    if kind not in _SPECIFIED:
        return {**item, "type": kind} if kind else item
    found = {"type": kind, **_without_nulls(item)}
    if kind in _HAVE_STATUS and found.get("status") not in _STATUSES:
        found["status"] = "completed"
    if kind == "message":
        said = found.get("content", [])
        text = {"type": "output_text" if item.get("role") == "assistant" else "input_text", "text": said}
        found["content"] = [text] if isinstance(said, str) else said
    for name in ("content", "output"):
        if isinstance(found.get(name), list):
            found[name] = [_shown_part(part) for part in found[name]]
    return found


def _shown_part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return {**_PART_DEFAULTS.get(str(part.get("type")), {}), **_without_nulls(part)}


def _without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def has_encrypted_reasoning(item: Mapping[str, Any]) -> bool:
    """Whether an item is encrypted reasoning, which only the organisation of the key that made it can read."""
    return kind_of(item) == "reasoning" and bool(item.get("encrypted_content"))


def upstream_items(
    items: Iterable[Item], *, reasoning_ids: bool = False, encrypted_reasoning: bool = True
) -> list[Item]:
    """Returns stored items in the form that is sent upstream.

    `reasoning_ids`: encrypted reasoning keeps its id, which Azure requires. `encrypted_reasoning`: whether such
    reasoning is sent at all. References keep their id, because it names another item. An output of the local shell
    names its call by the call's `call_id`, because the call's own id is removed.
    """
    found = []
    call_ids: dict[object, object] = {}
    for item in items:
        kind = kind_of(item)
        if kind == "reasoning" and not (encrypted_reasoning and has_encrypted_reasoning(item)):
            continue
        kept = "id" if is_reference(item) or (kind == "reasoning" and reasoning_ids) else _KEPT_FIELDS.get(kind)
        removed = _REMOVED_FIELDS - {kept}
        fields = {name: value for name, value in _without_nulls(item).items() if name not in removed}
        if kind == LOCAL_SHELL_CALL:
            call_ids[item.get("id")] = item.get("call_id")
        elif kind == LOCAL_SHELL_OUTPUT and "id" in fields:
            fields["id"] = item.get("call_id") or call_ids.get(fields["id"]) or fields["id"]
        elif kind == "message":
            fields["type"] = "message"
            if isinstance(fields.get("content"), list):
                fields["content"] = [_without_logprobs(part) for part in fields["content"]]
        found.append(fields)
    return found


def _without_logprobs(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    part = _without_nulls(part)
    if part.get("type") in _TEXT_PARTS:
        part.pop("logprobs", None)
        if part.get("annotations") == []:
            part.pop("annotations")
    return part
