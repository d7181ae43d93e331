"""What a request lets a provider do beyond what its body shows: hosted tools, stored and fetched input.

    read_work(fields, text) -> BodyWork      NO_WORK where it lets it do nothing of the kind

`fields` is the decoded body, `text` its bytes without long attachments. Never raises: what is of another type says
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from gateway.protocol.byte_search import PIECE_BYTES, contains
from gateway.protocol.counts import count
from gateway.protocol.hosted_calls import CLIENT_TOOLS, tool_name
from gateway.types import Body

# A quote inside a text is escaped, so no text can look like one of these. Names may be spelt with escapes.
_MEDIA: Final = re.compile(
    rb'"(?:input_image|image_url|input_audio|input_file|file_data|input_video|video_url|audio_url|file|image|audio|media)"'
)
_UNSEEN: Final = re.compile(rb'"(?:file_id|file_url|item_reference|vector_store_ids|container|document|file_uri)"')
_ESCAPED: Final = re.compile(rb"\\u00[2-7][0-9a-fA-F]")
_LONGEST_NAME: Final = 32  # of those that are looked for, with quotes
_UNSEEN_NAMES: Final = frozenset({"file_id", "file_url", "vector_store_ids", "container", "file_uri"})
_FETCHED: Final = frozenset({"url", "file"})
"""Sources of documents that the provider reads itself."""
_NOT_INPUT: Final = frozenset({"tools", "metadata", "text", "response_format", "output_config"})
_MOST_NODES: Final = 200_000

_VERSION: Final = re.compile(r"(?:_preview|_\d{4,}).*\Z")
_CLIENT_TYPES: Final = CLIENT_TOOLS | {"custom", "namespace", "text_editor", "bash", "memory", "computer_use"}
_REMOTE_TYPES: Final = frozenset({"mcp"})
"""Tools that are run elsewhere for no fee, but whose results the provider reads."""
_TELLING: Final = frozenset(
    {"tools", "conversation", "prompt", "background", "web_search_options", "plugins", "max_tool_calls", "container"}
)


class BodyWork(NamedTuple):
    """`unseen`: the provider reads more than the body shows, by an amount that only it knows. `media`: more than text.

    `tools`: hosted tools that it may call, by their name in prices; `calls`: how often in all, None: not said.
    """

    unseen: bool = False
    media: bool = False
    tools: tuple[str, ...] = ()
    calls: int | None = None
    background: bool = False


NO_WORK: Final = BodyWork()


def read_work(fields: Mapping[str, Any], text: Body) -> BodyWork:
    """What a decoded body lets its provider do."""
    has = _has if len(text) > PIECE_BYTES else re.Pattern.search
    if has(_ESCAPED, text):
        media, unseen = True, _names_unseen(fields)
    else:
        media = bool(has(_MEDIA, text))
        unseen = bool(has(_UNSEEN, text)) and _names_unseen(fields)
    if not (media or unseen) and _TELLING.isdisjoint(fields):
        return NO_WORK
    tools, remote = _tools(fields)
    hidden = any(fields.get(name) is not None for name in ("conversation", "prompt", "container"))
    more = unseen or hidden or bool(tools) or remote
    calls = _calls(fields) if tools else None
    return BodyWork(more, media or more, tools, calls, fields.get("background") is True)


def _has(pattern: re.Pattern[bytes], text: Body) -> bool:
    return contains(pattern, text, _LONGEST_NAME)


def _tools(fields: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
    """The hosted tools that a body allows, and whether tools that are run elsewhere add to what the model reads."""
    found: dict[str, None] = {}
    remote = False
    for kind in _tool_types(fields):
        name = tool_name(_VERSION.sub("", kind))
        if name in _REMOTE_TYPES:
            remote = True
        elif name not in _CLIENT_TYPES:
            found[name[:64]] = None
    if fields.get("web_search_options") is not None:
        found["web_search"] = None
    return tuple(found), remote


def _tool_types(fields: Mapping[str, Any]) -> Iterator[str]:
    tools, plugins = fields.get("tools"), fields.get("plugins")
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict):
            kind = tool.get("type")
            yield kind if isinstance(kind, str) else "function"  # Anthropic's own have a type, a caller's have none
    for plugin in plugins if isinstance(plugins, list) else ():
        if isinstance(plugin, dict):
            yield "web_search" if plugin.get("id") == "web" else str(plugin.get("id"))


def _calls(fields: Mapping[str, Any]) -> int | None:
    asked = count(fields.get("max_tool_calls"))
    if asked is not None:
        return asked
    tools = fields.get("tools")
    uses = [count(tool.get("max_uses")) for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    known = [number for number in uses if number is not None]
    return sum(known) if known and len(known) == len(_tools(fields)[0]) else None


def _names_unseen(fields: Mapping[str, Any]) -> bool:
    """Whether the input names files, URLs or items that only the provider can read; in any spelling, at any depth."""
    waiting: list[Any] = [value for name, value in fields.items() if name not in _NOT_INPUT]
    for _ in range(_MOST_NODES):
        if not waiting:
            return False
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            if node.get("type") == "item_reference" or not _UNSEEN_NAMES.isdisjoint(node) or _is_fetched(node):
                return True
            waiting += node.values()
    return True


def _is_fetched(node: Mapping[str, Any]) -> bool:
    source = node.get("source")
    return node.get("type") == "document" and isinstance(source, dict) and source.get("type") in _FETCHED
