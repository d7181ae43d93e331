"""What OpenAI's dialects share: the error body, the format of events, and errors in answers with status 200."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.protocol.dialects.dialect import AnswerFacts, Json, Origin, StreamFacts, StreamSummary, count, text
from gateway.protocol.lenient_json import id_text

DONE: Final = b"data: [DONE]\n\n"
ERROR_EVENT: Final = re.compile(rb'event: ?error|"error"\s*:\s*[^\sn]|"type"\s*:\s*"error"|"object"\s*:\s*"error"')
"""Finds what may be an error. Parsing decides."""
_MAX_FACT_LENGTH: Final = 256

ERROR_STATUSES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "bad_request": 400,
        "bad_request_error": 400,
        "context_length_exceeded": 400,
        "data_inspection_failed": 400,
        "invalid_parameter": 400,
        "invalid_request": 400,
        "invalid_request_error": 400,
        "invalid_url": 400,
        "authentication_error": 401,
        "invalid_api_key": 401,
        "unauthorized": 401,
        "arrearage": 402,
        "billing_error": 402,
        "access_denied": 403,
        "permission_denied": 403,
        "permission_error": 403,
        "model_not_found": 404,
        "not_found": 404,
        "not_found_error": 404,
        "request_timeout": 408,
        "timeout": 408,
        "request_too_large": 413,
        "insufficient_quota": 429,
        "limit_requests": 429,
        "rate_limit_error": 429,
        "rate_limit_exceeded": 429,
        "throttling": 429,
        "too_many_requests": 429,
        "api_error": 500,
        "internal_error": 500,
        "internal_server_error": 500,
        "server_error": 500,
        "system_error": 500,
        "provider_unavailable": 502,
        "model_unavailable": 503,
        "service_unavailable": 503,
        "timeout_error": 504,
        "overloaded_error": 529,
    }
)
"""Values of `type` or `code` in errors, and the HTTP status that each stands for.

Providers write them as "rate_limit_error", as "InternalServerError", and as "Throttling.RateQuota".
"""
_NO_LETTER: Final = re.compile(r"[^a-z]")
_STATUSES: Final = MappingProxyType({_NO_LETTER.sub("", word): status for word, status in ERROR_STATUSES.items()})


def error_body(error: GatewayError, request_id: str, numeric_codes: bool) -> Json:  # noqa: FBT001 - the signature of Dialect.error_body
    """Returns the error body of OpenAI's API."""
    del request_id
    return dict(error.body(numeric_codes=numeric_codes))


def error_in(body: Json, name: str = "") -> Json | None:
    """Returns the error that a JSON value is or contains, or None. `name` is that of its event."""
    error = body.get("error")
    if isinstance(error, dict) and error:
        return error
    if error and not isinstance(error, bool):
        return {**body, "message": str(error)}
    if name == "error" or body.get("object") == "error" or body.get("type") == "error":
        return body
    if "choices" not in body and text(body.get("message")) is not None and body.get("code"):
        return body  # DashScope's form: {"code": "InvalidParameter", "message": ..., "request_id": ...}
    return None


def answer_facts(body: Json, usage: Json | None) -> AnswerFacts:
    """Returns the facts of a JSON answer with this usage, which is either complete or an error."""
    error = error_in(body)
    return AnswerFacts(usage, "completed" if error is None else "failed", id_text(body.get("id")), error=error)


def note_failure(facts: StreamFacts, body: Json, name: str) -> bool:
    """Notes the error that an event is or contains, and that ends its stream. Returns whether there is one."""
    error = error_in(body, name)
    if error is None:
        return False
    facts.fail(error)
    facts.end("failed", "error")
    return True


def error_status(error: Json) -> int | None:
    """Returns the HTTP status that an error stands for, by a number or a type in it, or None."""
    for name in ("status", "status_code", "http_status", "code"):
        value = error.get(name)
        number = int(value) if isinstance(value, str) and value.isdecimal() else count(value)
        if number is not None and 400 <= number < 600:  # noqa: PLR2004 - the range of HTTP errors
            return number
    metadata = error.get("metadata")
    words = [error.get("type"), error.get("code"), metadata.get("error_type") if isinstance(metadata, dict) else None]
    parts = [part for word in words if isinstance(word, str) for part in (word, *word.split("."))]
    return next((_STATUSES[name] for part in parts if (name := _NO_LETTER.sub("", part.lower())) in _STATUSES), None)


def note_facts(facts: StreamFacts, body: Json) -> None:
    """Notes the short scalar fields of an answer, which identify it and select its rates."""
    for name, value in body.items():
        if isinstance(value, str | int | float) and value and len(str(value)) <= _MAX_FACT_LENGTH:
            facts.answer[name] = value
    if facts.response_id is None:
        facts.response_id = id_text(body.get("id"))


def frame(body: Mapping[str, Any], name: str = "") -> bytes:
    """Returns one event in ASCII JSON. The standard library writes it, because it also accepts lone surrogates."""
    data = json.dumps(body, separators=(",", ":"))
    return (f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n").encode("ascii")


def has_ended(summary: StreamSummary) -> bool:
    """Whether the client knows how the answer ended."""
    return summary.ended is not None or summary.done or summary.error is not None


def close_broken(summary: StreamSummary, error: GatewayError, origin: Origin) -> bytes:
    """Returns an `error` event, which SDKs raise. Returns nothing if the stream has ended already."""
    if has_ended(summary):
        return b""
    body = {"type": "error", **error_body(error, origin.request_id, False)}  # noqa: FBT003 - codes as words
    return frame(body, "error")


def close_capped(summary: StreamSummary, origin: Origin) -> bytes:
    """Returns an error, because images, audio and transcripts that are cut are not valid answers."""
    error = GatewayError("upstream_invalid_response", "The answer costs more than this request holds.")
    return close_broken(summary, error, origin)
