"""Compaction: a model's own summary replaces a long conversation. Pure.

    summary_request(...)     the changes of a request's body that make it ask for the summary
    summary_of(response)     the text of the model's answer
    compaction_item(...)     the sealed item that clients keep and send back
    open_items(items, open)  the items, with each compaction item replaced by its text as input

There are three ways to ask for it: `POST /v1/responses/compact`, a `compaction_trigger` at the end of the input, and
`context_management`. Sources: the OpenResponses specification of 2026-04-24, "/responses/compact"; OpenAI's guide on
compaction. A summary becomes input and never instructions, so that a forged summary cannot give orders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.protocol.lenient_json import dumps
from gateway.state.chain import check_calls
from gateway.state.items import COMPACTION, TRIGGER, Item, kind_of, new_item_id

_PROMPT: Final = (
    "Summarise the conversation up to here, so that it can be continued from your summary alone. Keep every fact, "
    "name, number, decision, constraint and open task, the state of the work, and what the user asked for last. Write "
    "the summary and nothing else. Do not continue the conversation, and call no tools."
)
_SUMMARY_HEADING: Final = "Summary of the conversation so far:\n\n"


def without_trigger(items: Sequence[Item]) -> tuple[list[Item], bool]:
    """Returns the items without a trigger at their end, and whether there was one.

    Raises GatewayError `invalid_item` for a trigger elsewhere.
    """
    is_requested = bool(items) and kind_of(items[-1]) == TRIGGER
    rest = list(items[:-1] if is_requested else items)
    if any(kind_of(item) == TRIGGER for item in rest):
        raise GatewayError("invalid_item", "A compaction_trigger must be the last item of the input.", param="input")
    return rest, is_requested


def threshold_tokens(fields: Mapping[str, Any], default: int) -> int | None:
    """Returns from how many input tokens on a request asks for compaction, or None if it does not.

    `default`: the threshold of a request that names none.
    """
    entries = fields.get("context_management")
    if not isinstance(entries, list):
        return None
    for entry in entries:
        if isinstance(entry, dict) and entry.get("type") == COMPACTION:
            threshold = entry.get("compact_threshold")
            is_number = isinstance(threshold, int) and not isinstance(threshold, bool)
            return max(0, int(threshold)) if is_number and threshold is not None else default
    return None


def summary_request(fields: Mapping[str, Any], items: Sequence[Item]) -> dict[str, bytes | None]:
    """Returns the changes of a body that make it ask for a summary of these items. Raises GatewayError `invalid_item`.

    The tools stay, so that the provider's prompt cache applies, but none may be called.
    """
    if not items:
        raise GatewayError("invalid_item", "There is nothing to compact: the input is empty.", param="input")
    prompt = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": _PROMPT}]}
    return {
        "input": dumps([*items, prompt]),
        "tool_choice": b'"none"' if fields.get("tools") else None,
        "text": None,
        "context_management": None,
    }


def summary_of(response: Mapping[str, Any]) -> str:
    """Returns the text of the model's answer. Raises GatewayError `upstream_invalid_response` if there is none."""
    output = response.get("output")
    texts = [
        str(part.get("text") or "")
        for item in (output if isinstance(output, list) else [])
        if isinstance(item, dict) and kind_of(item) == "message" and isinstance(item.get("content"), list)
        for part in item["content"]
        if isinstance(part, dict) and part.get("type") == "output_text"
    ]
    text = "\n".join(filter(None, texts)).strip()
    if not text or response.get("status") != "completed":
        raise GatewayError("upstream_invalid_response", "The model did not finish a summary of the conversation.")
    return text


def compaction_item(sealed: str) -> Item:
    """Returns the item that replaces the summarised items."""
    return {"type": COMPACTION, "id": new_item_id(COMPACTION), "encrypted_content": sealed}


def open_items(items: Iterable[Item], open_sealed: Callable[[str], str]) -> list[Item]:
    """Returns the items with each compaction item as a message of the user. Raises GatewayError `invalid_item`."""
    found = []
    for item in items:
        if kind_of(item) != COMPACTION:
            found.append(item)
            continue
        try:
            text = open_sealed(str(item.get("encrypted_content")))
        except ValueError as error:
            name = item.get("id") or "without an id"
            raise GatewayError(
                "invalid_item", f"The compaction item {name} cannot be opened here: {error}.", param="input"
            ) from None
        part = {"type": "input_text", "text": _SUMMARY_HEADING + text}
        found.append({"type": "message", "role": "user", "content": [part]})
    return found


def user_messages(items: Iterable[Item]) -> list[Item]:
    """Returns the messages of the user, which a compacted conversation contains unchanged."""
    return [item for item in items if kind_of(item) == "message" and item.get("role") == "user"]


def verbatim_tail(items: Sequence[Item]) -> list[Item]:
    """Returns the items that follow the summary unchanged: the user's last message, and what came after it.

    If what came after it is more than half of all items, for example after many tool calls, only the message stays.
    """
    last = max((at for at, item in enumerate(items) if item in user_messages([item])), default=None)
    if last is None:
        return []
    tail = list(items[last:])
    try:
        check_calls(tail)
    except GatewayError:
        return tail[:1]
    return tail if len(dumps(tail)) * 2 <= len(dumps(list(items))) else tail[:1]
