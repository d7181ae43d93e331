"""Finds references to what only the provider can read: files, items, prompts, conversations, URLs. Pure.

    names_in(fields, ...) -> (unseen, named, images)      images: how many of the unseen are images

| what a body names                                      | unseen | stored at the provider, by anybody      |
|--------------------------------------------------------|--------|-----------------------------------------|
| `file_id`, `file_ids`, `file_uri`, `vector_store_ids`  | yes    | yes                                     |
| an item without content: `item_reference`, or `id`     | yes    | yes                                     |
| `conversation`, `prompt` with an id, `thread`,         | yes    | yes                                     |
|   `assistant_id`, `cached_content`                     |        |                                         |
| `container`, `container_id`, `skill_id` of a tool      | yes    | yes, if it is an id                     |
| `audio` or `voice` with an id                          | yes    | yes                                     |
| `file_url`, a document, a video or sound by its URL    | yes    | no                                      |
| a packed file (`file_data`, a document in base64) or a | yes    | no                                      |
|   video, whose size says nothing about its tokens      |        |                                         |

Citations in an earlier answer (`annotations`, `results`) do not count, because the provider does not read them again.
The schemas of the caller's own tools do not count either, because they may use any of these names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

# A quote inside a text is escaped, so that no text can look like one of these.
NAMES: Final = re.compile(
    rb'"(?:file_ids?|file_ur[il]|file_data|document_url|video_url|audio_url|input_video|input_audio|video|item_reference|vector_store_ids?|container(?:_id)?|document|image|skill_id|audio|voice'
    rb'|conversation|prompt|thread|assistant_id|cached_?[cC]ontent)"'
)
_FOREIGN: Final = frozenset(
    {"file_id", "file_ids", "file_uri", "vector_store_id", "vector_store_ids", "cached_content", "cachedContent"}
    | {"assistant_id"}
)
_FOREIGN_IN_TOOLS: Final = _FOREIGN | {"container_id"}
_FETCHED: Final = frozenset({"file_url", "file_data", "document_url", "video_url", "audio_url", "input_video"})
_IMAGES: Final = ("input_image", "image")
_WITH_ID: Final = ("audio", "voice")
_REFERENCE: Final = frozenset({"id", "type", "status"})
"""The members of an item that only refers to another one."""
_ECHOED: Final = frozenset({"annotations", "results", "logprobs"})
_NOT_INPUT: Final = frozenset({"tools", "metadata", "text", "response_format", "output_config"})
_CALLERS_TOOLS: Final = frozenset({"function", "custom", "None"})
_WHOLE: Final = ("conversation", "prompt", "thread", "container")
"""Fields of the body whose value, an id or an object with one, names something that the provider has stored."""
_MAX_NODES: Final = 200_000


class Named(NamedTuple):
    """A member that names something stored, and the field of the body that contains it. Both are "" for nothing."""

    member: str = ""
    field: str = ""


NOTHING_NAMED: Final = Named()


def names_in(fields: Mapping[str, Any], *, may_name: bool) -> tuple[bool, Named, int]:
    """Returns whether a body refers to unseen input, the first stored thing that it names, and the unseen images.

    `may_name` says that its bytes contain one of `NAMES`, or an escape by which one may be written.
    """
    items = fields.get("input")
    bare = isinstance(items, list) and any(_is_bare(item) for item in items)
    if not bare and not may_name:
        return False, NOTHING_NAMED, 0
    search = _Search()
    for name in _WHOLE:
        value = fields.get(name)
        if _has_id(value) or (isinstance(value, str) and name != "prompt"):  # a prompt may be a text
            search.note(name, name)
    for name, value in fields.items():
        if name in _FOREIGN and value is not None:
            search.note(name, name)
        elif name == "input" and isinstance(value, list):
            search.items(value)
        elif name == "tools" and isinstance(value, list):
            search.tools(value)
        elif name not in _NOT_INPUT:
            search.walk(value, name, _FOREIGN)
    return search.unseen, search.named, search.images


class _Search:
    """A bounded search through one body. Mutable: `unseen`, `named`, `images`, the number of nodes left."""

    def __init__(self) -> None:
        self.unseen = False
        self.named = NOTHING_NAMED
        self.images = 0
        self._left = _MAX_NODES

    def note(self, member: str, field: str) -> None:
        self.unseen = True
        if not self.named.member:
            self.named = Named(member, field)

    def items(self, items: list[Any]) -> None:
        for item in items:
            if _is_bare(item):
                self.note("item_reference", "input")
        self.walk(items, "input", _FOREIGN)

    def tools(self, tools: list[Any]) -> None:
        for tool in tools:
            if not isinstance(tool, dict) or str(tool.get("type")) in _CALLERS_TOOLS:
                continue
            container = tool.get("container")
            if isinstance(container, str) or _has_id(container):
                self.note("container", "tools")
            self.walk(tool, "tools", _FOREIGN_IN_TOOLS)

    def walk(self, value: object, field: str, foreign: frozenset[str]) -> None:
        """Checks everything below a value. If the bound is reached, the field counts as one that names something."""
        waiting: list[Any] = [value]
        while waiting:
            node = waiting.pop()
            self._left -= 1
            if self._left < 0:
                self.note("", field)
                self.named = Named(field, field)
                return
            if isinstance(node, list):
                waiting += node
            elif isinstance(node, dict):
                self._check_members(node, field, foreign)
                waiting += [below for name, below in node.items() if name not in _ECHOED]

    def _check_members(self, node: Mapping[str, Any], field: str, foreign: frozenset[str]) -> None:
        if node.get("type") == "item_reference":
            self.note("item_reference", field)
        for name in foreign.intersection(node):
            if node[name] is not None:
                self.note(name, field)
        for name in _WITH_ID:
            if _has_id(node.get(name)):
                self.note(name, field)
        if "skill_id" in node and node.get("type") != "anthropic":  # the provider's own skills are everybody's
            self.note("skill_id", field)
        self._check_content(node, field)

    def _check_content(self, node: Mapping[str, Any], field: str) -> None:
        """Checks a part for files, images, video and sound."""
        source = node.get("source")
        kind = source.get("type") if isinstance(source, dict) else None
        if kind == "file":
            self.note("source", field)
        if node.get("type") in _IMAGES and (kind == "file" or node.get("file_id") is not None):
            self.images += 1
        if kind in ("url", "base64") and node.get("type") == "document":
            self.unseen = True
        if not _FETCHED.isdisjoint(node) or node.get("type") == "video" or _is_fetched(node.get("input_audio")):
            self.unseen = True


def _is_bare(item: object) -> bool:
    """Whether an item of the input only refers to one that the provider has stored."""
    return isinstance(item, dict) and "id" in item and item.keys() <= _REFERENCE


def _is_fetched(sound: object) -> bool:
    """Whether sound is given by its URL, and not sent."""
    places = (sound.get("data"), sound.get("url")) if isinstance(sound, dict) else (sound,)
    return any(isinstance(place, str) and place.startswith("http") for place in places)


def _has_id(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("id"), str)
