"""Embeddings (OpenAI API reference, Create embeddings): input alone is counted, and nothing is put out but vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.protocol.dialects.dialect import AnswerFacts, Bounds, Dialect, Json, RequestForm, count, member, text
from gateway.protocol.dialects.openai_form import error_body, error_in, error_status
from gateway.protocol.dialects.request_fields import written_tokens

_COUNTS: Final = ("prompt_tokens", "input_tokens", "total_tokens")


def read_answer(body: Json) -> AnswerFacts:
    """Vectors. A usage of zeros is none: some servers do not count."""
    usage = member(body, "usage")
    error = error_in(body)
    return AnswerFacts(
        usage if usage is not None and any(count(usage.get(name)) for name in _COUNTS) else None,
        "failed" if error is not None else "completed",
        text(body.get("id")),
        error=error,
    )


def bounds(fields: Mapping[str, Any]) -> Bounds:
    """Token ids are a token each, however many digits they have."""
    return Bounds(input_tokens=written_tokens(fields.get("input"))[1])


EMBEDDINGS: Final = Dialect(
    "embeddings",
    RequestForm(frozenset({"model", "input"}), bounds, has_output=False),
    read_answer,
    error_body,
    error_status=error_status,
)
