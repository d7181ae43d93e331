"""Reads a provider's error, for the standard form: `{"error": {"message", "type", "param", "code"}}`. Pure.

Typed SDKs fail on anything else: a numeric `code`, an error that is a text, FastAPI's `detail`, a page. They then lose
the status as well. An error in the standard form is passed on unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from gateway.protocol.lenient_json import parse_json

MAX_ERROR_BYTES: Final = 64 * 1024
"""A longer body is not examined, because no error is so long."""
_MAX_MESSAGE_CHARACTERS: Final = 1000
_OPTIONAL: Final = ("type", "param", "code")


class ProviderError(NamedTuple):
    """A provider's error. A part that it does not state is ""."""

    message: str = ""
    type: str = ""
    param: str = ""
    code: str = ""


def is_standard(body: bytes) -> bool:
    """Whether typed SDKs can read an error. A body that is too long to be examined counts as readable."""
    if len(body) > MAX_ERROR_BYTES:
        return True
    value = _parsed(body)
    if isinstance(value, (list, str)):  # Google's list, a bare text: clients that know such a provider read it
        return True
    error = value.get("error") if isinstance(value, dict) else None
    return (
        isinstance(error, dict)
        and isinstance(error.get("message"), str)
        and all(error.get(name) is None or isinstance(error[name], str) for name in _OPTIONAL)
    )


def read_provider_error(body: bytes, media_type: bytes) -> ProviderError:
    """Reads an error in any other form."""
    value = _parsed(body) if len(body) <= MAX_ERROR_BYTES else None
    if value is None:
        is_page = media_type == b"text/html" or body.lstrip()[:1] == b"<"
        beginning = body[: 4 * _MAX_MESSAGE_CHARACTERS].decode("utf-8", "replace")
        return ProviderError("" if is_page else _short(beginning))
    if isinstance(value, dict):
        error = value.get("error")
        error_object = error if isinstance(error, dict) else value
        message = next(_messages(error_object, error if isinstance(error, str) else None), "")
        return ProviderError(_short(message), *(_text(error_object.get(name)) for name in _OPTIONAL))
    return ProviderError(_short(value if isinstance(value, str) else ""))


def _messages(error_object: dict[str, Any], text: str | None) -> Iterator[str]:
    if text:
        yield text
    for name in ("message", "detail", "msg", "error_description", "title", "reason"):
        value = error_object.get(name)
        if isinstance(value, str) and value:
            yield value
        elif isinstance(value, list):
            yield "; ".join(_of_detail(one) for one in value)
        elif isinstance(value, dict):
            yield from _messages(value, None)


def _of_detail(one: object) -> str:
    """Formats one of FastAPI's details: {"loc": ["body", "model"], "msg": "Field required"}."""
    if not isinstance(one, dict):
        return str(one)
    place = one.get("loc")
    where = ".".join(map(str, place)) + ": " if isinstance(place, list) else ""
    return f"{where}{one.get('msg') or one.get('message') or ''}"


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(value)


def _short(text: str) -> str:
    return " ".join(text.split())[:_MAX_MESSAGE_CHARACTERS]


def _parsed(body: bytes) -> Any:
    try:
        return parse_json(body)
    except ValueError:
        return None
