"""The form of an error for which no operation, and so no dialect, is known. Path and headers decide it. Pure.

| caller                                                         | form        |
|----------------------------------------------------------------|-------------|
| requests /v1/messages or below, or sends `anthropic-version`   | Anthropic's |
| requests /v1/models, and sends its key in `x-api-key`          | Anthropic's |
| any other                                                      | OpenAI's    |

Anthropic's clients send `anthropic-version` with every request (API reference, Versions).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.errors import GatewayError, Header
from gateway.protocol.dialects import messages, openai_form
from gateway.protocol.dialects.dialect import Json

_MESSAGES: Final = "/v1/messages"
_MODELS: Final = "/v1/models"


def is_anthropic_client(path: str, headers: Iterable[Header]) -> bool:
    """Whether a caller uses Anthropic's API. The names in `headers` are in lower case."""
    if _is_below(path, _MESSAGES):
        return True
    names = {name for name, _ in headers}
    return b"anthropic-version" in names or (b"x-api-key" in names and _is_below(path, _MODELS))


def error_body(
    path: str, headers: Iterable[Header], error: GatewayError, request_id: str, *, numeric_codes: bool
) -> Json:
    """Returns the body of an error in the form of the caller's API."""
    form = messages.error_body if is_anthropic_client(path, headers) else openai_form.error_body
    return form(error, request_id, numeric_codes)


def _is_below(path: str, top: str) -> bool:
    return path.startswith(top) and path[len(top) : len(top) + 1] in ("", "/")
