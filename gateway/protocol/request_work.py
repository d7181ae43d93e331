"""What a request lets a provider do beyond what its body shows: hosted tools, stored and fetched input, other models.

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
from gateway.protocol.quantities import EMPTY
from gateway.protocol.stored_references import NAMES, NOTHING_NAMED, Named, names_in
from gateway.types import Body

# A quote inside a text is escaped, so no text can look like one of these. Names may be spelt with escapes.
_MEDIA: Final = re.compile(
    rb'"(?:input_image|image_url|input_audio|input_file|file_data|input_video|video_url|audio_url|file|image|audio|media)"'
)
_ESCAPED: Final = re.compile(rb"\\u00[2-7][0-9a-fA-F]")
_LONGEST_NAME: Final = 32  # of those that are looked for, with quotes

_VERSION: Final = re.compile(r"(?:_preview|_\d{4,}).*\Z")
_CLIENT_TYPES: Final = CLIENT_TOOLS | {"custom", "namespace", "text_editor", "bash", "memory", "computer_use"}
_REMOTE_TYPES: Final = frozenset({"mcp"})
"""Tools that are run elsewhere for no fee, but whose results the provider reads."""
FACTS: Final = ("speed", "inference_geo")
"""Fields that change a price by what the answer says of them, and not by what the request says."""
INSTEAD: Final = ("models", "fallbacks", "fallback_models")
"""Fields that name models which may answer instead of the one that was asked for."""
_TELLING: Final = frozenset(
    {"tools", "conversation", "prompt", "background", "web_search_options", "plugins", "max_tool_calls", "container"}
    | {"provider", "context_management", "tool_resources", "cached_content", "thread", "assistant_id", *FACTS, *INSTEAD}
)
_LONGEST: Final = 256
_MOST_MODELS: Final = 32


class BodyWork(NamedTuple):
    """`unseen`: the provider reads more than the body shows, by an amount that only it knows. `media`: more than text.

    `tools`: hosted tools that it may call, by their name in prices; `calls`: how often in all, None: not said.
    `compacts`: the provider may read the prompt once more to shorten it. `foreign`: a member that names something that
    is stored at the provider, whoever made it, and the field in which it stands. `instead`: models that may answer
    instead; `advisors`: models that hosted tools ask. `facts`: fields that bear on the price. `provider`: the members
    of its `provider` object.
    """

    unseen: bool = False
    media: bool = False
    tools: tuple[str, ...] = ()
    calls: int | None = None
    background: bool = False
    compacts: bool = False
    foreign: Named = NOTHING_NAMED
    instead: tuple[str, ...] = ()
    advisors: tuple[str, ...] = ()
    facts: Mapping[str, str] = EMPTY
    provider: tuple[str, ...] = ()


NO_WORK: Final = BodyWork()
FILES_ALONE: Final = BodyWork(media=True)
"""Of a form with files."""


def read_work(fields: Mapping[str, Any], text: Body) -> BodyWork:
    """What a decoded body lets its provider do."""
    has = _has if len(text) > PIECE_BYTES else re.Pattern.search
    escaped = bool(has(_ESCAPED, text))
    media = escaped or bool(has(_MEDIA, text))
    may_name = escaped or bool(has(NAMES, text))
    unseen, foreign = False, NOTHING_NAMED
    if may_name or isinstance(fields.get("input"), list):
        unseen, foreign = names_in(fields, may_name=may_name)
    if not (media or unseen) and _TELLING.isdisjoint(fields):
        return NO_WORK
    tools, remote = _tools(fields)
    more = unseen or bool(tools) or remote
    return BodyWork(
        more,
        media or more,
        tools,
        _calls(fields) if tools else None,
        fields.get("background") is True,
        _compacts(fields.get("context_management")),
        foreign,
        tuple(name for field in INSTEAD for name in _models(fields.get(field))),
        tuple(_advisors(fields)),
        {name: value[:_LONGEST] for name in FACTS if isinstance(value := fields.get(name), str)},
        _members(fields.get("provider")),
    )


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
    for tool in _dicts(fields.get("tools")):
        kind = tool.get("type")
        yield kind if isinstance(kind, str) else "function"  # Anthropic's own have a type, a caller's have none
    for plugin in _dicts(fields.get("plugins")):
        yield "web_search" if plugin.get("id") == "web" else str(plugin.get("id"))


def _calls(fields: Mapping[str, Any]) -> int | None:
    asked = count(fields.get("max_tool_calls"))
    if asked is not None:
        return asked
    uses = [count(tool.get("max_uses")) for tool in _dicts(fields.get("tools"))]
    known = [number for number in uses if number is not None]
    return sum(known) if known and len(known) == len(_tools(fields)[0]) else None


def _compacts(management: object) -> bool:
    """Whether `context_management` lets the provider summarise: OpenAI names a list, Anthropic a list of `edits`."""
    edits = management.get("edits") if isinstance(management, dict) else management
    return any(str(edit.get("type")).startswith("compact") for edit in _dicts(edits))


def _models(value: object) -> Iterator[str]:
    for one in value[:_MOST_MODELS] if isinstance(value, list) else ():
        name = one.get("model") if isinstance(one, dict) else one
        if isinstance(name, str):
            yield name[:_LONGEST]


def _advisors(fields: Mapping[str, Any]) -> Iterator[str]:
    for tool in _dicts(fields.get("tools")):
        kind, model = tool.get("type"), tool.get("model")
        if isinstance(kind, str) and kind.startswith("advisor") and isinstance(model, str):
            yield model[:_LONGEST]


def _members(value: object) -> tuple[str, ...]:
    return tuple(name[:_LONGEST] for name in value) if isinstance(value, dict) else ()


def _dicts(value: object) -> Iterator[Mapping[str, Any]]:
    return (one for one in value if isinstance(one, dict)) if isinstance(value, list) else iter(())
