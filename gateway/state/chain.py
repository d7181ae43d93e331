"""Resolves earlier turns and a new input into the input that is sent upstream. Pure.

    resolve(links, new)        earlier input, earlier output, ..., new input: in this order, each item once
    resolve_parts(links, new)  the same in two parts: the earlier items, and the new ones
    check_calls(items)         each tool output answers one earlier call of its kind, and no call stays open

A link is one stored turn with its own input and its own output. It does not contain the input that it was resolved
from, because that would double the size with every turn. A compaction item in a turn's output replaces everything
before it. A compaction item in a client's input replaces nothing, because the client decides what goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from gateway.errors import GatewayError
from gateway.state.items import COMPACTION, LOCAL_SHELL_OUTPUT, Item, kind_of, new_item_id

_OUTPUT: Final = "_output"
_CALL: Final = "_call"


class Link(NamedTuple):
    """One stored turn: the id of its response, its own input items and its own output items.

    It may also be a conversation, whose items are the input. `listing` then returns them as the conversation lists
    them.
    """

    response_id: str
    input: Sequence[Item]
    output: Sequence[Item]
    listing: Callable[[], Sequence[Item]] | None = None

    def listed(self) -> Sequence[Item]:
        """Returns the items with the ids that lists give to items without an id of their own, or with a used one."""
        if self.listing is not None:
            return self.listing()
        items = [*self.input, *self.output]
        return [{**item, "id": new_item_id(kind_of(item), f"{self.response_id}/{at}")} for at, item in enumerate(items)]


def resolve(links: Sequence[Link], new: Sequence[Item]) -> list[Item]:
    """Returns the whole input, from the oldest link to the new items. `links` are ordered from old to new."""
    earlier, added = resolve_parts(links, new)
    return [*earlier, *added]


def resolve_parts(links: Sequence[Link], new: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Returns the earlier input, and those of the new items that it does not contain.

    Agents often repeat a call next to its output, and items that they have received. An item that is already in the
    chain is not added again, whichever turn has repeated it.
    """
    earlier: list[Item] = []
    known = _KnownItems()
    for link in links:
        start = last_compaction(link.output)
        if start is not None:
            earlier, known = list(link.output[start:]), _KnownItems()
            known.note(earlier)
        else:
            for items in (known.without_repeated(link.input), link.output):
                earlier += items
                known.note(items)
    return earlier, known.without_repeated(new)


def last_compaction(items: Sequence[Item]) -> int | None:
    """Returns the index of the latest compaction item, or None."""
    return max((at for at, item in enumerate(items) if kind_of(item) == COMPACTION), default=None)


def since_compaction(items: Sequence[Item]) -> Sequence[Item]:
    """Returns the items of a conversation since its latest compaction.

    They include the user's messages directly before the compaction item, because a compacted conversation consists of
    such messages and the item.
    """
    start = last_compaction(items)
    if start is None:
        return items
    while start > 0 and kind_of(items[start - 1]) == "message" and items[start - 1].get("role") == "user":
        start -= 1
    return items[start:]


class _KnownItems:
    """The items so far, by id and content and by call, by which repetitions are recognised. Mutable."""

    def __init__(self) -> None:
        self._named: dict[tuple[str, str], list[Item]] = {}
        self._calls: dict[tuple[str, str], Item] = {}

    def note(self, items: Iterable[Item]) -> None:
        """Adds items."""
        for item in items:
            kind, identifier, call_id = kind_of(item), item.get("id"), item.get("call_id")
            if isinstance(identifier, str):
                self._named.setdefault((identifier, kind), []).append(item)
            if isinstance(call_id, str):
                self._calls[kind, call_id] = item

    def without_repeated(self, items: Sequence[Item]) -> list[Item]:
        """Returns the items that are not known yet. An item that occurs twice among them stays twice."""
        return [item for item in items if not self._has(item)]

    def _has(self, item: Item) -> bool:
        kind = kind_of(item)
        same = self._named.get((str(item.get("id")), kind), ())
        return any(_has_same_content(one, item) for one in same) or _same_call(
            self._calls.get((kind, str(item.get("call_id")))), item
        )


