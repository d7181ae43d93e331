"""Embeddings (OpenAI API reference, Create embeddings).

Only input is counted, because the output consists of vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.protocol.dialects.dialect import AnswerFacts, Bounds, Dialect, Json, RequestForm, count, member
from gateway.protocol.dialects.openai_form import answer_facts, error_body, error_status
from gateway.protocol.dialects.request_fields import count_inputs

_COUNTS: Final = ("prompt_tokens", "input_tokens", "total_tokens")


def read_answer(body: Json) -> AnswerFacts:
    """Reads vectors. A usage of zeros counts as no usage, because some servers do not count."""
    usage = member(body, "usage")
    counted = usage is not None and any(count(usage.get(name)) for name in _COUNTS)
    return answer_facts(body, usage if counted else None)


def bounds(fields: Mapping[str, Any]) -> Bounds:
    """Returns the number of input tokens if the input consists of token ids."""
    return Bounds(input_tokens=count_inputs(fields.get("input"))[1])


EMBEDDINGS: Final = Dialect(
    "embeddings",
    RequestForm(frozenset({"model", "input"}), bounds, has_output=False),
    read_answer,
    error_body,
    error_status=error_status,
)
