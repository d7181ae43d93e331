"""Request bytes -> Request, or the error that a provider answers.

| wrong                                    | status | code          | param            |
|------------------------------------------|--------|---------------|------------------|
| not a JSON object                        | 400    | invalid_json  |                  |
| no model, no input                       | 400    | missing_field | the field        |
| wrong type, out of range, bad behaviour  | 400    | invalid_field | the field        |

Only what the answer depends on is looked at. Every other field, known or not, is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.simulator.behaviours import BadModel, Behaviour, behaviour_of

JsonObject = dict[str, Any]
_MESSAGE_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class ProviderError(Exception):
    """An answer in the error format: `{"error": {message, type, param, code}}`."""

    def __init__(
        self, code: str, message: str, *, param: str = "", status: int = 400, type_: str = "invalid_request"
    ) -> None:
        """`status` is the HTTP status; `type_` the error's `type`."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.status = status
        self.type = type_

    def body(self) -> bytes:
        """The error body, as JSON bytes."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})

    def message_body(self, request_id: str) -> bytes:
        """Returns the error in the form of Anthropic's messages."""
        default = "invalid_request_error" if self.status < 500 else "api_error"  # noqa: PLR2004 - an HTTP class
        error = {"type": _MESSAGE_TYPES.get(self.status, default), "message": self.message}
        return orjson.dumps({"type": "error", "error": error, "request_id": request_id})


@dataclass(frozen=True, slots=True)
class Request:
    """One checked request. `fields` is the whole body; `items` its input as a list of items."""

    model: str
    behaviour: Behaviour
    stream: bool
    background: bool
    store: bool
    max_output_tokens: int | None
    items: tuple[JsonObject, ...]
    fields: JsonObject


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_text_settings(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("format"), dict | None)


def _is_tool_choice(value: object) -> bool:
    if not isinstance(value, dict):
        return isinstance(value, str)
    tools = value.get("tools") or []
    return isinstance(tools, list) and all(isinstance(tool, dict) and _is_string(tool.get("name")) for tool in tools)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_string(value: object) -> bool:
    return isinstance(value, str)


_RULES: Final[tuple[tuple[str, Callable[[object], bool], str], ...]] = (
    ("stream", _is_bool, "a boolean"),
    ("background", _is_bool, "a boolean"),
    ("store", _is_bool, "a boolean"),
    ("temperature", lambda value: _is_number(value, 0, 2), "a number from 0 to 2"),
    ("top_p", lambda value: _is_number(value, 0, 1), "a number from 0 to 1"),
    ("max_output_tokens", _is_count, "a positive integer"),
    ("tools", _is_objects, "an array of objects"),
    ("text", _is_text_settings, "an object, and its format too"),
    ("tool_choice", _is_tool_choice, "a string, or an object whose tools are objects with a name"),
    ("reasoning", _is_object, "an object"),
    ("instructions", _is_string, "a string"),
    ("previous_response_id", _is_string, "a string"),
)


def parse_request(body: bytes) -> Request:
    """Check one create-response body. Raises `ProviderError`."""
    fields = parse_object(body)
    model = fields.get("model")
    if model is None:
        raise ProviderError("missing_field", "model is required", param="model")
    if not isinstance(model, str) or not model:
        raise ProviderError("invalid_field", "model must be a non-empty string", param="model")
    try:
        behaviour = behaviour_of(model)
    except BadModel as error:
        raise ProviderError("invalid_field", str(error), param="model") from error
    items = input_items(fields)
    for name, holds, expected in _RULES:
        value = fields.get(name)
        if value is not None and not holds(value):
            raise ProviderError("invalid_field", f"{name} must be {expected}", param=name)
    return Request(
        model=model,
        behaviour=behaviour,
        stream=bool(fields.get("stream")),
        background=bool(fields.get("background")),
        store=fields.get("store") is not False,
        max_output_tokens=fields.get("max_output_tokens"),
        items=items,
        fields=fields,
    )


def parse_object(body: bytes) -> JsonObject:
    """The body as a JSON object. Raises `ProviderError`."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProviderError("invalid_json", f"The body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ProviderError("invalid_json", "The body must be a JSON object")
    return fields


def input_items(fields: JsonObject) -> tuple[JsonObject, ...]:
    """`input` as items: a string is one user message. Raises `ProviderError`."""
    value = fields.get("input")
    if value is None:
        raise ProviderError("missing_field", "input is required", param="input")
    if isinstance(value, str):
        return ({"type": "message", "role": "user", "content": value},)
    if not _is_objects(value):
        raise ProviderError("invalid_field", "input must be a string or an array of objects", param="input")
    return tuple(value)