def _has_same_content(before: Item, item: Item) -> bool:
    """Whether two items with the same id are the same item. Items with different contents are not.

    Providers and clients number their items anew in every turn. Clients send earlier items back without the fields that
    they do not need.
    """
    if kind_of(item) == "message":
        return _content_of(before) == _content_of(item)
    return _is_compatible({**before, "status": None}, item)


def _is_compatible(before: Any, now: Any) -> bool:
    """Whether two values do not contradict each other. Null, empty and missing values contradict nothing."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(_is_compatible(before[name], now[name]) for name in before.keys() & now.keys())
    if any(value is None or (isinstance(value, str | list | dict) and not value) for value in (before, now)):
        return True
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_is_compatible, before, now))
    return bool(before == now)


def _content_of(message: Item) -> tuple[object, list[object]]:
    """Returns the role and the parts of a message. A part with a text is represented by its text."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text", part) if isinstance(part, dict) else part for part in parts]
    return message.get("role"), texts


def _same_call(before: Item | None, item: Item) -> bool:
    if before is None:
        return False
    ignored = {"id", "status"}
    return {k: v for k, v in before.items() if k not in ignored and v is not None} == {
        k: v for k, v in item.items() if k not in ignored and v is not None
    }


def check_calls(items: Iterable[Item], *, unseen: bool = False) -> None:
    """Raises GatewayError `invalid_item` (400, param `input`), which names the call_id that does not match.

    Only a call with a `call_id` waits for the client. Calls of hosted tools have none and are not checked. An item of
    another kind with a `call_id`, such as a `program`, may have an output but does not need one. `unseen`: the provider
    has items before these or among them, so that an output may answer a call that is not here.
    """
    open_calls: dict[str, str] = {}
    others: dict[str, str] = {}
    by_item_id: dict[str, str] = {}  # an output of the local shell names its call by either id
    answered: set[str] = set()
    for item in items:
        kind = kind_of(item)
        call_id = item.get("call_id")
        if kind == LOCAL_SHELL_OUTPUT and call_id is None:
            call_id = by_item_id.get(str(item.get("id")), item.get("id"))
        if not isinstance(call_id, str) or not call_id:
            continue
        if kind.endswith(_OUTPUT):
            calls = open_calls if call_id in open_calls else others
            _match_output(calls, answered, kind, call_id, unseen=unseen)
        elif kind.endswith(_CALL):
            if call_id in open_calls or call_id in answered:
                raise _invalid_item(f"The call {call_id!r} occurs twice.")
            open_calls[call_id] = kind
            by_item_id[str(item.get("id"))] = call_id
        else:
            others[call_id] = kind
    for call_id in open_calls:
        raise _invalid_item(f"The call {call_id!r} has no output: send one before the next turn.")


def _match_output(open_calls: dict[str, str], answered: set[str], kind: str, call_id: str, *, unseen: bool) -> None:
    if call_id in answered:
        raise _invalid_item(f"The call {call_id!r} is answered twice.")
    call_kind = open_calls.pop(call_id, None)
    if call_kind is None and unseen:
        answered.add(call_id)
        return
    if call_kind is None:
        raise _invalid_item(f"No earlier call has the call_id {call_id!r}.")
    answers = kind.removesuffix(_OUTPUT)  # a `function_call_output` answers a `function_call`
    if call_kind not in (answers, answers + _CALL):  # a `tool_search_output` answers a `tool_search_call`
        raise _invalid_item(f"The call {call_id!r} is a {call_kind}, which a {kind} does not answer.")
    answered.add(call_id)


def _invalid_item(message: str) -> GatewayError:
    return GatewayError("invalid_item", message, param="input")
