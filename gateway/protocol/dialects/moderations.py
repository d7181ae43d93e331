"""Moderations (OpenAI API reference, Create moderation). Where no usage is reported, the request alone is priced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.protocol.dialects.dialect import AnswerFacts, Bounds, Dialect, Json, RequestForm, member
from gateway.protocol.dialects.openai_form import answer_of, error_body, error_status


def read_answer(body: Json) -> AnswerFacts:
    """Reads a verdict. Nothing is reported because nothing is counted: the usage is empty, not unknown."""
    return answer_of(body, member(body, "usage") or {})


def bounds(_: Mapping[str, Any]) -> Bounds:
    """Only the input costs anything, where its provider counts it."""
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
