"""Reads what a provider may do for a request that its body does not show: hosted tools, stored input, other models.

    read_work(fields, text) -> BodyWork      NO_WORK if there is nothing of the kind

`fields` is the decoded body, `text` its bytes without long attachments. It never raises: a value of another type counts
as absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from gateway.protocol.byte_search import PIECE_BYTES, contains
from gateway.protocol.counts import count
from gateway.protocol.hosted_calls import CLIENT_TOOLS, LIVE_SEARCH, tool_name
from gateway.protocol.quantities import EMPTY
from gateway.protocol.stored_references import NAMES, NOTHING_NAMED, Named, names_in
from gateway.types import Body

# A quote inside a text is escaped, so that no text can look like one of these. Names may be spelt with escapes.
_MEDIA: Final = re.compile(
    rb'"(?:input_image|image_url|input_audio|input_file|file_data|input_video|video_url|audio_url|file|image|audio|media)"'
)
_ESCAPED: Final = re.compile(rb"\\u00[2-7][0-9a-fA-F]")
_MAX_NAME_BYTES: Final = 32  # the longest of these names, with quotes

_VERSION: Final = re.compile(r"(?:_preview|_\d{4,}).*\Z")
_CLIENT_TYPES: Final = CLIENT_TOOLS | {"custom", "namespace", "text_editor", "bash", "memory", "computer_use"}
_SWITCHES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "web_search_options": ("web_search",),  # OpenAI
        "search_parameters": (LIVE_SEARCH,),  # xAI
        "enable_search": ("web_search",),  # Qwen
        "connectors": ("web_search",),  # Cohere
        "compound_custom": ("web_search", "code_interpreter"),  # Groq
    }
)
"""Fields that let a provider use hosted tools, and these tools."""
_BY_NAME: Final[Mapping[str, str]] = MappingProxyType(
    {
        "google_search": "web_search",
        "googleSearch": "web_search",
        "google_search_retrieval": "web_search",
        "googleSearchRetrieval": "web_search",
        "enterprise_web_search": "web_search",
        "google_maps": "google_maps",
        "googleMaps": "google_maps",
        "url_context": "url_context",
        "urlContext": "url_context",
        "code_execution": "code_execution",
        "codeExecution": "code_execution",
    }
)
"""Tools without a type, which are recognised by the name of their only member (Gemini)."""
_LIVE_SOURCES: Final = 20
"""The default number of sources that a search of `search_parameters` reads."""
_REMOTE_TYPES: Final = frozenset({"mcp"})
"""Tools that are run elsewhere for no fee, but whose results the provider reads."""
FACTS: Final = ("speed", "inference_geo")
"""Fields that change a price by their value in the answer, not by their value in the request."""
INSTEAD: Final = ("models", "fallbacks", "fallback_models")
"""Fields that name models which may answer instead of the requested one."""
_RELEVANT: Final = frozenset(
    {
        "tools",
        "conversation",
        "prompt",
        "background",
        "plugins",
        "max_tool_calls",
        "container",
        "mcp_servers",
        *_SWITCHES,
    }
    | {"provider", "context_management", "tool_resources", "cached_content", "thread", "assistant_id", *FACTS, *INSTEAD}
)
_MAX_CHARACTERS: Final = 256
_MAX_MODELS: Final = 32


class BodyWork(NamedTuple):
    """What a provider may do for one request.

    `unseen`: it reads more than the body shows, by an amount that only it knows; `unseen_images` of it are images.
    `media`: the input is more than text. `tools`: hosted tools that it may call, by their names in prices. `calls`: the
    most calls in all, or None if the request states no bound. `sources`: the sources of a search, each of which is paid
    like a call. `background`: the response goes on without its caller. `compacts`: it may read the prompt once more to
    shorten it. `foreign`: a member that names something stored at the provider, whoever stored it, with the field that
    contains the member. `instead`: models that may answer instead. `advisors`: models that hosted tools ask. `facts`:
    fields that affect the price. `provider`: the names of the members of the `provider` object. `rereads_answer`: it
    follows an answer that is still being made, with the same bounds.
    """

    unseen: bool = False
    media: bool = False
    tools: tuple[str, ...] = ()
    calls: int | None = None
    sources: int = 0
    background: bool = False
    compacts: bool = False
    foreign: Named = NOTHING_NAMED
    instead: tuple[str, ...] = ()
    advisors: tuple[str, ...] = ()
    facts: Mapping[str, str] = EMPTY
    provider: tuple[str, ...] = ()
    unseen_images: int = 0
    rereads_answer: bool = False


NO_WORK: Final = BodyWork()
FILES_ALONE: Final = BodyWork(media=True)
"""The work for a form with files."""


def read_work(fields: Mapping[str, Any], text: Body) -> BodyWork:
    """Returns what a provider may do for a decoded body."""
    has = _has if len(text) > PIECE_BYTES else re.Pattern.search
    escaped = bool(has(_ESCAPED, text))
    media = escaped or bool(has(_MEDIA, text))
    may_name = escaped or bool(has(NAMES, text))
    unseen, foreign, images = False, NOTHING_NAMED, 0
    if may_name or isinstance(fields.get("input"), list):
        unseen, foreign, images = names_in(fields, may_name=may_name)
    if not (media or unseen) and _RELEVANT.isdisjoint(fields):
        return NO_WORK
    tools, remote = _tools(fields)
    more = unseen or bool(tools) or remote
    return BodyWork(
        more,
        media or more,
        tools,
        _calls(fields) if tools else None,
        _live_sources(fields.get("search_parameters")),
        fields.get("background") is True,
        _compacts(fields.get("context_management")),
        foreign,
        tuple(name for field in INSTEAD for name in _models(fields.get(field))),
        tuple(_advisors(fields)),
        {name: value[:_MAX_CHARACTERS] for name in FACTS if isinstance(value := fields.get(name), str)},
        _members(fields.get("provider")),
        images,
    )


def _has(pattern: re.Pattern[bytes], text: Body) -> bool:
    return contains(pattern, text, _MAX_NAME_BYTES)


def _tools(fields: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
    """Returns the hosted tools that a body permits, and whether the model also reads results of tools run elsewhere."""
    found: dict[str, None] = {}
    remote = bool(fields.get("mcp_servers"))
    for kind in _tool_types(fields):
        name = tool_name(_VERSION.sub("", kind))
        if name in _REMOTE_TYPES:
            remote = True
        elif name not in _CLIENT_TYPES:
            found[name[:64]] = None
    for name, tools in _SWITCHES.items():
        if _is_on(fields.get(name)):
            found |= dict.fromkeys(tools)
    return tuple(found), remote


def _is_on(switch: object) -> bool:
    """Whether a field permits tools. An object does, even an empty one, unless its mode is "off"."""
    if isinstance(switch, dict):
        return switch.get("mode") != "off"
    return bool(switch)


def _tool_types(fields: Mapping[str, Any]) -> Iterator[str]:
    for tool in _dicts(fields.get("tools")):
        kind = tool.get("type")
        if isinstance(kind, str):
            yield kind
        else:  # Anthropic's hosted tools have a type, a caller's own tools have none
            yield from (_BY_NAME[name] for name in _BY_NAME if name in tool)
    for plugin in _dicts(fields.get("plugins")):
        yield "web_search" if plugin.get("id") == "web" else str(plugin.get("id"))


def _calls(fields: Mapping[str, Any]) -> int | None:
    stated = count(fields.get("max_tool_calls"))
    if stated is not None:
        return stated
    uses = [count(tool.get("max_uses")) for tool in _dicts(fields.get("tools"))]
    known = [number for number in uses if number is not None]
    others = [name for name in _tools(fields)[0] if name != LIVE_SEARCH]
    return sum(known) if len(known) == len(others) else None


def _live_sources(parameters: object) -> int:
    if not isinstance(parameters, dict) or not _is_on(parameters):
        return 0
    stated = count(parameters.get("max_search_results"))
    return _LIVE_SOURCES if stated is None else stated


def _compacts(management: object) -> bool:
    """Whether `context_management` lets the provider summarise. OpenAI expects a list, Anthropic a list of `edits`."""
    edits = management.get("edits") if isinstance(management, dict) else management
    return any(str(edit.get("type")).startswith("compact") for edit in _dicts(edits))


def _models(value: object) -> Iterator[str]:
    for one in value[:_MAX_MODELS] if isinstance(value, list) else ():
        name = one.get("model") if isinstance(one, dict) else one
        if isinstance(name, str):
            yield name[:_MAX_CHARACTERS]


def _advisors(fields: Mapping[str, Any]) -> Iterator[str]:
    for tool in _dicts(fields.get("tools")):
        kind, model = tool.get("type"), tool.get("model")
        if isinstance(kind, str) and kind.startswith("advisor") and isinstance(model, str):
            yield model[:_MAX_CHARACTERS]


def _members(value: object) -> tuple[str, ...]:
    return tuple(name[:_MAX_CHARACTERS] for name in value) if isinstance(value, dict) else ()


def _dicts(value: object) -> Iterator[Mapping[str, Any]]:
    return (one for one in value if isinstance(one, dict)) if isinstance(value, list) else iter(())
