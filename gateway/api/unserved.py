"""The refusal of a request for which there is no route. Pure.

| the path                                       | answer                                                  |
|------------------------------------------------|---------------------------------------------------------|
| an operation's, asked by another method        | 405, which names its methods                            |
| of a provider's API, but not of this gateway's | 405, which says what is served, and what to use instead |
| any other                                      | 404, which names the path that was probably meant       |

A 404 would mislead for the second kind: Claude Code, LangChain and others show every 404 as an unknown model, and they
retry a 501.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.api.nearby_paths import nearby_path, tidied
from gateway.errors import GatewayError, Header
from gateway.protocol.operations import OPERATIONS, methods_at

_RESPONSES: Final = "POST /v1/responses"
_IN_THE_REQUEST: Final = (
    f"Put the content into the request: {_RESPONSES} takes 'input_file' with 'file_data', and images as data URLs."
)
_ONE_BY_ONE: Final = "Send the requests one by one: the limits say how many may run at a time."
_AT_THE_PROVIDER: Final = "Ask the provider directly, with a key of its own"
_STATE: Final = f"Use {_RESPONSES} with 'previous_response_id'; conversations need a route with state = \"gateway\"."
_OPERATOR: Final = "GET /v1/key says what a key may use and has left; the operator has the rest."
_IN_A_REQUEST: Final = f"Use {_RESPONSES} with the provider's hosted tools, which make what they need."
_OLDER: Final = "Use POST /v1/completions or POST /v1/chat/completions."

INSTEAD: Final[Mapping[str, str]] = MappingProxyType(
    {
        "answers": _OLDER,
        "assistants": _STATE,
        "audio": "Use POST /v1/audio/speech, transcriptions or translations.",
        "batches": _ONE_BY_ONE,
        "chat": f"Stored completions are not kept here: {_STATE}",
        "chatkit": f"Use {_RESPONSES}.",
        "classifications": _OLDER,
        "complete": "Use POST /v1/messages.",
        "containers": _IN_A_REQUEST,
        "conversations": _STATE,
        "dashboard": _OPERATOR,
        "edits": _OLDER,
        "embeddings": "Use POST /v1/embeddings.",
        "engines": _OLDER,
        "evals": f"Run the prompts through {_RESPONSES}, and grade the answers yourself.",
        "files": _IN_THE_REQUEST,
        "fine-tunes": f"{_AT_THE_PROVIDER}; the tuned model can be routed here.",
        "fine_tuning": f"{_AT_THE_PROVIDER}; the tuned model can be routed here.",
        "images": "Use POST /v1/images/generations, edits or variations.",
        "messages": f"{_ONE_BY_ONE} POST /v1/messages, and /v1/messages/count_tokens.",
        "moderations": "Use POST /v1/moderations.",
        "organization": _OPERATOR,
        "organizations": _OPERATOR,
        "projects": _OPERATOR,
        "realtime": f"Use POST /v1/audio/transcriptions, {_RESPONSES} and POST /v1/audio/speech in turn.",
        "search": "Use POST /v1/rerank, or POST /v1/embeddings and an index of your own.",
        "sessions": _STATE,
        "skills": _IN_A_REQUEST,
        "threads": _STATE,
        "uploads": _IN_THE_REQUEST,
        "usage": _OPERATOR,
        "vector_stores": "Use POST /v1/embeddings and an index of your own.",
        "videos": f"{_AT_THE_PROVIDER}.",
    }
)
"""The first part of a path of OpenAI's or Anthropic's API -> what to use instead of it."""


def refusal_of(method: str, path: str) -> GatewayError:
    """Returns the refusal of a method and a path that no route serves."""
    methods = methods_at(path)
    if methods:
        return wrong_method(method, path, methods)
    tidy, rest = tidied(path)
    instead = INSTEAD.get(rest.lstrip("/").partition("/")[0])
    if instead is not None and rest != tidy and not methods_at(f"/v1{rest}"):
        return not_served(method, path, instead)
    meant = nearby_path(path)
    hint = f" Did you mean {meant}?" if meant else ""
    return GatewayError("unknown_url", f"There is nothing at {method} {path}.{hint}")


def wrong_method(method: str, path: str, methods: tuple[str, ...]) -> GatewayError:
    """Returns the refusal of a method at a path that has others."""
    served = ", ".join(f"{one} {path}" for one in methods)
    allowed = (b"allow", ", ".join(methods).encode())
    return GatewayError("method_not_allowed", f"{method} {path} is not served here; {served} is.", headers=(allowed,))


def not_served(method: str, path: str, instead: str) -> GatewayError:
    """Returns the refusal of a provider's path that is not served here. `Allow` is empty (RFC 9110, 10.2.1)."""
    allowed: Header = (b"allow", b"")
    served = ", ".join(sorted({operation.route for operation in OPERATIONS if not operation.by_id}))
    message = f"{method} {path} is not served by this gateway. {instead} It serves {served}, and GET /v1/models."
    return GatewayError("method_not_allowed", message, headers=(allowed,))
