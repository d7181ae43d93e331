"""Moderations (OpenAI API reference, Create moderation). Answers without a usage are priced per request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.protocol.dialects.dialect import AnswerFacts, Bounds, Dialect, Json, RequestForm, member
from gateway.protocol.dialects.openai_form import answer_facts, error_body, error_status


def read_answer(body: Json) -> AnswerFacts:
    """Reads a verdict. Without a reported usage nothing is counted, so that the usage is empty and not unknown."""
    return answer_facts(body, member(body, "usage") or {})


def bounds(_: Mapping[str, Any]) -> Bounds:
    """Returns no bounds, because there is no output."""
    return Bounds()


MODERATIONS: Final = Dialect(
    "moderations",
    RequestForm(
        frozenset({"model", "input"}),
        bounds,
        has_output=False,
        image=b'"image_url"',
        default_model="omni-moderation-latest",
    ),
    read_answer,
    error_body,
    error_status=error_status,
)
